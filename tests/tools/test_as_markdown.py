"""The Markdown of a page says what its HTML does: cards with titles that lead somewhere, links within a page."""

import re

import pytest
from for_programs import LED_TO, plain
from sphinx.application import Sphinx

INDEX = """\
Book
====

.. grid:: 2

   .. grid-item-card:: 1. A page
      :link: l-page
      :link-type: ref

      What it is about.

   .. grid-item-card:: Without a link

      Only text.

.. toctree::

   page
"""
PAGE = """\
.. _l-page:

A page
======

- `1. First trap`_: what goes wrong.

1. First trap
-------------

Text.
"""


@pytest.fixture
def built(tmp_path):
    extensions = ["sphinx_design", "sphinx_markdown_builder", "as_markdown"]
    (tmp_path / "conf.py").write_text(f"extensions = {extensions}\nmarkdown_anchor_sections = True\n")
    (tmp_path / "index.rst").write_text(INDEX)
    (tmp_path / "page.rst").write_text(PAGE)

    def build(builder):
        out = tmp_path / builder
        Sphinx(tmp_path, tmp_path, out, tmp_path / f"{builder}-trees", builder, status=None, warning=None).build()
        return {path.stem: path.read_text() for path in out.glob("*.*") if path.suffix in (".md", ".html")}

    return build


def test_a_card_has_its_title_and_its_link(built):
    pages = built("markdown")
    assert re.search(r"\[1\\?\. A page\]\(page\.md(#[\w-]+)?\)\s+What it is about\.", pages["index"])


def test_a_card_without_a_link_has_its_title(built):
    assert re.search(r"^Without a link\s+Only text\.$", built("markdown")["index"], re.MULTILINE)


def test_a_link_within_a_page_leads_to_an_anchor_that_stays(built):
    page = built("markdown")["page"]
    (anchor,) = re.findall(r"First trap\]\(#([\w-]+)\): what goes wrong\.", page)
    assert LED_TO.findall(page) == [anchor]
    kept = plain(page, {anchor})
    assert f'<a id="{anchor}"></a>' in kept
    assert kept.count("<a id=") == 1
    assert "<a id=" in page
    assert "<a id=" not in plain(page)


def test_the_html_is_as_it_was(built):
    html = built("html")["index"]
    assert re.search(r'<div class="sd-card-title[^"]*">\s*1\. A page\s*</div>', html)  # plain: the whole card is a link
    assert re.search(r'<a class="sd-stretched-link[^"]*" href="page\.html', html)
