"""Build the site, every page of the gallery run on this machine.

Each kind of build keeps to a folder of its own, so that none shows another's numbers: docs/_build/fast (--fast or
UNITTEST_GOING=1), docs/_build/cpu, docs/_build/gpu, docs/_build/recorded-<device>. A page runs again when its text
changed, or the code that it uses, a library or the device did. Options that are not listed here go to sphinx-build.
"""

import argparse
import hashlib
import html
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.parse
from pathlib import Path

from digest import Package
from for_programs import write_markdown
from recorded import PACKAGE, ROOT, RecordError, changes, lay_out, page_names, read_record, write_json
from serve import serve

DOCS = ROOT / "docs"
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torch", "transformers")
# stderr is part of a page, and each frame of a progress bar would be a line of it.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
DEBRIS = {
    "a traceback": r"Traceback \(most recent call last\)",
    "a progress bar": r"\d ?(?:it/s|s/it)\b",
    "a Python warning": r"\w+Warning: ",
    "a terminal colour": r"\x1b\[",
    "an object's address": r"&lt;[^&]* at 0x[0-9a-f]+",
}


def find_device() -> str:
    """The name of the GPU that the pages will run on, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def build_folder(fast: bool, device: str, root: Path = ROOT) -> Path:
    return root / "docs" / "_build" / ("fast" if fast else "cpu" if device == "cpu" else "gpu")


def fingerprint(device: str, root: Path = ROOT) -> dict[str, str]:
    """What the pages' output depends on, besides their own text, which is all that Sphinx-Gallery looks at.

    A digest of the machine, the libraries and the plot style, and one for each page, of the code that it uses.
    """
    digest = hashlib.sha256(f"{device}, Python {sys.version}\n".encode())
    for name in LIBRARIES:
        try:
            digest.update(f"{name}=={importlib.metadata.version(name)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    for path in [root / "constraints.txt", root / "docs" / "figures.mplstyle"]:
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    package = Package(root / PACKAGE)
    pages = {page: package.digest(root / "gallery" / f"{page}.py") for page in page_names(root)}
    return {"machine": digest.hexdigest()} | pages


def prepare(folder: Path, now: dict[str, str], root: Path = ROOT) -> None:
    """Leave of a build what its pages printed and drew, if they would do it again; lay out the rest anew.

    Rendering takes seconds, so it always starts from nothing: a warning is given in each build, not in the first alone.
    """
    source, stamp = folder / "source", folder / "fingerprint.json"
    gallery = source / "auto_gallery"
    before = json.loads(stamp.read_text()) if stamp.exists() else {}
    if not before or before["machine"] != now["machine"]:
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True, exist_ok=True)
    for path in [*folder.iterdir(), *source.iterdir(), *gallery.glob("plot_*")]:
        if path.parent == gallery:
            page = path.name.partition(".")[0]
            if page not in now or now[page] != before.get(page):
                path.unlink()
        elif path.is_dir() and path not in (source, gallery):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    for path in [*(root / "docs").glob("*.rst"), *(root / "docs").glob("*.csv")]:
        shutil.copy2(path, source)
    (folder / "scripts").mkdir()  # where the pages run: Sphinx-Gallery takes each folder in gallery/ for a section
    for path in [root / "gallery" / "index.rst", *(root / "gallery").glob("plot_*.py")]:
        shutil.copy2(path, folder / "scripts")
    write_json(stamp, now)


def lay_out_record(device: str, strict: bool, root: Path = ROOT) -> tuple[Path, list[str]]:
    """A folder with a device's recorded pages, ready to be rendered, and what is not as recorded: a line for each page.

    Raises
    ------
    RecordError
        If the record cannot be used, or, with ``strict``, if anything has changed or is missing. What one GPU can run
        is not missed in a record of several.
    """
    manifests = read_record(device, root)
    changed = changes(device, manifests, root)
    lines = [f"{page}: {text}" for page, text in changed.items()]
    several = all(manifest["facts"].get("gpus", 1) > 1 for manifest in manifests.values())
    wrong = [line for page, line in zip(changed, lines, strict=True) if page in manifests or not several]
    if strict and wrong:
        raise RecordError("\n".join([f"the record of {device} is not of what is here now:", *wrong]))
    folder = root / "docs" / "_build" / f"recorded-{device}"
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, {"machine": device}, root)
    lay_out(device, manifests, changed, folder, root)
    return folder, lines


def private_paths() -> list[str]:
    """Folders of this machine, which mean nothing to a reader elsewhere, as text, as HTML and as a URL spell them."""
    folders = [ROOT, Path.home(), Path(tempfile.gettempdir()), Path(sysconfig.get_path("purelib"))]
    paths = [f"{folder}/" for folder in folders if folder != Path("/")]
    return list(dict.fromkeys(spell(path) for path in paths for spell in (str, html.escape, urllib.parse.quote)))


def check_html(site: Path, private: list[str]) -> list[str]:
    """What no page should show, one line for each find: this machine's folders, and the debris of programs."""
    pages = [path for path in sorted(site.rglob("*.html")) if "_modules" not in path.relative_to(site).parts]
    found = [line for path in pages for line in check_text(path, site, private)]  # _modules: source, not output
    for path in sorted(site.glob("_downloads/*/*.ipynb")):
        if ".. image::" in path.read_text(encoding="utf-8"):
            found.append(f"{path.relative_to(site)}: an image that Jupyter cannot show")
    return found


