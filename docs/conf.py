"""Sphinx's configuration. ``nox -s docs`` builds the site; tools/site/build.py says where to."""

import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("docs/_ext", "tools/site", "benchmarks", "src")]
from benchmark_page import write_benchmarks  # noqa: E402
from book import complete_pages, join_image_options  # noqa: E402
from cards import Pages  # noqa: E402
from drawing import write_drawings  # noqa: E402
from hero import write_hero  # noqa: E402
from measured import PeakMemory, beside  # noqa: E402
from measured_on import write_page  # noqa: E402
from which_page import write_measured  # noqa: E402

project = "decodeloop"
author = "the decodeloop authors"
copyright = f"2026, {author}"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
repository = "https://github.com/decodeloop/decodeloop"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "notfound.extension",
    "sphinx_markdown_builder",
    "sphinx_sitemap",
    "sphinxext.opengraph",
    "sphinx_gallery.gen_gallery",
    "finish",
    "downloads",
    "page_top",
    "changelog",
    "as_markdown",
]
markdown_anchor_sections = markdown_anchor_signatures = True
suppress_warnings = ["sphinx_gallery.space_in_filename"]  # it means any folder above a page, too
templates_path = [str(HERE / "_templates")]
default_role = "code"

# The build needs no network: docs/inventories holds what it links to, and tools/site/inventories.py makes it. With
# DECODELOOP_INTERSPHINX=1 the newest inventories are fetched, of more libraries.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", str(HERE / "inventories" / "python.inv")),
    "pandas": ("https://pandas.pydata.org/docs", str(HERE / "inventories" / "pandas.inv")),
}
if os.environ.get("DECODELOOP_INTERSPHINX") == "1":
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "transformers": ("https://huggingface.co/docs/transformers/main/en", None),
    }

# Every reference must lead somewhere, but for types written in docstrings and names of other libraries.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"(?!decodeloop\.).*"),
    (r"py:.*", r"(collections|numpy|onnx|onnxruntime|pandas|pathlib|torch|transformers)\b.*"),
]

linkcheck_ignore = [r"https://doi\.org/"]  # its publishers turn programs away
linkcheck_timeout = 20

autodoc_typehints = "none"  # the docstrings name the types, with shapes and units
autodoc_member_order = "bysource"
autosummary_imported_members = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "../scripts",  # gallery/ or a record's, as tools/site/build.py lays them out
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "copyfile_regex": r"index\.rst",  # our own list of the pages, which says in which order to read them
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib", "book.start_afresh"),
    "reset_modules_order": "both",
    "image_scrapers": ("alt_text.scrape", "measured.keep_facts"),
    "show_memory": PeakMemory(),
    "backreferences_dir": "auto_gallery/backreferences",
    "doc_module": ("decodeloop",),
    "ignore_repr_types": r"matplotlib\.",  # a plot's last line returns an artist, which says nothing
    "recommender": {"enable": True, "n_examples": 3, "min_df": 1, "rubric_header": "Related pages"},
    "remove_config_comments": True,
    "image_srcset": ["2x"],
    "notebook_images": True,  # a notebook stands alone, with its drawing in it
    "junit": "../junit.xml",
    "show_signature": False,
    "write_computation_times": False,  # each page ends with its own
    "download_all_examples": True,
}

# Where the site is published: what notebooks link to, and what a search engine is told. Empty if it is nowhere.
html_baseurl = os.environ.get("DECODELOOP_SITE", "https://decodeloop.github.io/decodeloop/")
ogp_site_url = html_baseurl
ogp_image = "_static/page.png"
ogp_image_alt = "A page of the book: a table and a plot of four decode loops"
sitemap_url_scheme = "{link}"
sitemap_show_lastmod = False
sitemap_excludes = ["search.html", "genindex.html", "404.html", "_modules/*"]
notfound_urls_prefix = "/" + html_baseurl.partition("//")[2].partition("/")[2]  # a page that is missed may be anywhere
html_theme = "pydata_sphinx_theme"
html_title = "decodeloop"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_search_scorer = str(HERE / "search_order.js")
html_last_updated_fmt = "%d %B %Y"
html_favicon = "_static/logo.svg"
html_copy_source = False
html_show_sourcelink = False
# Pages without others below them: their sidebar would be empty.
no_sidebar = ("index", "auto_gallery/index", "benchmarks", "changelog", "coverage", "design", "genindex", "glossary")
no_sidebar += ("how_we_measure", "measured_on", "promises", "search", "which")
html_sidebars = {page: [] for page in no_sidebar}
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": "decodeloop"},
    "icon_links": [{"name": "GitHub", "url": repository, "icon": "fa-brands fa-github"}],
    "navbar_align": "left",
    "show_toc_level": 2,
    "use_edit_page_button": True,
    "secondary_sidebar_items": {
        "**": ["page-toc", "edit-this-page"],
        "index": [],
        "auto_gallery/index": [],
    },
    "footer_start": ["copyright"],
    "footer_end": ["last-updated"],
}
html_context = {
    "edit_page_provider_name": "GitHub",
    "repository": repository,
    # docs/_ext/page_top.py says what a page is made from.
    "edit_page_url_template": "{{ repository }}/{{ 'edit' if '.' in source_file else 'tree' }}/main/{{ source_file }}"
    "{# of file_name #}",
    "default_mode": "auto",
    # Where Colab finds the notebooks, if they are published in a repository: OWNER/NAME/blob/BRANCH.
    "colab": os.environ.get("DECODELOOP_COLAB", ""),
}


def setup(app):
    app.add_directive("pages", Pages)
    app.connect("builder-inited", lambda app: write_hero(Path(app.srcdir)))
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir)))
    app.connect("builder-inited", lambda app: write_benchmarks(Path(app.srcdir)))
    app.connect("builder-inited", lambda app: write_measured(Path(app.srcdir)))
    # Before Sphinx-Gallery looks at the pages, whose notebooks hold the drawings:
    join_image_options()
    app.connect("builder-inited", lambda app: write_drawings(Path(app.srcdir)), priority=300)
    app.connect("builder-inited", complete_pages, priority=400)
    app.connect("source-read", beside)
