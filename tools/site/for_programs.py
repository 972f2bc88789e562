"""The site for programs that read: each page as Markdown beside its HTML, and llms.txt, which lists them."""

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from recorded import ROOT

COMMENTS = re.compile(r"<!--.*?-->\n*", re.DOTALL)
ANCHOR = re.compile(r'<a id="([^"]*)"></a>\n+')
LED_TO = re.compile(r"\]\([^()\s]*#([^()\s]+)\)")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
LINK, NAME = re.compile(r"\[(.+?)\]\(.*?\)"), r"\1"
LISTED = re.compile(r"^   (plot_\w+)$", re.MULTILINE)
HEAD = """\
# decodeloop

> An executable book about running a large language model, from a prompt to an ONNX model. Each page is a Python script,
> and every number on it was measured when it ran, on the machine that it names.
"""
#: The pages beside the gallery, in this order.
OTHERS = ("which", "how_we_measure", "measured_on", "benchmarks", "coverage", "promises", "design", "glossary", "api")


def write_markdown(sphinx: list, folder: Path, environment: dict[str, str]) -> None:
    """Build the pages in ``folder``, of which the HTML is built, as Markdown: from its doctrees, so that nothing runs.

    Without warnings, which the HTML's build has given: Markdown has no words for some of what a page shows.
    """
    made = folder / "markdown"
    subprocess.run([*sphinx, "-b", "markdown", "-Q", made], env=environment, check=True)
    texts = {path.relative_to(made): path.read_text(encoding="utf-8") for path in sorted(made.rglob("*.md"))}
    anchors = {name for text in texts.values() for name in LED_TO.findall(text)}
    for path, text in texts.items():
        (folder / "html" / path).write_text(plain(text, anchors), encoding="utf-8")
    shutil.rmtree(made)
    (folder / "html" / "llms.txt").write_text(listing(folder / "html"), encoding="utf-8")


def plain(text: str, anchors: Collection[str] = ()) -> str:
    """A page's Markdown without what only the build needs: comments, and all but those ``anchors`` that links lead to.

    Its links lead to Markdown, downloads to the HTML's.
    """
    return ANCHOR.sub(lambda found: found[0] if found[1] in anchors else "", COMMENTS.sub("", text))


def listing(site: Path, root: Path = ROOT) -> str:
    """The text of llms.txt: the pages in the order in which to read them, each with its first paragraph."""
    pages = LISTED.findall((root / "gallery" / "index.rst").read_text(encoding="utf-8"))
    lines = [HEAD, "## Pages", ""]
    lines += [entry(site, f"auto_gallery/{page}.md") for page in pages]
    lines += ["", "## Beside them", ""]
    lines += [entry(site, f"{page}.md") for page in OTHERS if (site / f"{page}.md").exists()]
    return "\n".join(lines) + "\n"


def entry(site: Path, name: str) -> str:
    text = (site / name).read_text(encoding="utf-8")
    title = TITLE.search(text)
    after = text[title.end() :] if title else text
    prose = (" ".join(part.split()) for part in after.split("\n\n") if re.match(r"[A-Z*`\[]", part.lstrip()))
    first = next((part for part in prose if not part.startswith("[`") and part.endswith((".", ":"))), "")

    return f"- [{title[1] if title else name}]({name}): {LINK.sub(NAME, first)}"
