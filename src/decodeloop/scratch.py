"""Folders that files are made in before they get their names: locked by who uses them, so that what is left is told.

The system drops the lock of a process that dies, however it dies. A folder that is not locked was therefore left by a
process that was killed. Where a file system has no locks, a day's age stands for that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = ".decodeloop-export-"
DAY = 24 * 3600.0


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, removed in the end."""
    with locked(parent):  # so that nobody looks for abandoned ones before this one is locked
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=PREFIX))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other writer is in this block with the same folder; where there are no locks, go on at once."""
    lock = _lock(folder)
    try:
        yield
    finally:
        _unlock(lock)


def abandoned(parent: Path) -> list[Path]:
    """The folders in ``parent`` whose users are dead. Asked within ``locked(parent)``."""
    return [folder for folder in parent.glob(f"{PREFIX}*") if _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = _lock(folder, wait=False)
    except BlockingIOError:
        return False
    _unlock(lock)
    return lock is not None or time.time() - folder.stat().st_mtime > DAY


def _lock(folder: Path, wait: bool = True) -> int | None:
    """An open file that stands for the lock; None where there is none to be had."""
    if sys.platform == "win32":
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None and sys.platform != "win32":
        fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough, should another process have inherited the file
        os.close(lock)
