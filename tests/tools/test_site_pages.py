"""What the site says of its pages: at their top, to search engines and programs, and of what changed."""

from pathlib import Path

import changelog
import finish
import for_programs
import inventories
import page_top
import pytest
import serve
from recorded import COST, FACTS, page_names, write_json

ROOT = Path(__file__).parents[2]
NOTE = """.. only:: html

    .. note::
        :class: sphx-glr-download-link-note

        :ref:`Go to the end <sphx_glr_download_auto_gallery_plot_x.py>`
        to download the full example code.

.. rst-class:: sphx-glr-example-title

"""
PAGE = "=====\nTitle\n=====\n\nText.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plot_x.py").write_text(f'"""\n.. _l-plot-x:\n\n{PAGE}"""\n\nprint(1)\n')
    facts = {"device": "NVIDIA X", "mode": "gpu", "gpus": 1, "cpu": "C", "cores": 2, "date": "2026-01-01"}
    write_json(tmp_path / f"plot_x{FACTS}", facts)
    write_json(tmp_path / f"plot_x{COST}", {"time": 83.4, "memory": 0})
    return tmp_path


def test_the_top_of_a_page_has_its_downloads_and_how_long_it_takes(folder):
    text = page_top.with_top(NOTE + PAGE, "plot_x", folder, "")
    assert "Go to the end" not in text
    before, _, after = text.partition("=====\nTitle\n=====\n")
    assert "container" not in before
    assert ":download:`Notebook <plot_x.ipynb>`" in after
    assert "1 minutes to read · ran in 83.4 s on NVIDIA X" in after
    assert "Colab" not in text
    assert "github/me/book/blob/main/plot_x.ipynb" in page_top.with_top(PAGE, "plot_x", folder, "me/book/blob/main")


def test_a_page_that_did_not_run_says_nothing_of_a_machine(folder):
    (folder / f"plot_x{FACTS}").unlink()
    assert "minutes to read\n" in page_top.with_top(PAGE, "plot_x", folder, "")


def test_a_search_engine_is_told_the_first_paragraph(folder):
    first = "Reads :term:`weights <weight>` with\n:func:`~a.run`, *once*, ``x``."
    (folder / "plot_x.py").write_text(f'"""\n.. _l-plot-x:\n\n{PAGE[:18]}\n{first}\n\nMore.\n"""\n')
    assert page_top.description(folder / "plot_x.py") == "Reads weights with a.run, once, x."
    for page in page_names():
        assert len(page_top.description(ROOT / "gallery" / f"{page}.py")) > 80


@pytest.mark.parametrize(
    ("page", "source"),
    [
        ("auto_gallery/plot_batch", "gallery/plot_batch.py"),
        ("generated/decodeloop.generate", "src/decodeloop/engines/torch_loop.py"),
        ("generated/decodeloop.TorchDecoder", "src/decodeloop/engines/torch_decoder.py"),
        ("measured_on", "docs/_ext/measured_on.py"),
        ("glossary", "docs/glossary.rst"),
        ("search", ""),
    ],
)
def test_the_edit_link_leads_to_what_a_page_is_made_from(page, source):
    found = page_top.source_of(page)
    assert found == source or (found.startswith("src/decodeloop/") and source.startswith("src/"))
    assert (ROOT / found).exists()


def test_every_source_that_a_written_page_names_is_there():
    assert all((ROOT / path).exists() for path in page_top.WRITTEN.values())


def test_a_long_output_is_folded():
    def output(lines):
        box = '<div class="sphx-glr-script-out highlight-none notranslate"><div class="highlight"><pre>'
        return box + "x\n" * lines + "</pre></div>\n</div>"

    page = Path("page.html")
    assert finish.finish(output(20), page) == output(20)
    assert finish.finish(output(40), page).startswith('<details class="long-output"><summary>40 lines of output')


def test_the_cell_that_a_reader_may_skip_is_folded_and_no_other():
    cell = '<div class="highlight-Python notranslate"><div class="highlight"><pre>import torch\nx\n</pre></div>\n</div>'
    skipped = f"<p>Setup. Nothing in this\ncell is the topic; skip it.</p>\n{cell}"
    shown = finish.finish(f"{skipped}\n<p>Then</p>{cell}", Path("page.html"))
    assert shown.count("<details") == 1
    assert 'skip it.</p>\n<details class="long-output"><summary>Setup, 2 lines</summary>' in shown
    assert shown.endswith(f"<p>Then</p>{cell}")
    assert finish.finish(cell, Path("page.html")) == cell


def test_a_link_from_source_code_leads_to_a_place_that_is_there():
    link = '<a href="../generated/decodeloop.{}.html#decodeloop.{}">[docs]</a>'
    page = Path("_modules") / "page.html"
    assert '#decodeloop.Run.go"' in finish.finish(link.format("Run", "Run.go"), page)
    assert (
        finish.finish(link.format("run", "loops.run"), page) == '<a href="../generated/decodeloop.run.html">[docs]</a>'
    )


def test_the_changelog_is_rst():
    given = "# Changelog\n\nSee [it](https://x.org).\n\n## Added\n\n- `run(a,\n  b)`, `X`s.\n"
    assert changelog.as_rst(given) == (
        "Changelog\n=========\n\nSee `it <https://x.org>`__.\n\nAdded\n-----\n\n- ``run(a,\n  b)``, ``X``\\ s.\n"
    )


def test_the_list_for_programs_names_the_pages_in_their_order(tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "index.rst").write_text("   plot_b\n   plot_a\n")
    (tmp_path / "auto_gallery").mkdir()
    for name in "ab":
        text = f"<!-- made -->\n<a id='x'></a>\n\n# Page {name}\n\n[`Notebook`](x)\n\n"
        text += "It [reads](y.md)\nonce.\n\nMore.\n"
        (tmp_path / "auto_gallery" / f"plot_{name}.md").write_text(for_programs.plain(text))
    listed = for_programs.listing(tmp_path, tmp_path)
    assert listed.startswith("# decodeloop\n\n> ")
    assert "- [Page b](auto_gallery/plot_b.md): It reads once.\n- [Page a](auto_gallery/plot_a.md)" in listed


def test_the_site_is_built_again_when_a_file_changes(monkeypatch, tmp_path):
    built = []
    states = iter([{"a": 1}, {"a": 1}, {"a": 2}])

    def state():
        try:
            return next(states)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(serve, "state", state)
    monkeypatch.setattr(serve, "PORT", 0)
    monkeypatch.setattr(serve, "newest_site", lambda: tmp_path)
    assert serve.serve(["--fast"], lambda arguments: built.append(arguments) or 0, pause=0) == 0
    assert built == [["--fast"], ["--fast"]]


def test_an_inventory_is_read_as_it_was_written(tmp_path):
    entries = [["a b", "std:label", "-1", "x", "A title"], ["pandas.DataFrame", "py:class", "1", "api/$.html#$", "-"]]
    inventories.write_inventory(tmp_path / "pandas.inv", "pandas", "3", entries)
    assert inventories.read_inventory(tmp_path / "pandas.inv") == ("3", entries)


@pytest.mark.parametrize("name", ["pandas", "python"])
def test_what_other_libraries_links_name_is_there(name):
    entries = inventories.read_inventory(inventories.FOLDER / f"{name}.inv")[1]
    assert len(entries) > 100
    assert all(kind in inventories.KEPT for _, kind, *_ in entries)
    assert [entry[0] for entry in entries[::20] if not inventories.exists(entry[0])] == []
