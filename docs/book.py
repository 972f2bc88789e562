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
    """The table of running times: no scripts from other sites, the pages' own paths, memory where there is a GPU's."""
    if document.endswith("sg_execution_times"):
        text = re.sub(r"  \.\. raw:: html\n\n.*?</script>\n\n", "", content[0], flags=re.DOTALL)
        text = text.replace("Computation times\n=================", "Running times\n=============")
        if not re.search(r"^     - \d*[1-9]\d*\.\d$", text, flags=re.MULTILINE):
            text = re.sub(r"^     - (Mem \(MB\)|\d+\.\d)\n", "", text, flags=re.MULTILINE)
        text = text.replace("     - Mem (MB)\n", "     - GPU memory (MiB)\n")
        text = re.sub(r"``[./]*/(?:gallery|scripts)/(\w+\.py)``", r"``gallery/\1``", text)
        content[0] = text.replace(" **from all galleries**", "")


THUMBNAIL = '.. raw:: html\n\n    <div class="sphx-glr-thumbcontainer"'
OPEN = '.. raw:: html\n\n    <div class="sphx-glr-thumbnails">\n\n'
CLOSE = ".. raw:: html\n\n    </div>\n\n"


def in_sections(app, document: str, content: list[str]) -> None:
    """The list of pages, under the headings of SECTIONS; Sphinx-Gallery has those for folders only."""
    if document != "auto_gallery/index" or THUMBNAIL not in content[0]:
        return
    head, *thumbnails = content[0].split(THUMBNAIL)
    head, _, opening = head.partition('.. raw:: html\n\n    <div class="sphx-glr-thumbnails">')
    last, close, tail = thumbnails[-1].partition(".. thumbnail-parent-div-close")
    if not close or not opening:
        raise ValueError("the list of pages is not laid out as it was: see in_sections in docs/book.py.")
    tail = tail.partition("</div>\n")[2]
    thumbnails[-1] = last
    sections = []
    for title, pages in SECTIONS.items():
        stems = [Path(page).stem for page in pages]
        found = [t for t in thumbnails if any(f"auto_gallery/{stem}`" in t for stem in stems)]
        if found:
            sections += [f"{title}\n{'=' * len(title)}\n\n", OPEN, *(THUMBNAIL + t for t in found), CLOSE]
    content[0] = head + "".join(sections) + tail


def drop_if_empty(app, file: Path, document: str, content: list[str]) -> None:
    """The pages related to a page: no heading where there is none, as in a book of one page."""
    if Path(file).suffix == ".recommendations" and "sphx-glr-thumbcontainer" not in content[0]:
        content[0] = ""
