"""Recorded runs of the gallery, docs/recorded/<device>/<page>/: what a run produced and what tells whether it stands.

A page's folder holds its script as it was run, the rst that Sphinx-Gallery made of it, the images, which names in its
code are of the package, and a manifest: the facts of the run, its time and memory, the digest of the code that it used
and those of the files. The manifest is written last, and the folder takes its name when it is whole: where there is no
manifest, there is no recorded page. Notebooks, archives and thumbnails are made again from the script and the images.
"""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

from digest import Package
from PIL import Image
from prose import with_prose_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS, PACKAGE = "docs/recorded", "src/decodeloop"  # in ROOT
MANIFEST = "record.json"
FACTS = ".measured.json"  # beside a page's rst in a build: what its closing call to provenance returned
COST = ".cost.json"  # beside it, by Sphinx-Gallery: seconds, and MiB of GPU memory
NAMES = ".codeobj.json"  # beside it, by Sphinx-Gallery: what the names in its code are
LARGEST = 4e6  # bytes of one device's record


class RecordError(Exception):
    """Why a record is refused."""


def page_names(root: Path = ROOT) -> list[str]:
    """The pages of the book; gallery/index.rst says in which order to read them."""
    return sorted(path.stem for path in (root / "gallery").glob("plot_*.py"))


def recorded_devices(root: Path = ROOT) -> list[str]:
    return sorted({path.parents[1].name for path in (root / RECORDS).glob(f"*/plot_*/{MANIFEST}")})


def read_manifest(device: str, page: str, root: Path = ROOT) -> dict | None:
    """The manifest of a recorded page: everything that there is to know of it. None where it is not recorded."""
    try:
        manifest = json.loads((root / RECORDS / device / page / MANIFEST).read_text(encoding="utf-8"))
        return manifest if {"facts", "time", "memory", "code", "files"} <= manifest.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def read_run(device: str, page: str, root: Path = ROOT) -> dict | None:
    """The facts of a recorded run, with its ``time`` and ``memory``."""
    manifest = read_manifest(device, page, root)
    return manifest and manifest["facts"] | {"time": manifest["time"], "memory": manifest["memory"]}


def holder(device: str, page: str, root: Path = ROOT) -> str:
    """Which record a page is shown from: the device's own; else, beside a GPU's, that of a machine with several.

    A page that needs two GPUs is not recorded on one. It names its own machine.
    """
    if device.startswith("cpu") or (root / RECORDS / device / page / MANIFEST).exists():
        return device
    for name in (device, "*"):  # of the same kind, or of any
        for manifest in sorted((root / RECORDS).glob(f"[0-9]*-{name}/{page}/{MANIFEST}")):
            return manifest.parents[1].name
    return device


def slug(facts: dict) -> str:
    """The name of a device's record: ``nvidia-h200``, ``2-nvidia-h200`` of a page that used two, or ``cpu-2-cores``."""
    name = f"cpu {facts['cores']} cores" if facts["device"] == "cpu" else facts["device"]
    name = f"{facts['gpus']} {name}" if facts.get("gpus", 1) > 1 else name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def page_files(page: str, folder: Path) -> list[Path]:
    """What a record keeps of a page, out of the folder of a build."""
    images = (folder / "images").glob(f"sphx_glr_{page}_*.png")
    images = [path for path in sorted(images) if re.fullmatch(rf"sphx_glr_{page}_\d+(_\d+_\d+x)?", path.stem)]
    return [*(folder / f"{page}{suffix}" for suffix in (".py", ".rst", NAMES)), *images]


def check_run(page: str, folder: Path) -> dict:
    """The facts of a page that a build has just run.

    Raises
    ------
    RecordError
        If it failed, or did not run on the device that it was to.
    """
    needed = [*page_files(page, folder), *(folder / f"{page}{suffix}" for suffix in (".py.md5", COST, FACTS))]
    if missing := [path.name for path in needed if not path.exists()]:
        raise RecordError(f"{page}: it failed, or has no closing call to provenance: there is no {', '.join(missing)}.")
    facts = json.loads((folder / f"{page}{FACTS}").read_text(encoding="utf-8"))
    if facts["mode"] == "gpu" and facts["provider"] not in (None, "CUDAExecutionProvider"):
        raise RecordError(f"{page}: onnxruntime ran on {facts['provider']}, not on CUDAExecutionProvider.")
    return facts


def add_page(page: str, folder: Path, record: Path, code: str) -> None:
    """Put a page that a build has run into a record, in place of an earlier run of it; ``code`` is the digest."""
    new, old = record / f".{page}.new", record / f".{page}.old"
    for path in (new, old):  # of a recording that was interrupted
        shutil.rmtree(path, ignore_errors=True)
    manifest = {"facts": json.loads((folder / f"{page}{FACTS}").read_text(encoding="utf-8"))}
    manifest |= json.loads((folder / f"{page}{COST}").read_text(encoding="utf-8"))
    manifest |= {"code": code, "files": {}}
    for path in page_files(page, folder):
        name, content = path.relative_to(folder), small(path)
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(content)
        manifest["files"][name.as_posix()] = hashlib.sha256(content).hexdigest()
    write_json(new / MANIFEST, manifest)
    if (record / page).exists():
        (record / page).rename(old)
    new.rename(record / page)
    shutil.rmtree(old, ignore_errors=True)


