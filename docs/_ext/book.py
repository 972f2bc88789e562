"""What Sphinx-Gallery and Sphinx call before a page runs, and for a page that ran elsewhere."""

import gc
import json
import re
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures.mplstyle"
IMAGE = re.compile(r"^\.\. image::.*\n(?: +\S.*\n)*", flags=re.MULTILINE)


def start_afresh(gallery_conf: dict, page: str | None) -> None:
    """Each page starts with the book's plot style and free memory, whatever the one before it left."""
    import matplotlib.pyplot as plt
    import torch

    plt.style.use(FIGURES)
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU


def join_image_options() -> None:
    """Let Sphinx-Gallery's notebooks hold images whose alternative text takes several lines, or has quotes in it."""
    from sphinx_gallery import notebook

    convert = notebook.rst2md
    notebook.rst2md = lambda text, *how: convert(with_joined_options(text), *how)


def with_joined_options(text: str) -> str:
    """The same rst, each option of an image on one line: that is what its conversion to Markdown looks for."""
    return IMAGE.sub(lambda found: re.sub(r"\n +(?=[^\s:])", " ", found[0]).replace('"', "&quot;"), text)


def complete_pages(app) -> None:
    """Make anew what depends on more than a page's own text, of the pages that Sphinx-Gallery need not run again.

    That is the notebook, which holds the drawings, and its archive. A page that ran elsewhere lacks more, since a
    record holds only what cannot be made again: the thumbnail, from its images; the names in its code that are of other
    libraries, as far as its imports tell; and the checksum, which says that the page need not run.
    """
    from sphinx_gallery.backreferences import identify_names
    from sphinx_gallery.gen_rst import save_thumbnail
    from sphinx_gallery.notebook import jupyter_notebook, save_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks
    from sphinx_gallery.utils import get_md5sum, zip_files

    folder, conf = Path(app.srcdir, "auto_gallery"), app.config.sphinx_gallery_conf
    for script in sorted(folder.glob("plot_*.py")):
        settings, blocks, tree = split_code_and_text_blocks(script, return_node=True)
        notebook, names = script.with_suffix(".ipynb"), script.with_suffix(".codeobj.json")
        save_notebook(jupyter_notebook(blocks, conf, folder), notebook)
        zip_files([str(script), str(notebook)], script.with_suffix(".zip"), folder)
        if (folder / "RECORDED").exists():
            save_thumbnail(folder / "images" / f"sphx_glr_{script.stem}_{{0:03}}.png", script, {}, settings, conf)
            imported = identify_names(blocks, r"(?!)", node=tree)
            names.write_text(json.dumps(imported | json.loads(names.read_text())))
            script.with_suffix(".py.md5").write_text(get_md5sum(script, mode="t"))
