"""Honest timing: warm up, synchronise, repeat, interleave what is compared, report the median and the spread."""

import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


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


def measure(fn: Callable[[], Any], *, repeats: int = 5, warmup: int = 1, device: Any = "auto") -> Timing:
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
    """
    return measure_all({"fn": fn}, repeats=repeats, warmup=warmup, device=device)["fn"]


def measure_all(
    fns: Mapping[Any, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1, device: Any = "auto"
) -> dict[Any, Timing]:
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
    dict
        A :class:`Timing` for each name.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats={repeats}, warmup={warmup}: expected at least 1 timed run and 0 to warm up")
    _check_callable(fns, "a function without arguments")
    synchronize = _synchronizer(device)
    for _ in range(warmup):
        for fn in fns.values():
            fn()
    times: dict[Any, list[float]] = {name: [] for name in fns}
    results: dict[Any, Any] = {}
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
    return {name: Timing(tuple(times[name]), results[name]) for name in fns}


def prefill_and_decode(
    run: Callable[[int], Any], new_tokens: int, *, repeats: int = 5, warmup: int = 1, device: Any = "auto"
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
    runs: Mapping[Any, Callable[[int], Any]],
    new_tokens: int,
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: Any = "auto",
) -> dict[Any, GenerationTiming]:
    """Time generation loops that are compared, in turns: :func:`prefill_and_decode` of each of ``runs``, by name."""
    if new_tokens < 2:
        raise ValueError(f"new_tokens={new_tokens}: expected at least 2, the first one counts as prefill")
    _check_callable(runs, "a function of the number of tokens")
    fns = {(name, k): functools.partial(run, k) for name, run in runs.items() for k in (1, new_tokens)}
    timings = measure_all(fns, repeats=repeats, warmup=warmup, device=device)
    return {name: _difference(name, timings[name, 1], timings[name, new_tokens], new_tokens) for name in runs}


def _check_callable(fns: Mapping[Any, Any], expected: str) -> None:
    for name, fn in fns.items():
        if not callable(fn):
            raise TypeError(f"{name}: expected {expected}, got {type(fn).__name__}")


def _difference(name: Any, short: Timing, long: Timing, new_tokens: int) -> GenerationTiming:
    shapes = getattr(short.result, "shape", None), getattr(long.result, "shape", None)
    if all(shapes) and shapes[1][-1] - shapes[0][-1] != new_tokens - 1:
        raise ValueError(
            f"{name}: run({new_tokens}) gave {shapes[1][-1] - shapes[0][-1]} tokens more than run(1), expected "
            f"{new_tokens - 1}: it must not stop at an end of sequence, pass eos_token_id=None"
        )
    per_token = ((b - a) / (new_tokens - 1) for a, b in zip(short.times, long.times, strict=True))
    return GenerationTiming(short, Timing(tuple(per_token), long.result), long, new_tokens)


def memory_bandwidth(device: Any = "auto") -> float:
    """Measure how fast memory is read, in bytes per second: no decode step is faster than reading its weights.

    On a GPU, copies within its memory, read and write counted. On a CPU, a matrix-vector product over 256 MiB of
    float32 or the sum of them, whichever reads faster: a limit must not be one that can be beaten. The fastest of 5
    runs, measured once per process.

    Parameters
    ----------
    device
        ``"auto"`` is CUDA where present.

    Raises
    ------
    RuntimeError
        When ``device`` is a GPU that is not there.
    """
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _synchronizer(device)  # raises where it is missing
    return _memory_bandwidth(torch.device(device))


@functools.cache
def _memory_bandwidth(device: torch.device) -> float:
    if device.type == "cpu":
        matrix, vector = torch.ones(2**13, 2**13), torch.ones(2**13)
        runs = measure_all({"product": lambda: matrix @ vector, "sum": matrix.sum}, device=device)
        return matrix.nbytes / min(run.min for run in runs.values())
    size, copies = min(2**30, torch.cuda.mem_get_info(device)[0] // 4), 10
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fastest = measure(lambda: [target.copy_(source) for _ in range(copies)], device=device).min
    return 2 * size * copies / fastest


def _synchronizer(device: Any) -> Callable[[], None]:
    """What waits for ``device``."""
    available = torch.cuda.is_available()
    if str(device) == "auto":
        return torch.cuda.synchronize if available else lambda: None
    device = torch.device(device)
    if device.type != "cuda":
        return lambda: None
    if not available:
        raise RuntimeError(f"device={str(device)!r} was asked for, but torch sees no CUDA GPU: pass device='cpu'")
    return functools.partial(torch.cuda.synchronize, device)