def small(path: Path) -> bytes:
    """A file's bytes; a PNG's as few as they get without loss, and of the names in a page's code the package's."""
    given = path.read_bytes()
    if path.name.endswith(NAMES):
        names = {name: [one for one in found if is_ours(one)] for name, found in json.loads(given).items()}
        return json.dumps({name: found for name, found in names.items() if found}, separators=(",", ":")).encode()
    if path.suffix != ".png":
        return given
    Image.open(path).save(out := io.BytesIO(), format="PNG", optimize=True)
    return min(given, out.getvalue(), key=len)


def is_ours(found: dict) -> bool:
    return found["module"].partition(".")[0] == Path(PACKAGE).name


def read_record(device: str, root: Path = ROOT) -> dict[str, dict]:
    """The manifests of a device's pages that are recorded, every file there and as it was written.

    Raises
    ------
    RecordError
        If no page is, or if a file is not.
    """
    if device not in recorded_devices(root):
        known = ", ".join(recorded_devices(root)) or "none yet: nox -s record makes one"
        raise RecordError(f"no run is recorded for {device!r}. Recorded devices: {known}.")
    read = {page: read_manifest(holder(device, page, root), page, root) for page in page_names(root)}
    manifests = {page: manifest for page, manifest in read.items() if manifest}
    wrong = []  # (page, what)
    for page, manifest in manifests.items():
        folder = (root / RECORDS / holder(device, page, root) / page).resolve()
        missing = {f"{page}.py", f"{page}.rst", f"{page}{NAMES}"} - manifest["files"].keys()
        wrong += [(page, f"{name}: not listed") for name in sorted(missing)]
        for name, digest in manifest["files"].items():
            if not (folder / name).resolve().is_relative_to(folder):
                wrong.append((page, f"{name}: outside the record"))
            elif not (folder / name).is_file():
                wrong.append((page, f"{name}: missing"))
            elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                wrong.append((page, f"{name}: changed"))
    if wrong:
        names = " ".join(dict.fromkeys(page for page, _ in wrong))
        raise RecordError(
            f"the record of {device} is damaged:\n  " + "\n  ".join(what for _, what in wrong) + "\n"
            f"Restore it (git checkout docs/recorded/{device}), or run nox -s record -- {names} on that device."
        )
    return manifests


def changes(device: str, manifests: dict[str, dict], root: Path = ROOT) -> dict[str, str]:
    """For each page whose record is not of what is here now: a sentence that says so. Its prose may be another."""
    package, found = Package(root / PACKAGE), {}
    for page in page_names(root):
        if page not in manifests:
            found[page] = f"Not recorded on {device}: what this page prints and draws is not shown."
            continue
        recorded = root / RECORDS / holder(device, page, root) / page / f"{page}.py"
        same = with_prose_of(root / "gallery" / recorded.name, recorded) is not None
        what = [] if same else [f"``gallery/{page}.py``"]
        what += ["code that it uses"] if manifests[page]["code"] != package.digest(recorded) else []
        if what:
            commit = manifests[page]["facts"]["commit"] or "an unknown commit"
            has = "have" if len(what) > 1 else "has"
            found[page] = f"Recorded at commit {commit}; {' and '.join(what)} {has} changed since. "
            found[page] += "What this page shows, code and outputs, is of that run."
    return found


def lay_out(device: str, manifests: dict[str, dict], changed: dict[str, str], folder: Path, root: Path = ROOT) -> None:
    """Put a record where a build keeps its pages, folder/source/auto_gallery, its scripts over those of now."""
    gallery, scripts = folder / "source" / "auto_gallery", folder / "scripts"
    gallery.mkdir(parents=True, exist_ok=True)
    for page, manifest in manifests.items():
        for name in manifest["files"]:
            (gallery / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / RECORDS / holder(device, page, root) / page / name, gallery / name)
        rst, recorded = with_prose_of(root / "gallery" / f"{page}.py", gallery / f"{page}.py"), gallery / f"{page}.py"
        if rst is None:  # other code
            shutil.copy2(recorded, scripts)
        else:
            shutil.copy2(root / "gallery" / recorded.name, recorded)
            recorded.with_suffix(".rst").write_text(rst, encoding="utf-8")
        write_json(gallery / f"{page}{FACTS}", manifest["facts"])
        write_json(gallery / f"{page}{COST}", {"time": manifest["time"], "memory": manifest["memory"]})
    for page, text in changed.items():
        (gallery / f"{page}.changed").write_text(text, encoding="utf-8")
        if page not in manifests:  # an empty plot, since another page may show it
            (gallery / "images").mkdir(exist_ok=True)
            Image.new("RGBA", (640, 400)).save(gallery / "images" / f"sphx_glr_{page}_001.png")
    (gallery / "RECORDED").write_text(device)


def write_json(path: Path, facts: dict) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