def check_text(path: Path, folder: Path, private: list[str]) -> list[str]:
    """The same for one file, as HTML or as rst."""
    text, found = path.read_text(encoding="utf-8"), []
    patterns = DEBRIS | {f"the path {name}": re.escape(name) for name in private}
    for what, pattern in patterns.items():
        if match := re.search(pattern, text):
            line = text.count("\n", 0, match.start()) + 1
            around = " ".join(text[max(match.start() - 60, 0) : match.end() + 60].split())
            found.append(f"{path.relative_to(folder)}:{line}: {what}: ... {around} ...")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s docs --", description=__doc__)
    fast = os.environ.get("UNITTEST_GOING") == "1"
    parser.add_argument("--fast", action="store_true", default=fast, help="run the pages on a tiny model, in minutes")
    parser.add_argument("--fresh", action="store_true", help="forget the last build: every page runs")
    parser.add_argument(
        "--recorded", metavar="DEVICE", help="render a recorded run, docs/recorded/DEVICE; nothing runs"
    )
    parser.add_argument("--strict", action="store_true", help="with --recorded: what has changed since is an error")
    parser.add_argument("--only", metavar="PAGE", help="run that page alone, such as plot_batch; others as they are")
    parser.add_argument("--serve", action="store_true", help="show the site on this machine; build again on changes")
    parser.add_argument("--links", action="store_true", help="check that the links to other sites lead somewhere, too")
    options, for_sphinx = parser.parse_known_args(arguments)

    if options.serve:
        given = sys.argv[1:] if arguments is None else arguments
        return serve([each for each in given if each != "--serve"], main)
    changed: list[str] = []
    if options.recorded:
        try:
            folder, changed = lay_out_record(options.recorded, options.strict)
        except RecordError as error:
            parser.error(str(error))
        ran = f"as recorded on {options.recorded}"
        for_sphinx += ["-D", "plot_gallery=0"]
    else:
        device = find_device()
        folder, ran = build_folder(options.fast, device), f"run on {device}"
        if options.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, fingerprint(device))
    strict = [] if options.only else ["-W", "--keep-going"]  # what other pages refer to may not be there
    if options.only:
        for_sphinx += ["-D", rf"sphinx_gallery_conf.filename_pattern=/{Path(options.only).stem}\.py"]
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", *strict, *for_sphinx]
    folders = ["-c", DOCS, "-d", folder / "doctrees", folder / "source", folder / "html"]
    environment = os.environ | QUIET | {"UNITTEST_GOING": "1" if options.fast else "0"}
    built = subprocess.run([*sphinx, *folders], env=environment)
    if built.returncode == 0 and options.links:  # from the doctrees of the build, so nothing is run again
        links = [sys.executable, "-m", "sphinx", "-b", "linkcheck", *for_sphinx, *folders[:-1], folder / "links"]
        built = subprocess.run(links, env=environment)
    if built.returncode:
        return built.returncode
    if not options.only:
        write_markdown([sys.executable, "-m", "sphinx", *for_sphinx, *folders[:-1]], folder, environment)
    found = check_html(folder / "html", private_paths())
    print(*found, sep="\n", end="\n" if found else "")
    print(*changed, sep="\n", end="\n" if changed else "")
    print(f"The site, pages {ran}: {(folder / 'html' / 'index.html').relative_to(ROOT)}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
