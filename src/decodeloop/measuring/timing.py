"""Honest timing: warm up, synchronise, repeat, interleave what is compared, report the median and the spread."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from decodeloop.checks import check_count, shown
from decodeloop.measuring.timings import GenerationTimings, Timings

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """The times of one function, in seconds. Printed: ``12.3 ms (11.9 to 13.0, 5 runs)``.

    Attributes
    ----------
    times
        One per run, in the order of the runs.
    result
        What the last run returned.
    """

    times: tuple[float, ...]
    result: Any = field(default=None, repr=False, compare=False)

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.times)

    @property
    def min(self) -> float:
        """The fastest one, in seconds."""
        return min(self.times)

    @property
    def max(self) -> float:
        """The slowest one, in seconds."""
        return max(self.times)

    @property
    def spread(self) -> float:
        """``(max - min) / median``, without unit: 0.1 says that the runs lie within 10 % of each other."""
        return (self.max - self.min) / self.median if self.median > 0 else float("nan")

    def __str__(self) -> str:
        return self._text()

    def _text(self, per: str = "", of: str = "") -> str:
        scale, unit = next((s, u) for s, u in _UNITS if abs(self.median) >= s or u == "ns")
        decimals = sum(abs(self.median) < limit * scale for limit in (10, 100))
        median, low, high = (f"{value / scale:.{decimals}f}" for value in (self.median, self.min, self.max))
        runs = f"{len(self.times)} run{'s' if len(self.times) > 1 else ''}"
        return f"{median} {unit}{per} ({low} to {high}, {runs}{of})"


_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True)
class GenerationTiming:
    """The two speeds of a decode loop. Printed: ``prefill 9 ms (...), decode 1.58 ms per token (...), 633 tokens/s``.

    Attributes
    ----------
    prefill
        Time to the first token, in seconds.
    decode
        Time per further token, in seconds; its result is what the last long run returned.
    whole
        Time of the long runs, prefill included, in seconds.
    new_tokens
        Length of the long runs.
    """

    prefill: Timing
    decode: Timing
    whole: Timing
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Decode speed of one sequence, without the prefill; NaN where the noise is larger than the decode time."""
        return 1 / self.decode.median if self.decode.median > 0 else float("nan")

    def __str__(self) -> str:
        decode = self.decode._text(" per token", f" of {self.new_tokens} tokens")
        return f"prefill {self.prefill}, decode {decode}, {self.tokens_per_second:.0f} tokens/s"


def measure(fn: Callable[[], Any], *, repeats: int = 5, warmup: int = 1, device: torch.device | str = "auto") -> Timing:
    """Time a function.

    Parameters
    ----------
    fn
        Called without arguments.
    repeats
        Timed runs, after ``warmup`` runs that are not.
    warmup
        Compilation, caches and allocations happen here.
    device
        What to wait for before and after each run: ``"auto"`` is CUDA where present, ``"cpu"`` is nothing.

    Returns
    -------
    Timing

    Raises
    ------
    ValueError
        When ``repeats`` is below 1 or ``warmup`` below 0.
    TypeError
        When ``fn`` is not callable.
    RuntimeError
        When ``device`` is a GPU that is not there.

    Examples
    --------
    >>> timing = measure(lambda: sum(range(1000)), device="cpu")
    >>> timing.result, len(timing.times), timing.min <= timing.median <= timing.max
    (499500, 5, True)
    """
    return measure_all({"fn": fn}, repeats=repeats, warmup=warmup, device=device)["fn"]


