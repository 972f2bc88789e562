"""What a page's downloads hold: Markdown that links to the site, and a script that shows what a notebook shows."""

import json
import subprocess
import sys
from types import SimpleNamespace

import downloads
import notebooks
import pytest
from references import Site, admonitions, tables

PAGE = '''"""
.. _l-plot-x:

A title
=======

Read :ref:`l-plot-kv`, and :func:`~decodeloop.generate` (:func:`decodeloop.gone`) of a :term:`prompt`.

.. admonition:: Trap
   :class: warning

   Two
   lines.
"""

import pandas

frame = pandas.DataFrame({"a": [1]})
frame.rename_axis(
    "row"
)  # as it is

# %%
# A plot
# ======

ax = frame.plot(title="drawn")
ax.legend()

# %%
# Another
# =======

frame.plot.barh(title="drawn")

# %%
# Text
# ====

text = "é"
print(text)
'''


@pytest.fixture
def site():
    entry = SimpleNamespace(docname="generated/decodeloop.generate", node_id="decodeloop.generate")
    python = SimpleNamespace(objects={"decodeloop.generate": entry})
    standard = SimpleNamespace(
        labels={"l-plot-kv": ("auto_gallery/plot_kv", "l-plot-kv", "The cache?")},
        objects={("term", "Prompt"): ("glossary", "term-Prompt")},
    )
    titles = {"auto_gallery/plot_x": SimpleNamespace(astext=lambda: "A title")}
    domains = {"std": standard, "py": python}
    return Site(SimpleNamespace(get_domain=domains.get, titles=titles), "https://book.org/")


@pytest.fixture
def blocks(tmp_path):
    parser = pytest.importorskip("sphinx_gallery.py_source_parser")
    (tmp_path / "plot_x.py").write_text(PAGE, encoding="utf-8")
    return parser.split_code_and_text_blocks(tmp_path / "plot_x.py")[1]


def test_references_become_links_to_the_site(site):
    here = "auto_gallery/plot_x"
    kept = "[The cache?](https://book.org/auto_gallery/plot_kv.html#l-plot-kv)"
    assert site.markdown(":ref:`l-plot-kv`", here) == kept
    assert site.markdown(":ref:`that\npage <l-plot-kv>`", here) == kept.replace("The cache?", "that page")
    assert site.markdown(":term:`prompts <prompt>`", here) == "[prompts](https://book.org/glossary.html#term-Prompt)"
    assert site.markdown(":doc:`plot_x`\\ s", here) == "[A title](https://book.org/auto_gallery/plot_x.html)s"
    assert site.markdown("`That trap`_", here) == f"[That trap](https://book.org/{here}.html#that-trap)"
    name = "https://book.org/generated/decodeloop.generate.html#decodeloop.generate"
    assert site.markdown(":func:`~decodeloop.generate`", here) == f"[`generate()`]({name})"
    assert site.markdown(":class:`torch.Tensor`, :py:func:`len`", here) == "`torch.Tensor`, `len()`"
    site.address = ""
    assert (
        site.markdown(":ref:`l-plot-kv` of :func:`decodeloop.generate`", here)
        == "The cache? of `decodeloop.generate()`"
    )


def test_boxes_become_quotations():
    assert admonitions(".. tip:: Short.\n\nAfter.\n") == "> **Tip**\n>\n> Short.\n\nAfter.\n"
    box = ".. admonition:: Trap\n   :class: warning\n\n   Two\n   lines.\n"
    assert admonitions(box) == "> **Trap**\n>\n> Two\n> lines.\n\n"


def test_lists_that_are_tables_become_tables():
    given = (
        ".. list-table::\n   :header-rows: 1\n\n   * - a\n     - b\n   * - one\n       more\n     - ``x``\n\nAfter.\n"
    )
    assert tables(given) == "| a | b |\n| --- | --- |\n| one more | ``x`` |\n\nAfter.\n"


def test_a_script_prints_tables_and_shows_figures(blocks, tmp_path):
    script = downloads.script_of(PAGE, blocks)
    assert 'print(frame.rename_axis(\n    "row"\n))  # as it is\n' in script
    assert "\nax.legend()\n" in script
    assert '\nframe.plot.barh(title="drawn")\n' in script
    assert script.count("print(") == 2
    assert script.endswith("import matplotlib.pyplot as plt\n\nplt.show()\n")
    (tmp_path / "plot_x.py").write_text(script, encoding="utf-8")
    environment = {"MPLBACKEND": "agg", "PATH": "", "PYTHONUTF8": "1", "MPLCONFIGDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "plot_x.py"], cwd=tmp_path, env=environment, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.decode().split() == ["a", "row", "0", "1", "é"]


def notebook(site, blocks) -> dict:
    images = {"notebook_images": True, "src_dir": "", "pypandoc": False, "promote_jupyter_magic": False}
    gallery = images | {"first_notebook_cell": None, "last_notebook_cell": None}
    conf = SimpleNamespace(sphinx_gallery_conf=gallery, html_context={"repository": "https://example.org/book"})
    return downloads.notebook_of("plot_x", blocks, site, conf, "It took 8 seconds on a CPU.")


def test_a_notebook_begins_with_what_to_install_and_is_markdown(site, blocks):
    first, install, text, *rest = ("".join(cell["source"]) for cell in notebook(site, blocks)["cells"])
    assert "[A title](https://book.org/auto_gallery/plot_x.html)" in first
    assert "decodeloop[cpu]" in first
    assert "decodeloop[cuda]" in first
    assert first.endswith("It took 8 seconds on a CPU.")
    assert '%pip install --quiet "decodeloop[{device},gguf,grammar] @ git+https://example.org/book"' in install
    assert text.startswith("# A title\n\nRead [The cache?](")
    assert "> **Trap**" in text
    assert not any(left in text for left in (":ref:", ":func:", ":term:", ".. ", "l-plot-x"))
    assert "ax.legend();" in rest[2]  # what a plot returns is not shown


def test_a_notebook_runs_from_an_empty_folder_and_shows_no_debris(site, blocks, tmp_path):
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name)
    path = tmp_path / "plot_x.ipynb"
    path.write_text(json.dumps(notebook(site, blocks)))
    assert notebooks.run_notebook(path) == ""
    broken = [("text", '"""T"""', 1), ("code", "frame = 1\nframe.nothing", 2)]
    path.write_text(json.dumps(notebook(site, broken)))
    assert notebooks.run_notebook(path) == "fails: AttributeError: 'int' object has no attribute 'nothing'"
    repr_ = [("text", '"""T"""', 1), ("code", "import pandas\nmap(abs, [1]), object()", 2)]
    path.write_text(json.dumps(notebook(site, repr_)))
    assert notebooks.run_notebook(path).startswith("shows <")
