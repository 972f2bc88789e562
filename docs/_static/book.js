// What the pages do: boxes that scroll are reached by the keyboard, and a long table is filtered as one types.
function reachable() {
  for (const box of document.querySelectorAll(".plot, .output_subarea"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
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

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.coverage").forEach(filtered);
  reachable();
});
addEventListener("load", reachable);
addEventListener("resize", reachable);
