"""How fast memory can be read: what bounds every decode step."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from decodeloop.checks import check_count
from decodeloop.measuring.timing import measure_all, present_device

LARGE = {"cpu": 2**28, "cuda": 2**30}  # bytes that come from memory: more than the caches of nearly all hold
SMALL = 2**22  # for less, starting an operator takes as long as reading: what is smaller is taken to be this large
STEPS = 4  # sizes that are measured, between one and its double
AGAIN = 10  # seconds after which a size is measured again


def memory_bandwidth(device: torch.device | str = "auto", size: int | None = None) -> float:
    """Measure how fast bytes are read, in bytes per second: no decode step is faster than reading its weights.

    What is read again and again, as weights are, stays in the processor's caches if it fits, and they are several
    times as fast as its memory. So what is measured is the reading of a buffer of ``size`` bytes, over and over.

    The fastest run of several operators counts, since a limit must not be one that can be beaten: the sum, the largest
    number and the scalar product of a buffer on a CPU, and on a GPU its sum and a copy, of which reading and writing
    are counted. On a CPU all cores read, whatever torch's number of threads: other engines have their own. The
    memory of a shared machine is not equally fast at all times: a size is measured again when the last time is more
    than ten seconds ago, and the fastest of all times counts.

    Parameters
    ----------
    device
        ``"auto"`` is CUDA where present.
    size
        Bytes that are read each time, 1 or more; default: so many that they come from the memory itself, 256 MiB on a
        CPU and 1 GiB on a GPU, which are read for larger sizes too. At least 4 MiB are, and sizes are rounded down by
        up to a sixth, so that similar ones share a measurement.

    Raises
    ------
    ValueError
        When ``size`` is below 1.
    RuntimeError
        When ``device`` is a GPU that is not there.

    Examples
    --------
    >>> weights = 22_000_000
    >>> memory_bandwidth("cpu", weights) >= memory_bandwidth("cpu")
    True
    """
    device = present_device(device)
    large = LARGE[device.type]
    size = large if size is None else min(max(check_count("size", size, 1), SMALL), large)
    rounded = int(2 ** (math.floor(STEPS * math.log2(size)) / STEPS))
    return max(_read_again(device, each) for each in {rounded, large})  # a cache is not slower than memory


_seen: dict[tuple[torch.device, int], tuple[float, float]] = {}  # the fastest so far, and when it was last measured


def _read_again(device: torch.device, size: int) -> float:
    fastest, when = _seen.get((device, size), (0.0, -math.inf))
    if time.monotonic() - when > AGAIN:
        fastest = max(fastest, _measured(device, size))
        _seen[device, size] = fastest, time.monotonic()
    return fastest


def _measured(device: torch.device, size: int) -> float:
    times, repeats = 1, min(max(LARGE["cpu"] // size, 5), 50)
    if device.type == "cuda":
        times, size = 20, min(size, torch.cuda.mem_get_info(device)[0] // 4)  # it has work while the next is launched
    source = torch.ones(size // 4, device=device)
    readers, bytes_of = _readers(source), {"copy": 2 * source.nbytes}
    runs = {name: functools.partial(_repeat, fn, times) for name, fn in readers.items()}
    with _all_cores():
        timings = measure_all(runs, repeats=repeats, device=device)
    return max(times * bytes_of.get(name, source.nbytes) / timing.min for name, timing in timings.items())


def _readers(source: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Operators that read all of a buffer, by name."""
    if source.device.type == "cuda":
        target = torch.empty_like(source)
        return {"sum": source.sum, "copy": lambda: target.copy_(source)}
    return {"sum": source.sum, "max": source.amax, "product": lambda: torch.dot(source, source)}


def _repeat(fn: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        fn()


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    threads = torch.get_num_threads()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(threads, allowed))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
