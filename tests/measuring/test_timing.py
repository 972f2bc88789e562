"""Speeds are never asserted against the real clock: a fake one checks the arithmetic."""

import gc
import math
import os
import time
from unittest import mock

import pytest
import torch

from decodeloop import (
    GenerationTiming,
    Timing,
    measure,
    measure_all,
    memory_bandwidth,
    prefill_and_decode,
    prefill_and_decode_all,
)
from decodeloop.measuring import bandwidth


class Clock:
    """Stands still unless told how long something takes."""

    def __init__(self):
        self.now = 100.0

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return clock


def test_median_and_spread_are_over_the_timed_runs_alone(clock):
    durations = iter([9.0, 8.0, 0.3, 0.1, 0.2])

    def fn():
        seconds = next(durations)
        clock.spend(seconds)
        return seconds

    timing = measure(fn, repeats=3, warmup=2)
    assert timing.times == pytest.approx((0.3, 0.1, 0.2))
    assert (timing.median, timing.min, timing.max) == pytest.approx((0.2, 0.1, 0.3))
    assert timing.spread == pytest.approx(1.0)
    assert timing.result == 0.2


def test_what_is_compared_takes_turns():
    calls = []
    timings = measure_all({name: lambda name=name: calls.append(name) for name in "ABC"}, repeats=2, warmup=1)
    assert "".join(calls) == "ABCABCABC"
    assert list(timings) == ["A", "B", "C"]
    assert all(len(timing.times) == 2 for timing in timings.values())


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ((0.0123, 0.0119, 0.013), "12.3 ms (11.9 to 13.0, 3 runs)"),
        ((1.5,), "1.50 s (1.50 to 1.50, 1 run)"),
        ((2e-4, 1.5e-4, 1.2e-3), "200 µs (150 to 1200, 3 runs)"),
        ((5e-9, 6e-9), "5.50 ns (5.00 to 6.00, 2 runs)"),
        ((0.0,), "0.00 ns (0.00 to 0.00, 1 run)"),
    ],
)
def test_timing_reads_well(times, text):
    assert str(Timing(times)) == text


def test_spread_of_nothing_is_not_a_number():
    assert math.isnan(Timing((0.0, 0.0)).spread)


def test_the_collector_rests_during_the_runs_and_comes_back():
    states = []
    measure(lambda: states.append(gc.isenabled()), repeats=2, warmup=1)
    assert states == [True, False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / 0, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize(("name", "value", "least"), [("repeats", 0, 1), ("repeats", True, 1), ("warmup", -1, 0)])
def test_wrong_counts_are_named(name, value, least):
    with pytest.raises(ValueError, match=f"{name}={value}: expected an int of {least} or more"):
        measure(list, **{name: value})


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="ours=3: expected a function"):
        measure_all({"ours": 3})
    with pytest.raises(TypeError, match="expected a function"):
        prefill_and_decode([], 10)


def test_a_missing_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fn in (lambda: measure(list, device="cuda"), lambda: memory_bandwidth("cuda:1")):
        with pytest.raises(RuntimeError, match=r"device='cuda.*' was asked for, but torch sees no CUDA GPU"):
            fn()


def test_a_gpu_is_waited_for_before_and_after_each_run(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: events.append("wait"))
    measure(lambda: events.append("run"), repeats=2, warmup=0)
    assert events == ["wait", "run", "wait"] * 2
    events.clear()
    measure(lambda: events.append("run"), repeats=1, warmup=0, device="cuda")
    assert events == ["wait", "run", "wait"]
    events.clear()
    measure(lambda: events.append("run"), repeats=1, warmup=0, device="cpu")
    assert events == ["run"]


