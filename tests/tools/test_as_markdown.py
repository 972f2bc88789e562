"""The Markdown of a page says what its HTML does: cards with titles that lead somewhere, links within a page."""

import re

import pytest
from sphinx.application import Sphinx

INDEX = """\
Book
====

.. grid:: 2

   .. grid-item-card:: 1. A page
      :link: l-page
      :link-type: ref

      What it is about.

.. toctree::

   page
"""
PAGE = """\
.. _l-page:

A page
======

- `First trap`_: what goes wrong.

First trap
----------

Text.
"""


@pytest.fixture
def built(tmp_path):
    extensions = ["sphinx_design", "sphinx_markdown_builder", "as_markdown"]
    (tmp_path / "conf.py").write_text(f"extensions = {extensions}\n")
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


def test_a_link_within_a_page_has_its_anchor(built):
    assert "[First trap](#first-trap): what goes wrong." in built("markdown")["page"]


def test_the_html_is_as_it_was(built):
    assert "sd-stretched-link" in built("html")["index"]
