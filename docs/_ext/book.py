"""What Sphinx-Gallery and Sphinx call before a page runs, and for a page that ran elsewhere."""

import gc
import json
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures.mplstyle"


def start_afresh(gallery_conf: dict, page: str | None) -> None:
    """Each page starts with the book's plot style and free memory, whatever the one before it left."""
    import matplotlib.pyplot as plt
    import torch

    plt.style.use(FIGURES)
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU


def complete_recorded(app) -> None:
    """Make what a record does not hold of a page, since Sphinx-Gallery takes it for one that ran here before.

    The notebook, the archive and the thumbnail, from its script and its images; the names in its code that are of other
    libraries, as far as its imports tell; and the checksum, which says that the page need not run.
    """
    from sphinx_gallery.backreferences import identify_names
    from sphinx_gallery.gen_rst import save_thumbnail
    from sphinx_gallery.notebook import jupyter_notebook, save_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks
    from sphinx_gallery.utils import get_md5sum, zip_files

    folder, conf = Path(app.srcdir, "auto_gallery"), app.config.sphinx_gallery_conf
    for script in sorted(folder.glob("plot_*.py")) if (folder / "RECORDED").exists() else []:
        settings, blocks, tree = split_code_and_text_blocks(script, return_node=True)
        notebook, names = script.with_suffix(".ipynb"), script.with_suffix(".codeobj.json")
        save_notebook(jupyter_notebook(blocks, conf, folder), notebook)
        zip_files([str(script), str(notebook)], script.with_suffix(".zip"), folder)
        save_thumbnail(folder / "images" / f"sphx_glr_{script.stem}_{{0:03}}.png", script, {}, settings, conf)
        imported = identify_names(blocks, r"(?!)", node=tree)
        names.write_text(json.dumps(imported | json.loads(names.read_text())))
        script.with_suffix(".py.md5").write_text(get_md5sum(script, mode="t"))
