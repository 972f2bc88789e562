"""What the theme, Sphinx-Gallery and pandas leave undone in the HTML: names, sizes, and room for what is wide."""

import html
import re
from pathlib import Path

from PIL import Image

VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')
THUMBNAIL = re.compile(
    r'(<div class="sphx-glr-thumbcontainer".*?<a class="reference internal" )(.*?<span class="doc">)(.*?)(</span>)',
    re.S,
)
EMPTY_HEADER = re.compile(r"<th([^>]*)>(?:\s*<p>\s*</p>)?\s*</th>")
SIGNATURE = re.compile(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)
DEFINITION = re.compile(r"(</?)dd>")
SEARCH = re.compile(r'(<button type="button" class="btn search-button-field[^>]*?) aria-label="[^"]*"')
PLOT = re.compile(r'<img (?P<before>[^>]*?src="(?P<src>[^"]*\.png)"[^>]*?)\s*/?>')
OUTPUT = re.compile(
    r'<div class="sphx-glr-script-out highlight-none notranslate"><div class="highlight"><pre>.*?</pre></div>\s*</div>',
    re.DOTALL,
)
#: The cell that a page tells its readers to skip: it is there, and they need not scroll past it.
SETUP = re.compile(
    r"(in\s+this\s+cell\s+is\s+the\s+topic;\s+skip\s+it.*?)"
    r'(<div class="highlight-Python notranslate"><div class="highlight"><pre>.*?</pre></div>\s*</div>)',
    re.DOTALL,
)
#: A link from source code to the reference, whose page names what it is of.
REFERENCE = re.compile(r'(href="[./]*generated/(?P<page>[\w.]+)\.html)#(?!(?P=page)\b)[\w.]+"')
LONGEST = 24  # lines of an output that is shown at once
#: Plots that the pages or the build drew: by their files' names, so that those in a text written by hand count too.
DRAWN = re.compile(r"/(hero|sphx_glr_plot_\w+?_\d{3}|(measured_on|benchmarks)_[\w-]+)\.png$")


def finish(text: str, page: Path) -> str:
    """A page's HTML, mended; ``page`` is where it lies."""
    first = VIEWPORT.search(text)
    text = VIEWPORT.sub(lambda found: found[0] if found.start() == first.start() else "", text)
    # A thumbnail's title hides in its link, since it stands below it again.
    text = THUMBNAIL.sub(lambda f: f'{f[1]}aria-label="{html.escape(strip(f[3]))}" {f[2]}{f[3]}{f[4]}', text)
    # An empty header names nothing.
    text = EMPTY_HEADER.sub(r"<td\1></td>", text)
    # A long signature, one parameter a line, is no list of definitions.
    text = SIGNATURE.sub(lambda found: '<ul class="signature">' + DEFINITION.sub(r"\1li>", found[1]) + "</ul>", text)
    # The button shows "Search" and the keys, and is read out as it is shown.
    text = SEARCH.sub(r'\1 aria-label="Search Ctrl+K"', text)
    text = OUTPUT.sub(folded, text)
    text = SETUP.sub(lambda found: f"{found[1]}{behind(found[2], f'Setup, {lines(found[2])} lines')}", text, count=1)
    # An object that is imported elsewhere has its place under one of its names.
    text = REFERENCE.sub(r'\1"', text) if "_modules" in page.parts else text
    return PLOT.sub(lambda found: plot(found, page), text)


def folded(found: re.Match) -> str:
    """A long output behind a line that says how long it is."""
    long = lines(found[0])
    return behind(found[0], f"{long} lines of output") if long > LONGEST else found[0]


def behind(block: str, summary: str) -> str:
    """A block that opens when it is asked for."""
    return f'<details class="long-output"><summary>{summary}</summary>{block}</details>'


def lines(block: str) -> int:
    return block.partition("<pre>")[2].partition("</pre>")[0].count("\n")


def strip(text: str) -> str:
    """HTML's text."""
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def plot(found: re.Match, page: Path) -> str:
    """A plot with its size, so that nothing moves while it loads, in a box that scrolls before it gets too small."""
    path = page.parent / found["src"]
    if not DRAWN.search(found["src"]) or not path.exists():
        return found[0]
    with Image.open(path) as image:
        dots = image.info.get("dpi", (100, 100))[0] / 100  # saved with more, to be sharp
        width, height = (round(length / max(dots, 1)) for length in image.size)
    before, style = found["before"], f'style="--width: {width}px'
    before = before.replace('style="', f"{style}; ") if 'style="' in before else f'{before} {style}"'
    return f'<span class="plot"><img {before} width="{width}" height="{height}" /></span>'


def finish_all(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        if (after := finish(before, path)) != before:
            path.write_text(after, encoding="utf-8")
    if address := app.config.html_baseurl:
        robots = f"User-agent: *\nAllow: /\nDisallow: /_modules/\nSitemap: {address}sitemap.xml\n"
        Path(app.outdir, "robots.txt").write_text(robots, encoding="utf-8")


def escape_alt(app, doctree, document: str) -> None:
    """Sphinx-Gallery writes a plot's alternative text as it is: a quotation mark would end it."""
    from sphinx_gallery.directives import imgsgnode

    if app.builder.format == "html":
        for node in doctree.findall(imgsgnode):
            node["alt"] = html.escape(node["alt"])


def setup(app) -> dict:
    app.connect("doctree-resolved", escape_alt)
    app.connect("build-finished", finish_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
