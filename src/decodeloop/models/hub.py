"""A hub id to a folder on this machine: asked for once, quickly, and with errors of one line."""

from __future__ import annotations

import os
import re
import warnings
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from decodeloop.models.checkpoint import INDEX, SETTINGS, WEIGHTS, check_file, check_folder, weight_files
from decodeloop.models.hub_errors import BadAnswer, NoCheckpoint, explain


def download(name: str, *, weights: bool = True) -> Path:
    """The folder that holds a hub model, downloaded or from the local cache.

    Where the hub does not give the model (now), the newest whole copy in the local cache is used, with a warning that
    says why; without one if ``HF_HUB_OFFLINE`` asks for it.

    Parameters
    ----------
    name : str
        A hub id, ``"organisation/model"``.
    weights : bool
        Also fetch the weights, not only the configuration and the tokenizer.

    Raises
    ------
    ValueError
        If ``name`` cannot be a hub id.
    OSError
        If the hub knows no such model, does not give it out, or cannot be reached while the cache lacks the model.
    """
    try:
        return _download(name, weights)
    except HFValidationError:
        raise ValueError(
            f'name={name!r}: expected "bundled", an existing directory, or a hub id such as "microsoft/phi-1_5".'
        ) from None
    except Exception as error:  # the errors of the hub's client and of its transport have no common base but this
        offline = isinstance(error, OfflineModeIsEnabled)
        why, step = explain(name, error)
    folder, lack = cached(name, weights=weights)
    if folder is None:
        raise OSError(f"cannot load {name!r}: {why}, and {lack}. {step}")
    if not offline:
        warnings.warn(f"{name!r}: {why}. Its copy in the local cache is used: {folder.name}.", stacklevel=4)
    return folder


def cached(name: str, *, weights: bool = True) -> tuple[Path | None, str]:
    """The newest whole copy of a hub model in the local cache; None where there is none, and what is lacking."""
    repository, lack = _repository(name), ""
    main = _read_main(repository)
    copies = [folder for folder in repository.glob("snapshots/*") if folder.is_dir()]
    for folder in sorted(copies, key=lambda copy: (copy.name == main, copy.stat().st_mtime), reverse=True):
        try:
            check_folder(folder, weights=weights)
            return folder, ""
        except (OSError, ValueError) as error:
            what = str(error).partition(". ")[0].replace(f"{str(folder)!r}", "it").replace(f"{folder}{os.sep}", "")
            lack = lack or f"its copy in the local cache is not whole ({what})"
    return None, lack or "it is not in the local cache"


def _download(name: str, weights: bool) -> Path:
    # Seconds without an answer: 10, or what HF_HUB_ETAG_TIMEOUT says. A file that stalls is tried six times by the
    # client, HF_HUB_DOWNLOAD_TIMEOUT (10) seconds each: given up after 65 seconds without a byte.
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi().model_info(name, files_metadata=True, timeout=timeout)
    commit, sizes = info.sha or "", {file.rfilename: file.size for file in info.siblings or []}
    if not re.fullmatch("[0-9a-f]{40}", commit) or not sizes:
        raise BadAnswer("it names no commit, or no files")
    if "config.json" not in sizes or (weights and not sizes.keys() & {WEIGHTS, INDEX}):
        raise NoCheckpoint(f"it has no {'config.json' if 'config.json' not in sizes else f'{WEIGHTS} and no {INDEX}'}")
    folder = _repository(name) / "snapshots" / commit

    def fetch(file: str) -> None:
        path = hf_hub_download(name, file, revision=commit, etag_timeout=timeout)
        if not _whole(Path(path), sizes[file]):  # cut or spoilt, it would be found in the cache for ever
            path = hf_hub_download(name, file, revision=commit, etag_timeout=timeout, force_download=True)
            if not _whole(Path(path), None):
                raise BadAnswer(f"its {file} is cut or damaged")

    for file in sorted(sizes):
        if "/" not in file and any(fnmatch(file, pattern) for pattern in SETTINGS):
            fetch(file)
    for file in weight_files(folder, sizes) if weights else []:
        fetch(file)
    _write_main(_repository(name), commit)
    return folder


def _repository(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE, "models--" + name.replace("/", "--"))


def _whole(path: Path, size: int | None) -> bool:
    try:
        check_file(path)
    except ValueError:
        return False
    return size is None or path.stat().st_size == size


def _read_main(repository: Path) -> str:
    try:
        return (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _write_main(repository: Path, commit: str) -> None:
    """Name the commit that the cache holds, for other programs: only now, when all its files are there."""
    if _read_main(repository) == commit:
        return
    new = repository / "refs" / f".main-{os.getpid()}"
    try:
        new.parent.mkdir(exist_ok=True)
        new.write_text(commit, encoding="utf-8")
        new.replace(repository / "refs" / "main")
    except OSError:  # a cache that this user may only read
        new.unlink(missing_ok=True)
