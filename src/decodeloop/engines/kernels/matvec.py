"""A matrix-vector product, which takes as long as reading the matrix does, with what stands around it in a layer.

Libraries tune their products for many rows, and one row leaves part of the memory's speed unused. The kernel here gives
each of many small programs a few rows of the matrix, which it begins to load while the kernel before it ends
(:mod:`decodeloop.engines.kernels.overlap`). The sizes are those of 37 rules that made whole steps of Qwen3-0.6B,
Qwen2.5-0.5B, Llama-3.2-1B and phi-1_5 fastest on an H200, on the whole: phi-1_5's takes 1.03 of its fastest one's.

A norm before it, a gate or a sum behind it, cost nothing in it, and a kernel of their own, a microsecond or more, if
they stand alone: in a small model that is as much as the product.

Source: the idea is that of any GEMV kernel, such as `FastGEMV <https://github.com/wangsiping97/FastGEMV>`_; it is
written in `Triton <https://triton-lang.org>`_, which comes with PyTorch for CUDA and which ``torch.compile`` needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from decodeloop.engines.kernels.overlap import launch

COLUMNS = 2048  # of one row, loaded at once
PIECE = 8192  # weights that a program loads at once, 64 for each of its threads: of 4 rows, or more of a narrow matrix
AHEAD = 12288  # weights that it may load before it waits
WARPS = 4
PROGRAMS = 400  # that keep a GPU busy: of a matrix of few rows, each program takes fewer
MANY = 2**15  # rows, as a vocabulary has: programs follow each other then, and small loads wait for each other less


def sizes(rows: int, columns: int, paired: bool) -> tuple[int, int, int]:
    """Columns and rows that a program loads at once, and how often it does before it waits.

    More rows share what they are multiplied with, which is read again by each program; ``paired`` rows stay together.
    """
    width = min(COLUMNS, triton.next_power_of_2(columns))
    if rows >= MANY and not paired:
        return min(width, 512), 8, min(triton.cdiv(columns, 512), 2)
    height, least = PIECE // width, 2 if paired else 1
    while height > least and rows // height < PROGRAMS:
        height //= 2
    if height <= 2 and COLUMNS < columns <= 2 * COLUMNS:
        width = 2 * COLUMNS  # whole rows
    return width, height, min(triton.cdiv(columns, width), max(AHEAD // (width * height), 1), 3)


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    norm: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    eps: float = 0.0,
    kind: str = "",
    gate: str = "",
    first: int | None = None,
    residual: torch.Tensor | None = None,
    other: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the operators of :mod:`decodeloop.engines.kernels.products` say, of one row ``x`` ``[..., in]``."""
    rows, columns = weight.shape
    paired = gate != "" and first is None
    width, height, ahead = sizes(rows, columns, paired)
    rows = rows // 2 if paired else rows
    y = x.new_empty((*x.shape[:-1], rows))
    _matvec[(triton.cdiv(rows, height // 2 if paired else height),)](
        x.contiguous(),
        weight,
        weight if bias is None else bias,
        weight if norm is None else norm,
        weight if shift is None else shift,
        weight if residual is None else residual.contiguous(),
        weight if other is None else other.contiguous(),
        y,
        rows,
        columns,
        first or 0,
        eps,
        HAS_BIAS=bias is not None,
        NORM=kind,
        HAS_SHIFT=shift is not None,
        GATE=gate if paired else "",
        ACTIVATION="" if paired else gate,
        HAS_RESIDUAL=residual is not None,
        HAS_OTHER=other is not None,
        HEIGHT=height,
        WIDTH=width,
        AHEAD=ahead,
        num_warps=WARPS,
        num_stages=4,
        **launch(x.device),
    )
    return y


@triton.jit
def _matvec(
    x,
    weight,
    bias,
    norm,
    shift,
    residual,
    other,
    y,
    rows,
    columns,
    first_active,
    eps,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    GATE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_OTHER: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """``HEIGHT`` rows of the matrix; they pass the cache by, since nothing reads them again."""
    place = tl.arange(0, HEIGHT)
    if GATE != "":  # a gate and what it opens beside each other
        out = tl.program_id(0) * (HEIGHT // 2) + place // 2
        row = out + rows * (place % 2)
    else:
        out = tl.program_id(0) * HEIGHT + place
        row = out
    start = weight + row[:, None].to(tl.int64) * columns
    there = (out < rows)[:, None]
    column = tl.arange(0, WIDTH)
    inside = column < columns
    matrix = _piece(start, there, column, columns)
    second, third = matrix, matrix
    if AHEAD > 1:
        second = _piece(start, there, WIDTH + column, columns)
    if AHEAD > 2:
        third = _piece(start, there, 2 * WIDTH + column, columns)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    mean, scale = 0.0, 1.0
    if NORM == "layer":
        sums = tl.zeros((WIDTH,), tl.float32)
        for first in range(0, columns, WIDTH):
            sums += tl.load(x + first + column, mask=first + column < columns, other=0.0).to(tl.float32)
        mean = tl.sum(sums, axis=0) / columns
    if NORM != "":
        squares = tl.zeros((WIDTH,), tl.float32)
        for first in range(0, columns, WIDTH):
            numbers = tl.load(x + first + column, mask=first + column < columns, other=0.0).to(tl.float32)
            numbers = tl.where(first + column < columns, numbers - mean, 0.0)
            squares += numbers * numbers
        scale = tl.rsqrt(tl.sum(squares, axis=0) / columns + eps)
    vector = _normed(x, norm, shift, mean, scale, column, inside, NORM, HAS_SHIFT)
    total = matrix.to(tl.float32) * vector[None, :]
    if AHEAD > 1:
        vector = _normed(x, norm, shift, mean, scale, WIDTH + column, WIDTH + column < columns, NORM, HAS_SHIFT)
        total += second.to(tl.float32) * vector[None, :]
    if AHEAD > 2:
        vector = _normed(x, norm, shift, mean, scale, 2 * WIDTH + column, 2 * WIDTH + column < columns, NORM, HAS_SHIFT)
        total += third.to(tl.float32) * vector[None, :]
    for first in range(AHEAD * WIDTH, columns, WIDTH):
        column = first + tl.arange(0, WIDTH)
        vector = _normed(x, norm, shift, mean, scale, column, column < columns, NORM, HAS_SHIFT)
        total += _piece(start, there, column, columns).to(tl.float32) * vector[None, :]
    result = tl.sum(total, axis=1)
    if HAS_BIAS:
        result += tl.load(bias + row, mask=out < rows, other=0.0).to(tl.float32)
    result = result.to(y.dtype.element_ty)
    if GATE != "":
        gates, others = tl.split(tl.reshape(result, (HEIGHT // 2, 2)))
        result = (_activated(gates, GATE).to(tl.float32) * others.to(tl.float32)).to(others.dtype)
        out = tl.program_id(0) * (HEIGHT // 2) + tl.arange(0, HEIGHT // 2)
    if ACTIVATION != "":
        result = tl.where(out < first_active, result, _activated(result, ACTIVATION))
    if HAS_RESIDUAL:
        before = tl.load(residual + out, mask=out < rows, other=0.0)
        result = (before.to(tl.float32) + result.to(tl.float32)).to(result.dtype)
    if HAS_OTHER:
        before = tl.load(other + out, mask=out < rows, other=0.0)
        result = (before.to(tl.float32) + result.to(tl.float32)).to(result.dtype)
    tl.store(y + out, result, mask=out < rows)


@triton.jit
def _piece(start, there, column, columns):
    """Some columns of a program's rows."""
    inside = there & (column < columns)[None, :]
    return tl.load(start + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit
def _normed(x, norm, shift, mean, scale, column, inside, NORM: tl.constexpr, HAS_SHIFT: tl.constexpr):
    """Some of the numbers that are multiplied, in float32, rounded where the model rounds them."""
    numbers = tl.load(x + column, mask=inside, other=0.0, eviction_policy="evict_last")
    if NORM != "":
        weights = tl.load(norm + column, mask=inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
        scaled = (numbers.to(tl.float32) - mean) * scale
        if NORM == "rms":
            numbers = (scaled.to(numbers.dtype).to(tl.float32) * weights).to(numbers.dtype)
        elif NORM == "rms_plus_one":
            numbers = (scaled * (1 + weights)).to(numbers.dtype)
        else:
            shifts = 0.0
            if HAS_SHIFT:
                shifts = tl.load(shift + column, mask=inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
            numbers = (scaled * weights + shifts).to(numbers.dtype)
    return numbers.to(tl.float32)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    wide = x.to(tl.float32)
    if ACTIVATION == "silu":
        wide = wide / (1 + tl.exp(-wide))
    elif ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (wide + 0.044715 * wide * wide * wide)
        wide = wide * (1 - 1 / (tl.exp(2 * inner) + 1))
    elif ACTIVATION == "gelu":
        wide = 0.5 * wide * (1 + tl.erf(0.7071067811865476 * wide))
    else:
        wide = tl.where(wide < 0.0, 0.0, wide)  # so that NaN stays
    return wide.to(x.dtype)
