"""The product of a single row on a CPU: PyTorch's, or a sum of which its compiler makes one loop.

Which of the two reads a matrix faster depends on the processor and the dtype, so they are timed, once in a process: on
two cores of an Intel Xeon, a product of 8,192 x 2,048 weights read 25 GB/s in float32 and 11 in bfloat16, a sum 20 and
13; on two of an AMD EPYC, the products of llama-110m's shape 13 in float32, and sums 27.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from decodeloop.engines.kernels.products import DTYPES, summed

Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

SHAPE = (8192, 2048)  # of a matrix: in float32, 64 MB
RUNS = 9  # of each, in turns; the fastest one counts


def faster(dtype: torch.dtype) -> Linear:
    """The faster ``linear(x, weight, bias)`` for a single row in a compiled step, on as many threads as there are.

    The sum for a model that is spread over ranks: each of them would time for itself, two products round differently,
    and what all ranks compute must be the same on all.
    """
    if dtype not in DTYPES:  # there is no sum of such numbers
        return functional.linear
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return summed
    return _faster(dtype, torch.get_num_threads())


@functools.cache
@torch.no_grad()
def _faster(dtype: torch.dtype, threads: int) -> Linear:
    def loop(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return summed(x, weight, bias)

    loop.__code__ = loop.__code__.replace()  # torch compiles one function only so many times, and counts by code
    weight = torch.ones(SHAPE, dtype=dtype, device="cpu")
    compiled = torch.compile(loop, dynamic=False, backend="inductor")
    with torch.autocast("cpu", enabled=False):
        try:
            compiled(weight[:1, None], weight, None)
        except Exception:  # no C++ compiler, most often, or compiling is forbidden here: the step will say so
            return functional.linear
        times = [(seconds(compiled, weight), seconds(functional.linear, weight)) for _ in range(RUNS)]
    of_sum, of_product = map(min, zip(*times, strict=True))
    return summed if of_sum < of_product else functional.linear


def seconds(linear: Linear, weight: torch.Tensor) -> float:
    """How long a product with a row takes."""
    begin = time.perf_counter()
    linear(weight[:1, None], weight, None)
    return time.perf_counter() - begin
