"""The downloads of a page, made so that they stand alone: the notebook, the script, and the archives of both.

Sphinx-Gallery writes them before the site is known. Here they are written again when it is: the notebook begins with
what to install and links to the site, and the script prints and shows what a notebook shows of a cell's last line.
"""

import ast
import re
from pathlib import Path

from measured import number, read_runs
from references import Site, admonitions, tables

INSTALL = """\
# Installs what this page needs, if it is not there: for an NVIDIA GPU where there is one, else for a CPU.
import importlib.util
import shutil
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars are text
device = "cuda" if shutil.which("nvidia-smi") else "cpu"
if importlib.util.find_spec("decodeloop") is None:
    %pip install --quiet "decodeloop[{{device}},gguf,grammar] @ git+{repository}" matplotlib pandas"""
BEFORE = """\
This notebook is the page {page} of decodeloop. The next cell installs what it needs, where that is not there yet: with
`decodeloop[cpu]` on a machine without an NVIDIA GPU, with `decodeloop[cuda]` on one that has it, and never with both,
since they hold the same files.
{times}"""
#: What a plot's line is called with; its value says nothing.
DRAWING = re.compile(
    r"(plt|ax|axes|fig|figure|left|right)\b.*|.*\.(plot|plot\.\w+|hist|legend|set_\w*label)\(.*\)", re.DOTALL
)
IMPORT = "import matplotlib.pyplot as plt\n\n"
SHOW = """

# A notebook shows figures by itself, a script when it is asked to.
plt.show()
"""


given: dict[Path, str] = {}  # the scripts as they were run


def write_downloads(app, env) -> None:
    """Write the downloads of all pages anew, before Sphinx copies them to the site."""
    from sphinx_gallery.downloads import generate_zipfiles
    from sphinx_gallery.notebook import save_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks
    from sphinx_gallery.utils import zip_files

    folder, conf = Path(app.srcdir, "auto_gallery"), app.config
    if app.builder.format != "html" or not folder.exists():
        return
    site = Site(env, conf.html_baseurl, app.builder.out_suffix)
    for script in sorted(folder.glob("plot_*.py")):
        blocks = split_code_and_text_blocks(script)[1]
        notebook = script.with_suffix(".ipynb")
        save_notebook(notebook_of(script.stem, blocks, site, conf, times(script.stem, folder)), notebook)
        given[script] = source = script.read_text(encoding="utf-8")
        script.write_text(script_of(source, blocks), encoding="utf-8")
        zip_files([str(script), str(notebook)], script.with_suffix(".zip"), folder)
    generate_zipfiles(folder, app.srcdir, conf.sphinx_gallery_conf)


def restore_scripts(app, exception) -> None:
    """Leave the scripts as they were run, which is how Sphinx-Gallery knows that it need not run them again."""
    for script, source in given.items():
        script.write_text(source, encoding="utf-8")


def notebook_of(page: str, blocks: list, site: Site, conf, times: str) -> dict:
    """A notebook whose text is Markdown, after two cells that say what it needs."""
    from sphinx_gallery.notebook import add_code_cell, add_markdown_cell, jupyter_notebook

    here = f"auto_gallery/{page}"
    blocks = [
        (kind, quiet(text) if kind == "code" else site.markdown(tables(admonitions(text)), here), line)
        for kind, text, line in blocks
    ]
    notebook = jupyter_notebook(blocks, conf.sphinx_gallery_conf, conf.sphinx_gallery_conf["src_dir"])
    cells, notebook["cells"] = notebook["cells"], []
    title = site.titles.get(here, page)
    link = f"[{title}]({site.url(here, '')})" if site.address else f'"{title}"'
    add_markdown_cell(notebook, BEFORE.format(page=link, times=times).strip() + "\n")
    add_code_cell(notebook, INSTALL.format(repository=conf.html_context["repository"]))
    notebook["cells"] += cells
    notebook["nbformat_minor"] = 5  # where each cell has a name, which tools compare versions by
    for index, cell in enumerate(notebook["cells"]):
        cell["source"] = ["".join(cell["source"]).strip()]
        cell["id"] = f"cell-{index}"
    return notebook


def times(page: str, folder: Path) -> str:
    """How long the page took where it was run, a sentence; nothing where nobody knows."""
    runs = read_runs(page, folder)
    told = [f"{number(facts['time'])} seconds on {name}" for name, facts in runs.items() if facts["time"]]
    return f"It took {', '.join(told)}." if told else ""


def script_of(source: str, blocks: list) -> str:
    """A page's script that prints what a notebook shows of the last line of a cell, and shows its figures."""
    lines = source.encode().splitlines(keepends=True)  # ast counts bytes
    for kind, text, first in reversed(blocks):
        if kind != "code" or not (body := ast.parse(text).body) or not shown(last := body[-1]):
            continue
        start, end = (first - 2 + number for number in (last.lineno, last.end_lineno))
        lines[end] = lines[end][: last.end_col_offset] + b")" + lines[end][last.end_col_offset :]
        lines[start] = b"print(" + lines[start]
    script = b"".join(lines).decode()
    if "plt." not in script and ".plot(" not in script:
        return script
    return script + (SHOW if IMPORT[:-2] in script else SHOW.replace("plt", IMPORT + "plt", 1))


def shown(statement: ast.stmt) -> bool:
    """Whether a notebook shows the value of a cell's last statement, and no plot does so already."""
    if not isinstance(statement, ast.Expr) or isinstance(statement.value, (ast.Constant, ast.Await)):
        return False
    text = ast.unparse(statement.value)
    return not text.startswith("print(") and not DRAWING.fullmatch(text)


def quiet(code: str) -> str:
    """A cell that does not show what the last call to a plot returned."""
    body = ast.parse(code).body
    drawn = body and isinstance(body[-1], ast.Expr) and DRAWING.fullmatch(ast.unparse(body[-1].value))
    return f"{code.rstrip()};" if drawn and not code.rstrip().splitlines()[-1].count("#") else code


def setup(app) -> dict:
    app.connect("env-updated", write_downloads)
    app.connect("build-finished", restore_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
