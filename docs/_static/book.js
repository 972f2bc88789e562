// What the pages do: boxes that scroll are reached by the keyboard and fade where they go on, a long table is filtered
// as one types, and a phone's menu opens at the page that is read.
const BOXES = ".plot, .output_subarea, .pst-scrollable-table-container";

function reachable() {
  for (const box of document.querySelectorAll(BOXES)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    fade(box);
  }
}

function fade(box) {
  box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
}

function filtered(table) {
  const rows = [...table.tBodies[0].rows];
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  for (const row of rows) [...row.cells].forEach((cell, index) => (cell.dataset.name = names[index]));
  const box = document.createElement("div");
  box.className = "coverage-filter";
  box.innerHTML = '<label>Filter: <input type="search" placeholder="llama, refused, ..." /></label><output></output>';
  const [input, count] = [box.querySelector("input"), box.querySelector("output")];
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  input.addEventListener("input", show);
  show();
  (table.closest(".pst-scrollable-table-container") || table).before(box);
}

function showCurrent(menu) {
  menu.querySelector('.bd-sidenav [aria-current="page"]')?.scrollIntoView({ block: "center" });
}

document.addEventListener("DOMContentLoaded", () => {
  const menu = document.getElementById("pst-primary-sidebar-modal");
  if (menu) {
    new MutationObserver(() => menu.open && showCurrent(menu)).observe(menu, { attributeFilter: ["open"] });
  }
  document.querySelectorAll("table.coverage").forEach(filtered);
  for (const box of document.querySelectorAll(BOXES)) box.addEventListener("scroll", () => fade(box), { passive: true });
  reachable();
});
addEventListener("load", reachable);
addEventListener("resize", reachable);
