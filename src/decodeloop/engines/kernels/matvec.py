"""A linear layer for a single row: a matrix-vector product, which takes as long as reading the matrix does.

Libraries tune their products for many rows, and one row leaves part of the memory's speed unused. The kernel here gives
each of many small programs two rows of the matrix or so, and has it load the next piece while it multiplies this one.
The sizes are the fastest ones, or within 2 % of them, for five matrices of phi-1_5 on an H100, of about 60 tried: they
took 0.73 (2,048 x 2,048) to 0.90 (14,336 x 2,048) of the time of PyTorch's product.

Source: the idea is that of any GEMV kernel, such as `FastGEMV <https://github.com/wangsiping97/FastGEMV>`_; it is
written in `Triton <https://triton-lang.org>`_, which comes with PyTorch for CUDA and which ``torch.compile`` needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

COLUMNS = 2048  # of one row, loaded at once
PIECE = 4096  # weights that a program loads at once: of two rows, or more of a narrow matrix
DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # what may be added up in float32


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``torch.nn.functional.linear``; for a single row of ``x`` by the kernel below.

    ``x`` is ``[..., in]``, ``weight`` ``[out, in]`` and contiguous, ``bias`` ``[out]``; the result is ``[..., out]``.
    """
    rows, columns = weight.shape
    if x.numel() != columns or x.dtype not in DTYPES:
        return functional.linear(x, weight, bias)
    y = x.new_empty((*x.shape[:-1], rows))
    width = min(COLUMNS, triton.next_power_of_2(columns))
    height = PIECE // width
    _matvec[(triton.cdiv(rows, height),)](
        x.contiguous(),
        weight,
        weight if bias is None else bias,
        y,
        rows,
        columns,
        HAS_BIAS=bias is not None,
        HEIGHT=height,
        WIDTH=width,
        num_warps=2,
        num_stages=4,
    )
    return y


@triton.jit
def _matvec(x, weight, bias, y, rows, columns, HAS_BIAS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """``HEIGHT`` rows of ``weight @ x + bias``; the weights pass the cache by, since nothing reads them again."""
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    start = weight + row[:, None].to(tl.int64) * columns
    total = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for first in range(0, columns, WIDTH):
        column = first + tl.arange(0, WIDTH)
        inside = column < columns
        vector = tl.load(x + column, mask=inside, other=0.0, eviction_policy="evict_last")
        matrix = tl.load(
            start + column[None, :],
            mask=(row < rows)[:, None] & inside[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        total += matrix.to(tl.float32) * vector.to(tl.float32)[None, :]
    result = tl.sum(total, axis=1)
    if HAS_BIAS:
        result += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)
    tl.store(y + row, result.to(y.dtype.element_ty), mask=row < rows)
