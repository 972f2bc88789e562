"""Is this machine idle? Threads that spin while they wait are right only where no other program wants the core."""

from __future__ import annotations

import os
import time


def idle_cores(seconds: float = 0.05) -> float | None:
    """How many cores had nothing to do for a moment, this process left out; None where the system does not tell.

    Reads Linux's ``/proc/stat``, which counts the whole machine, in a container too. Sleeps for ``seconds``.
    """
    try:
        before, start = _idle_seconds(), time.perf_counter()
        ours = sum(os.times()[:2])
        time.sleep(seconds)
        idle, passed = _idle_seconds() - before, time.perf_counter() - start
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return (idle + sum(os.times()[:2]) - ours) / passed


def is_idle() -> bool:
    """Whether three quarters of the cores that this process may use have nothing to do, or nobody can say."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    idle = idle_cores()
    return idle is None or idle >= 0.75 * cores


def _idle_seconds() -> float:
    with open("/proc/stat") as file:
        idle, waiting = file.readline().split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
