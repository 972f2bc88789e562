"""The order of the pages, and what Sphinx-Gallery and Sphinx call while they build them."""

import gc
import re
from pathlib import Path

#: The learning path: every page of gallery/, in the order in which to read them.
SECTIONS = {
    "Generate": [
        "plot_generate.py",
        "plot_kv_cache.py",
        "plot_sampling.py",
        "plot_batch.py",
        "plot_streaming_and_lookup.py",
    ],
    "Export": ["plot_export.py", "plot_precision.py"],
    "Go fast": ["plot_onnx_speed.py", "plot_engines.py"],
    "Traps": ["plot_traps.py"],
}
PAGES = [page for pages in SECTIONS.values() for page in pages]


class PageOrder:
    """Sorts the pages as SECTIONS does; a page that is not listed there fails the build."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, page: str) -> int:
        name = Path(page).name
        if name not in PAGES:
            raise ValueError(f"gallery/{name} has no place in the book: add it to SECTIONS in docs/book.py.")
        return PAGES.index(name)

    def __repr__(self) -> str:  # part of Sphinx's configuration, which is compared between builds
        return f"PageOrder({PAGES})"


def start_afresh(gallery_conf: dict, page: str | None) -> None:
    """Each page starts with the book's plot style and free memory, whatever the one before it left."""
    import matplotlib.pyplot as plt
    import torch

    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU


def tidy(app, document: str, content: list[str]) -> None:
    """The table of running times: no scripts from other sites, the pages' own paths, no memory that nobody measured."""
    if document.endswith("sg_execution_times"):
        text = re.sub(r"  \.\. raw:: html\n\n.*?</script>\n\n", "", content[0], flags=re.DOTALL)
        text = text.replace("Computation times\n=================", "Running times\n=============")
        text = re.sub(r"^     - (Mem \(MB\)|\d+\.\d)\n", "", text, flags=re.MULTILINE)
        content[0] = re.sub(r"``[./]*/(gallery/\w+\.py)``", r"``\1``", text).replace(" **from all galleries**", "")


def drop_if_empty(app, file: Path, document: str, content: list[str]) -> None:
    """The pages related to a page: no heading where there is none, as in a book of one page."""
    if Path(file).suffix == ".recommendations" and "sphx-glr-thumbcontainer" not in content[0]:
        content[0] = ""
