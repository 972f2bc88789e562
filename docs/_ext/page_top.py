"""What stands at the top of a page: its downloads, how long it takes to read, and where it ran for how long.

And where the link "Edit" leads to: the file that a page is made from, which is not always one of docs/.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

from measured import number, read_runs
from reading import read_page
from recorded import ROOT

#: Sphinx-Gallery's own line, which leads to the downloads at the end.
NOTE = re.compile(
    r"\.\. only:: html\n\n    \.\. note::\n        :class: sphx-glr-download-link-note\n(?:\n|        .*\n)+"
)
TITLE = re.compile(r"^(=+)\n.+\n\1\n", re.MULTILINE)
COLAB = "https://colab.research.google.com/github/{folder}/{page}.ipynb"
#: Pages that the build writes, and what from.
WRITTEN = {
    "changelog": "CHANGELOG.md",
    "benchmarks": "benchmarks/results",
    "measured_on": "docs/_ext/measured_on.py",
    "which": "docs/which.toml",
    "auto_gallery/index": "gallery/index.rst",
}


def with_top(text: str, page: str, folder: Path, colab: str) -> str:
    """The rst of a page, ``folder`` being where it lies, with these lines below its title."""
    ends = {"Notebook": "ipynb", "Script": "py", "Both": "zip"}
    links = [f":download:`{name} <{page}.{end}>`" for name, end in ends.items()]
    links += [f"`Open in Colab <{COLAB.format(folder=colab, page=page)}>`__"] if colab else []
    facts = [f"{max(1, round(read_page(folder / f'{page}.py').minutes))} minutes to read"]
    for name, run in list(read_runs(page, folder).items())[:1]:
        seconds = f"in {number(run['time'])} s " if run["time"] else ""
        facts.append(f"ran {seconds}on {run['device'] if run['device'] != 'cpu' else name.partition(' (')[0]}")
    lines = "".join(f"   {line}\n" for line in [*links, "", " · ".join(facts)])
    top = f"\n.. container:: page-top\n\n{lines}\n"
    return TITLE.sub(lambda found: found[0] + top, NOTE.sub("", text, count=1), count=1)


def source_of(page: str) -> str:
    """The file or folder of the repository that a page of the site is made from; nothing for Sphinx's own pages."""
    if page in WRITTEN:
        return WRITTEN[page]
    if page.startswith("auto_gallery/plot_"):
        return f"gallery/{page.partition('/')[2]}.py"
    if page.startswith("generated/"):
        found = inspect.getsourcefile(inspect.unwrap(named(page.partition("/")[2])))
        return Path(found).resolve().relative_to(ROOT).as_posix() if found else ""
    return f"docs/{page}.rst" if (ROOT / "docs" / f"{page}.rst").exists() else ""


def named(path: str):
    """The object of a dotted path."""
    module, rest = path, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            rest.insert(0, name)
    for name in rest:
        found = getattr(found, name)
    return found


def description(script: Path) -> str:
    """The first paragraph of a page, without markup: what a search engine shows of it."""
    paragraphs = re.split(r"\n\s*\n", ast.get_docstring(ast.parse(script.read_bytes())) or "")
    prose = [" ".join(each.split()) for each in paragraphs if not re.match(r"\.\. |=+\n", each)]
    plain = [re.sub(r":\w+:`~?([^`<]+?)(?: *<[^>]*>)?`|`+([^`]+)`+|\*([^*]+)\*", r"\1\2\3", each) for each in prose]
    return plain[0] if plain else ""


def add_source(app, page: str, template: str, context: dict, doctree) -> None:
    context["source_file"] = source_of(page)


def add_top(app, document: str, content: list[str]) -> None:
    page = document.removeprefix("auto_gallery/")
    if page.startswith("plot_"):
        folder = Path(app.srcdir, "auto_gallery")
        text = with_top(content[0], page, folder, app.config.html_context["colab"])
        told = description(folder / f"{page}.py")
        content[0] = f":og:description: {told}\n\n.. meta::\n   :description: {told}\n\n{text}"


def setup(app) -> dict:
    app.connect("source-read", add_top, priority=900)  # what it begins with comes first in the file
    app.connect("html-page-context", add_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