def measure_all(
    fns: Mapping[Name, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1, device: torch.device | str = "auto"
) -> Timings[Name]:
    """Time functions that are compared, in turns: A B C A B C, so that a slow moment of the machine hits all of them.

    Python's garbage collector runs before the timed runs and rests during them.

    Parameters
    ----------
    fns
        Functions by name, called without arguments.
    repeats, warmup, device
        As in :func:`measure`; every function is warmed up before the first one is timed.

    Returns
    -------
    Timings
        A dictionary with a :class:`Timing` for each name, and :meth:`Timings.table` and :meth:`Timings.plot`.
    """
    _check_functions(fns)
    check_count("repeats", repeats, 1)
    check_count("warmup", warmup)
    device = present_device(device)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warmup):
        for fn in fns.values():
            fn()
    times: dict[Name, list[float]] = {name: [] for name in fns}
    results: dict[Name, Any] = {}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, fn in fns.items():
                results.pop(name, None)  # freed here, not while the clock runs
                synchronize()
                start = time.perf_counter()
                results[name] = fn()
                synchronize()
                times[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return Timings({name: Timing(tuple(times[name]), results[name]) for name in fns})


def prefill_and_decode(
    run: Callable[[int], Any],
    new_tokens: int,
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "auto",
) -> GenerationTiming:
    """Time the prefill and the decode of any generation loop, from outside.

    One run makes 1 token, the next ``new_tokens``. The first takes the time of the prefill; the difference, divided by
    ``new_tokens - 1``, is the time per further token. No engine has to report each token, which would make a GPU wait.

    Parameters
    ----------
    run
        ``run(k)`` generates exactly ``k`` tokens, so without an end of sequence (``eos_token_id=None``).
    new_tokens
        Length of the long runs, at least 2. The longer, the less noise, and the longer the average past.
    repeats, warmup, device
        As in :func:`measure`: pairs of runs.

    Returns
    -------
    GenerationTiming

    Raises
    ------
    ValueError
        When ``new_tokens`` is below 2, or when ``run`` returned tensors that show that it stopped early.
    """
    return prefill_and_decode_all({"run": run}, new_tokens, repeats=repeats, warmup=warmup, device=device)["run"]


def prefill_and_decode_all(
    runs: Mapping[Name, Callable[[int], Any]],
    new_tokens: int,
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "auto",
) -> GenerationTimings[Name]:
    """Time generation loops that are compared, in turns: :func:`prefill_and_decode` of each of ``runs``, by name."""
    check_count("new_tokens", new_tokens, 2, note="the first one counts as prefill")
    _check_functions(runs)
    fns = {(name, k): functools.partial(run, k) for name, run in runs.items() for k in (1, new_tokens)}
    timings = measure_all(fns, repeats=repeats, warmup=warmup, device=device)
    both = {name: (timings[name, 1], timings[name, new_tokens]) for name in runs}
    return GenerationTimings({name: _difference(name, *pair, new_tokens) for name, pair in both.items()})


def _check_functions(fns: Any) -> None:
    if not isinstance(fns, Mapping):
        raise TypeError(f"{shown(fns)}: expected functions by name, in a dictionary.")
    for name, fn in fns.items():
        if not callable(fn):
            raise TypeError(f"{name}={shown(fn)}: expected a function.")


def _difference(name: Any, short: Timing, long: Timing, new_tokens: int) -> GenerationTiming:
    few, many = (getattr(timing.result, "shape", None) for timing in (short, long))
    if few and many and (more := many[-1] - few[-1]) != new_tokens - 1:
        raise ValueError(
            f"{name}: run({new_tokens}) gave {more} tokens more than run(1), expected {new_tokens - 1}: it must not "
            "stop at an end of sequence, pass eos_token_id=None"
        )
    per_token = ((b - a) / (new_tokens - 1) for a, b in zip(short.times, long.times, strict=True))
    return GenerationTiming(short, Timing(tuple(per_token), long.result), long, new_tokens)


def present_device(device: torch.device | str) -> torch.device:
    """``"auto"`` as CUDA where present; any other as it is.

    Raises
    ------
    ValueError
        When it is neither a CPU nor a GPU.
    RuntimeError
        When it is a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError):
        picked = None
    if picked is None or picked.type not in ("cpu", "cuda"):
        raise ValueError(f'device={shown(device)}: expected "auto", "cpu" or "cuda".')
    device = picked
    if device.type == "cuda" and not available:
        raise RuntimeError(f"device={str(device)!r} was asked for, but torch sees no CUDA GPU: pass device='cpu'")
    return device
