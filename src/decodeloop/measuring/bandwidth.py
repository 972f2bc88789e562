"""How fast memory can be read: what bounds every decode step."""

from __future__ import annotations

import functools

import torch

from decodeloop.measuring.timing import measure, measure_all, present_device


def memory_bandwidth(device: torch.device | str = "auto") -> float:
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
    return _memory_bandwidth(present_device(device))


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
