"""Recorded runs of the gallery, docs/recorded/<device>/: what Sphinx-Gallery needs to render them without running.

For each page: the script as it was run with its md5, its rst, notebook, code objects, time, facts, images, and a
manifest, ``<page>.record.json``: the digests of these files and of the package.
"""

import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

from measured import DOCS, FACTS, RECORDS, write_json

ROOT = DOCS.parent
SUFFIXES = (".py", ".py.md5", ".rst", ".ipynb", ".codeobj.json", ".cost.json", FACTS)
MANIFEST = ".record.json"
LARGEST = 6e6  # bytes of one device's record


class RecordError(Exception):
    """Why a record is refused."""


def package_digest(root: Path = ROOT) -> str:
    """A digest of src/: what the pages' output depends on, besides the pages, the libraries and the machine."""
    digest = hashlib.sha256()
    files = [path for path in sorted((root / "src").glob("*/**/*")) if path.is_file() and path.suffix != ".pyc"]
    for path in files:
        if not re.search(r"\.egg-info\b", str(path.relative_to(root))):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def recorded_devices(records: Path = RECORDS) -> list[str]:
    return sorted({path.parent.name for path in records.glob(f"*/*{MANIFEST}")})


def slug(facts: dict) -> str:
    """The name of a device's record: ``nvidia-h200``, or ``cpu-2-cores``."""
    name = f"cpu {facts['cores']} cores" if facts["device"] == "cpu" else facts["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def page_files(page: str, folder: Path) -> list[Path]:
    """What a record holds of a page, out of the folder of a build or of a record; code objects where there are any."""
    named = [folder / f"{page}{suffix}" for suffix in SUFFIXES]
    named = [path for path in named if path.exists() or not path.name.endswith(".codeobj.json")]
    images = [path for path in sorted((folder / "images").glob(f"**/sphx_glr_{page}_*")) if path.is_file()]
    return [*named, *(path for path in images if re.fullmatch(rf"sphx_glr_{page}_(\d+(_\d+_\d+x)?|thumb)", path.stem))]


def check_run(page: str, folder: Path) -> dict:
    """The facts of a page that a build has just run.

    Raises
    ------
    RecordError
        If it failed, or did not run on the device that it was to.
    """
    missing = [path.name for path in page_files(page, folder) if not path.exists()]
    if missing:
        raise RecordError(f"{page}: it failed, or has no closing call to provenance: there is no {', '.join(missing)}.")
    facts = json.loads((folder / f"{page}{FACTS}").read_text())
    if facts["mode"] == "gpu" and facts["provider"] not in (None, "CUDAExecutionProvider"):
        raise RecordError(f"{page}: onnxruntime ran on {facts['provider']}, not on CUDAExecutionProvider.")
    return facts


def add_page(page: str, folder: Path, record: Path, root: Path = ROOT) -> None:
    """Put a page that a build has run into a record, in place of an earlier run of it."""
    contents = {path.relative_to(folder): small(path) for path in page_files(page, folder)}
    for path in [*page_files(page, record), record / f"{page}{MANIFEST}"]:
        path.unlink(missing_ok=True)  # an interrupted copy leaves no manifest, so the page counts as missing
    digests = {}
    for name, content in contents.items():
        (record / name).parent.mkdir(parents=True, exist_ok=True)
        (record / name).write_bytes(content)
        digests[name.as_posix()] = hashlib.sha256(content).hexdigest()
    write_json(record / f"{page}{MANIFEST}", {"package": package_digest(root), "files": digests})


def small(path: Path) -> bytes:
    """A file's bytes; a PNG's written anew as small as they get without loss, if that is smaller."""
    given = path.read_bytes()
    if path.suffix != ".png":
        return given
    from PIL import Image

    Image.open(path).save(out := io.BytesIO(), format="PNG", optimize=True)
    return min(given, out.getvalue(), key=len)


def read_record(device: str, pages: list[str], records: Path = RECORDS) -> dict[str, dict]:
    """The manifests of a device's pages, every file there and as it was written.

    Raises
    ------
    RecordError
        If there is no such record (naming those there are), or if it lacks something (naming it).
    """
    folder = records / device
    if device not in recorded_devices(records):
        known = ", ".join(recorded_devices(records)) or "none yet: nox -s record makes one"
        raise RecordError(f"no run is recorded for {device!r}. Recorded devices: {known}.")
    manifests, wrong = {}, []  # wrong: (page, what)
    for page in pages:
        path = folder / f"{page}{MANIFEST}"
        try:
            manifests[page] = json.loads(path.read_text(encoding="utf-8"))
            files = manifests[page]["files"]
            listed = {f"{page}{suffix}" for suffix in SUFFIXES if suffix != ".codeobj.json"}
        except FileNotFoundError:
            wrong.append((page, f"{page}: not recorded"))
            continue
        except (ValueError, KeyError, TypeError):
            wrong.append((page, f"{path.name}: not a manifest"))
            continue
        wrong += [(page, f"{name}: not listed") for name in sorted(listed - set(files))]
        for name, digest in files.items():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                wrong.append((page, f"{name}: outside the record"))
            elif not (folder / name).is_file():
                wrong.append((page, f"{name}: missing"))
            elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                wrong.append((page, f"{name}: changed"))
    if wrong:
        names = " ".join(dict.fromkeys(page for page, _ in wrong))
        raise RecordError(
            f"the record of {device} is damaged or incomplete:\n  " + "\n  ".join(what for _, what in wrong) + "\n"
            f"Restore it (git checkout docs/recorded/{device}), or run nox -s record -- {names} on that device."
        )
    return manifests


def changes(device: str, manifests: dict[str, dict], records: Path = RECORDS, root: Path = ROOT) -> dict[str, str]:
    """For each page whose script or package is no longer the recorded one: a sentence that says so."""
    package, found = package_digest(root), {}
    for page, manifest in manifests.items():
        script = root / "gallery" / f"{page}.py"
        same = script.read_bytes() == (records / device / script.name).read_bytes()
        what = [] if same else [f"``gallery/{page}.py``"]
        what += ["the package"] if manifest["package"] != package else []
        if what:
            commit = json.loads((records / device / f"{page}{FACTS}").read_text())["commit"] or "an unknown commit"
            has = "have" if len(what) > 1 else "has"
            found[page] = f"Recorded at commit {commit}; {' and '.join(what)} {has} changed since."
    return found


def lay_out(device: str, manifests: dict[str, dict], changed: dict[str, str], folder: Path, records: Path = RECORDS):
    """Put a record where a build keeps its pages, folder/source/auto_gallery, and its scripts in folder/scripts."""
    gallery, scripts = folder / "source" / "auto_gallery", folder / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy2(ROOT / "gallery" / "GALLERY_HEADER.rst", scripts)
    for page, manifest in manifests.items():
        for name in manifest["files"]:
            (gallery / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(records / device / name, gallery / name)
        shutil.copy2(gallery / f"{page}.py", scripts)
        with zipfile.ZipFile(gallery / f"{page}.zip", "w") as archive:
            for suffix in (".py", ".ipynb"):
                archive.write(gallery / f"{page}{suffix}", f"{page}{suffix}")
        if page in changed:
            (gallery / f"{page}.changed").write_text(changed[page])
    (gallery / "RECORDED").write_text(device)
