"""Writes a graph and its weights: whoever reads them meets the old pair or the new one, whatever stops the writer.

The weights go first, to a file whose name is free, and the graph, which says that name, is renamed over the old one
last: from this one rename on, the new pair counts. No file of weights is ever overwritten. Those of the old graph stay
for :data:`GRACE` seconds at least, for who has read the old graph and not yet its weights; a later export to the same
path removes them, unless another graph in the folder names them.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import mmap
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from decodeloop.export.checksums import CHECKSUMS, checksum, seal
from decodeloop.export.file import tensors
from decodeloop.progress import doing
from decodeloop.scratch import abandoned, locked, scratch_folder

#: How long weights stay that were replaced, in seconds: far longer than it takes to open a graph.
GRACE = 60.0
GRAPH, WEIGHTS, SEALED = "graph.onnx", "weights", "sealed.onnx"


def check_target(path: Path, argument: str = "path") -> None:
    """Refuse a path that cannot be written to, before the work that it takes to have something to write.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
    """
    if path.is_dir():
        raise ValueError(f"{argument}={str(path)!r} is a directory: expected a file name in it, such as model.onnx.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{argument}={str(path)!r} is no regular file: expected a graph to replace, or a new name.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write to its folder: choose another one", str(path))


def save_graph(graph: onnx_ir.Model, path: Path, prove: Callable[[Path], Any] = lambda path: None) -> tuple[Path, Any]:
    """Write a graph to ``path`` and its weights beside it, with checksums: both or neither.

    Parameters
    ----------
    graph : onnx_ir.Model
    path : Path
    prove : callable
        Called with the graph's file under a temporary name. If it raises, nothing is written.

    Returns
    -------
    Path
        The file of the weights: ``<path>.data``, or ``<path>.<checksum>.data`` where that name is taken.
    object
        What ``prove`` returned.

    Raises
    ------
    OSError
        If a file cannot be written. What was there before is as it was, and nothing else is left.
    """
    try:
        with scratch_folder(path.parent) as scratch:
            (scratch / WEIGHTS).touch()
            doing("writing")
            onnx_ir.save(graph, scratch / GRAPH, external_data=WEIGHTS)
            doing("checking")
            value = _checksum_beside(scratch / WEIGHTS)
            proved = prove(scratch / GRAPH)
            doing("writing")
            return _commit(scratch, path, value()), proved
    except OSError as error:
        number = error.errno or errno.ENOSPC  # numpy has none for a full disk, only "1000 requested and 10 written"
        raise OSError(number, error.strerror or f"{os.strerror(number)}: {error}", str(path)) from error


def _checksum_beside(weights: Path) -> Callable[[], int]:
    """Begin to take the checksum of weights, a second for 2 GB, while their graph is proved; the result gives it.

    Nobody waits for the checksum of a graph that is refused.
    """
    taken: Future[int] = Future()

    def take() -> None:
        try:
            taken.set_result(checksum([weights]))
        except BaseException as error:  # raised where the checksum is asked for
            taken.set_exception(error)

    try:
        threading.Thread(target=take, daemon=True).start()
    except RuntimeError:  # the interpreter is ending, or the system has no thread left
        take()
    return taken.result


def _commit(scratch: Path, path: Path, value: int) -> Path:
    folder, weights = path.parent, scratch / WEIGHTS
    _sync(weights)
    graph = _staged(scratch / GRAPH)
    placed: set[str] = set()
    with locked(folder):
        _sweep(path)
        try:
            for target in _possible_names(weights, value, path):
                # Before the weights get their name: if this process is killed next, the sealed graph says which.
                (scratch / SEALED).write_bytes(_sealed(graph, target.name, value))
                _sync(scratch / SEALED)
                if target.exists():  # the same weights
                    break
                placed = {target.name}
                try:
                    _move(weights, target)
                    break
                except FileExistsError:
                    placed = set()
            for name in _names_in(path, _named_after(path)) - {target.name}:
                with contextlib.suppress(OSError):
                    os.utime(folder / name)  # it is replaced now: GRACE begins
            _sync(folder)
            os.replace(scratch / SEALED, path)
        except BaseException:
            for name in _unused(placed, folder):
                (folder / name).unlink()
            raise
    with contextlib.suppress(OSError):  # the new pair counts, whatever happens now
        _sync(folder)
    return target


def _staged(file: Path) -> onnx.ModelProto:
    """The graph as onnx_ir saved it, whose weights are in one file; what attributes keep in another one is loaded."""
    graph = onnx.ModelProto.FromString(file.read_bytes())
    for tensor in tensors(graph):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location", WEIGHTS) != WEIGHTS:
            with open(entries["location"], "rb") as source:
                source.seek(int(entries.get("offset", 0)))
                tensor.raw_data = source.read(int(entries["length"]))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    kept = [entry for entry in graph.metadata_props if entry.key != CHECKSUMS]
    graph.ClearField("metadata_props")
    graph.metadata_props.extend(kept)
    return graph


def _sealed(graph: onnx.ModelProto, weights: str, value: int) -> bytes:
    for tensor in tensors(graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = weights
    return seal(graph, value)


def _possible_names(weights: Path, value: int, path: Path) -> Iterator[Path]:
    """Where the weights can go beside ``path``: a file that holds just these weights, else names that are free."""
    yield from (path.with_name(name) for name in sorted(_named_after(path)) if _same(weights, path.with_name(name)))
    endings = itertools.chain([".data", f".{value:08x}.data"], (f".{value:08x}-{n}.data" for n in itertools.count(1)))
    for ending in endings:
        target = path.with_name(_shortened(path, ending) + ending)
        if target.name != path.name and not os.path.lexists(target):
            yield target


def _shortened(path: Path, ending: str) -> str:
    """The name of ``path``, of as many bytes as leave room for an ending, in UTF-8, in which a graph can name it."""
    longest = os.pathconf(path.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    return path.name.encode(errors="replace")[: longest - len(ending)].decode(errors="ignore")


def _named_after(path: Path) -> set[str]:
    """The names in the folder that the weights of ``path`` can have."""
    endings = ((name, re.search(r"(\.[0-9a-f]{8}(-\d+)?)?\.data$", name)) for name in os.listdir(path.parent))
    return {
        name
        for name, found in endings
        if found and any(name == _shortened(path, ending) + ending for ending in (".data", found[0]))
    }


def _same(weights: Path, file: Path) -> bool:
    status = file.lstat()  # neither a link nor a file of two names, which onnx.load does not open
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return plain and status.st_size == weights.stat().st_size and filecmp.cmp(weights, file, shallow=False)


def _move(file: Path, target: Path) -> None:
    """Rename, but raise FileExistsError if the new name is taken."""
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(file, target)
    else:
        with contextlib.suppress(OSError):  # then it goes with its folder
            os.unlink(file)


def _sweep(path: Path) -> None:
    """Remove what killed processes left in the folder, and old weights of ``path``."""
    folder = path.parent
    with contextlib.suppress(OSError):
        left = abandoned(folder)
        names = {name for name in _named_after(path) if time.time() - (folder / name).lstat().st_mtime > GRACE}
        for scratch in left:
            with contextlib.suppress(Exception):  # not there, or half written: protobuf's errors have no public base
                sealed = onnx.ModelProto.FromString((scratch / SEALED).read_bytes())
                names |= {e.value for tensor in tensors(sealed) for e in tensor.external_data if e.key == "location"}
        for name in _unused(names, folder):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        for scratch in left:
            shutil.rmtree(scratch, ignore_errors=True)


def _unused(names: set[str], folder: Path) -> set[str]:
    """Which names of weights no graph in the folder says.

    A graph can have any ending and any format, so all files are searched but those that are known to be none.
    """
    for file in folder.iterdir() if names else ():
        if file.suffix not in (".data", ".safetensors"):
            names = names - _names_in(file, names)
    return names


def _names_in(file: Path, names: set[str]) -> set[str]:
    if not names or not file.is_file() or not 0 < file.stat().st_size < 2**31:  # a graph has less
        return set()
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {name for name in names if content.find(name.encode()) >= 0}


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
