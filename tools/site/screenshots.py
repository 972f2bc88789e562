"""Pictures of the site: what the README shows of it, and how it looks on a desk and on a phone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

#: From the last table before a page's first plot, to the end of the plot; the window if it has no plot.
TABLE_AND_PLOT = """() => {
  const plot = document.querySelector(".bd-article .plot");
  if (!plot) return null;
  const tables = [...document.querySelectorAll(".bd-article .output_subarea")];
  const above = tables.filter((each) => each.compareDocumentPosition(plot) & Node.DOCUMENT_POSITION_FOLLOWING);
  const [first, last] = [above.pop() || plot, plot].map((each) => each.getBoundingClientRect());
  return { x: Math.max(0, last.left - 8), y: first.top + scrollY - 8, width: last.width + 16,
    height: last.bottom - first.top + 16 };
}"""
#: By the picture's name: the page, the window's width, the theme, and what of the page is shown.
SHOTS = {
    "page.png": ("auto_gallery/plot_generate.html", 760, "light", TABLE_AND_PLOT),
    "desk.png": ("index.html", 1360, "light", None),
    "desk-dark.png": ("auto_gallery/plot_generate.html", 1360, "dark", None),
    "phone.png": ("auto_gallery/plot_generate.html", 390, "dark", TABLE_AND_PLOT),
}


def take(opened: Callable[..., AbstractContextManager], folder: Path) -> list[Path]:
    """Write the pictures to a folder; ``opened(width, theme)`` gives a tab whose address is the site's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (page, width, theme, shown) in SHOTS.items():
        with opened(width, theme) as (tab, address):
            tab.goto(address + page, wait_until="load")
            clip = tab.evaluate(shown) if shown else None
            tab.screenshot(path=folder / name, clip=clip, full_page=clip is not None)
    return [folder / name for name in SHOTS]
