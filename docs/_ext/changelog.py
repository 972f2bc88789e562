"""The page "Changelog": CHANGELOG.md as rst. It holds headings, lists, code and links, and no more."""

import re
from pathlib import Path

from recorded import ROOT

HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
CODE = re.compile(r"`([^`]+)`(?=(\w?))")
LINES = "=-~^"


def as_rst(markdown: str) -> str:
    """The same text; each heading underlined by its depth."""
    text = CODE.sub(lambda found: f"``{found[1]}``" + ("\\ " if found[2] else ""), markdown)  # no letter touches it
    text = LINK.sub(r"`\1 <\2>`__", text)
    return HEADING.sub(lambda found: f"{found[2]}\n{LINES[len(found[1]) - 1] * len(found[2])}", text)


def write_changelog(app) -> None:
    text = as_rst((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    Path(app.srcdir, "changelog.rst").write_text(text, encoding="utf-8")


def setup(app) -> dict:
    app.connect("builder-inited", write_changelog)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
