"""What ``gallery/index.rst`` says of the pages, and the pages of themselves."""

import re
from collections.abc import Iterable
from pathlib import Path

from recorded import ROOT

TITLE = re.compile(r"^(=+)\n(.+)\n\1$", flags=re.MULTILINE)
DRAWING = re.compile(r"/drawings/[\w-]+\.svg")


def listed(lines: Iterable[str]) -> dict[str, str]:
    """What each page is about, by its name, of the lines ``plot_x: what it is about.``; a text may go on below."""
    pages: dict[str, str] = {}
    for line in filter(None, map(str.strip, lines)):
        if begins := re.match(r"(plot_\w+): (.+)", line):
            page, pages[begins[1]] = begins[1], begins[2]
        else:
            pages[page] += f" {line}"
    return pages


def face(page: str, script: Path, gallery: Path = ROOT / "gallery") -> tuple[str, str]:
    """A page's title, and the image that stands for it: also where the page was recorded before it had a drawing."""
    shown, now = (path.read_text(encoding="utf-8") for path in (script, gallery / script.name))
    drawing = DRAWING.search(shown) or DRAWING.search(now)
    plot = f"/auto_gallery/images/thumb/sphx_glr_{page}_thumb.png"
    return TITLE.search(shown)[2].strip(), drawing[0] if drawing else plot
