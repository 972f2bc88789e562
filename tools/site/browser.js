// What a page is asked, in the browser: its smallest figure text is `points` at 100 pixels to the inch.
([points, smallest]) => {
  const found = { sideways: [], small: [], bytes: 0, paint: 0 };
  // The page, and the theme's column of text, which scrolls when something in it is too wide.
  const column = document.querySelector(".bd-article-container");
  for (const box of [document.documentElement, column].filter(Boolean)) {
    if (box.scrollWidth <= box.clientWidth + 1) continue;
    const wide = [...box.querySelectorAll("*")].filter((each) => {
      if (each.getBoundingClientRect().right <= box.clientWidth + 1) return false;
      for (let above = each.parentElement; above && above !== box; above = above.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(above).overflowX)) return false;
      return true;
    });
    const named = wide.length ? `${wide[0].tagName.toLowerCase()}.${wide[0].className}` : "something";
    found.sideways.push(`${named} makes it ${box.scrollWidth} pixels wide`);
    break;
  }
  const plot = /(hero|sphx_glr_plot_.*_\d+(_2_00x)?|measured_on_.*|benchmarks_.*)\.png$/;
  for (const image of document.querySelectorAll(".bd-article img")) {
    const full = parseFloat(image.style.getPropertyValue("--width")) || image.naturalWidth;
    const text = (points * 100 * image.clientWidth) / 72 / full;
    if (plot.test(image.currentSrc) && image.clientWidth && text < smallest - 0.05)
      found.small.push(`${image.currentSrc.split("/").pop()}: ${text.toFixed(1)} px`);
  }
  // What all pages share is in _static, and loaded once.
  for (const kind of ["navigation", "resource"])
    for (const entry of performance.getEntriesByType(kind))
      if (!entry.name.includes("/_static/") && !entry.name.endsWith("searchindex.js"))
        found.bytes += entry.encodedBodySize;
  found.paint = (performance.getEntriesByName("first-contentful-paint")[0] || {}).startTime || 0;
  return found;
};