def test_prefill_and_decode_are_told_apart(clock):
    lengths = []

    def run(k):
        lengths.append(k)
        clock.spend(0.5 + 0.02 * (k - 1))
        return torch.zeros((1, 7 + k))

    timing = prefill_and_decode(run, 11, repeats=3, warmup=1)
    assert lengths == [1, 11] * 4
    assert timing.prefill.median == pytest.approx(0.5)
    assert timing.decode.times == pytest.approx((0.02,) * 3)
    assert timing.decode.result.shape == (1, 18)
    assert timing.tokens_per_second == pytest.approx(50)
    assert str(timing) == (
        "prefill 500 ms (500 to 500, 3 runs), decode 20.0 ms per token (20.0 to 20.0, 3 runs of 11 tokens), 50 tokens/s"
    )


def test_generation_loops_take_turns(clock):
    calls = []

    def loop(name, seconds):
        def run(k):
            calls.append((name, k))
            clock.spend(seconds * k)

        return run

    timings = prefill_and_decode_all({"slow": loop("slow", 0.2), "fast": loop("fast", 0.1)}, 5, repeats=2, warmup=0)
    assert calls == [("slow", 1), ("slow", 5), ("fast", 1), ("fast", 5)] * 2
    assert [round(timing.tokens_per_second) for timing in timings.values()] == [5, 10]


def test_early_stops_are_refused():
    with pytest.raises(ValueError, match=r"run\(9\) gave 4 tokens more than run\(1\), expected 8.*eos_token_id=None"):
        prefill_and_decode(lambda k: torch.zeros((1, min(k, 5))), 9)
    with pytest.raises(ValueError, match="new_tokens=1: expected an int of 2 or more"):
        prefill_and_decode(lambda k: None, 1)


def test_noise_gives_no_speed():
    timing = GenerationTiming(Timing((0.1,)), Timing((-0.001,)), Timing((0.1,)), 2)
    assert math.isnan(timing.tokens_per_second)
    assert "decode -1.00 ms per token" in str(timing)


def test_memory_bandwidth_is_plausible_and_not_measured_at_each_call():
    speed = memory_bandwidth("cpu")
    assert 1e8 < speed < 1e13
    assert memory_bandwidth(torch.device("cpu")) == speed  # two measurements would differ


def test_the_fastest_of_all_times_counts(monkeypatch):
    speeds, now = iter([2e9, 1e9, 3e9]), [0.0]
    monkeypatch.setattr(bandwidth, "_seen", {})
    monkeypatch.setattr(bandwidth, "_measured", lambda device, size: next(speeds))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found = []
    for now[0] in (0.0, 9.0, 11.0, 22.5):
        found.append(memory_bandwidth("cpu"))
    assert found == [2e9, 2e9, 2e9, 3e9]


def test_what_fits_into_a_cache_is_measured_there():
    caches = {4_000_000: 3e10, 2**28: 1e10}
    reads = []

    def read_again(device, size):
        reads.append(size)
        return next(speed for most, speed in caches.items() if size <= most * 1.2)

    with mock.patch.object(bandwidth, "_read_again", read_again):
        assert memory_bandwidth("cpu", 3_000_000) == memory_bandwidth("cpu", 10) == 3e10
        assert memory_bandwidth("cpu", 200_000_000) == memory_bandwidth("cpu", 2**40) == memory_bandwidth("cpu") == 1e10
        for size in (5_000_000, 77_777_777, 250_000_000):
            reads.clear()
            memory_bandwidth("cpu", size)
            assert size / 1.2 < min(reads) <= size  # fewer bytes are read faster: it stays a bound
    with pytest.raises(ValueError, match="size=0: expected an int of 1 or more"):
        memory_bandwidth("cpu", 0)


def test_all_cores_read_and_the_number_of_threads_stays(monkeypatch):
    used, before = [], torch.get_num_threads()

    def measured(fns, **options):
        used.append(torch.get_num_threads())
        return {"sum": Timing((0.5,))}

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(before + 2), raising=False)
    monkeypatch.setattr(bandwidth, "measure_all", measured)
    monkeypatch.setattr(bandwidth, "_seen", {})
    assert memory_bandwidth("cpu") == 2**29  # 256 MiB in half a second
    assert used == [before + 2]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_bandwidth_of_a_gpu():
    assert 1e10 < memory_bandwidth() < 1e14
