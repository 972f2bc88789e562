"""Attention of one query per row over a cache of fixed capacity: what a decode step needs, and no more.

Libraries tune attention for many queries. With one, it takes as long as reading the keys and values does, if enough
programs read at once: so the positions are cut into pieces, one program takes a piece for one head, and a second
kernel adds the pieces up. Query heads that share keys and values read the same ones, which are not repeated in memory.

Source: `Flash-Decoding for long-context inference <https://pytorch.org/blog/flash-decoding/>`_, written in `Triton
<https://triton-lang.org>`_.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "decodeloop"  # among transformers' attention functions
BLOCK = 128  # positions that a program loads at once, of heads of up to 64 numbers
LOADED = 8192  # numbers of keys that it loads at once, at most: they stay in registers
BUSY = 512  # programs that keep a GPU's memory busy: heads are cut into pieces until there are so many
OTHERS = ("position_bias", "softcap", "s_aux", "sliding_window", "cache")  # what only other functions know


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: by the kernels below for one query per row, else PyTorch's.

    ``query`` is ``[batch, heads, new, head size]``, ``key`` and ``value`` ``[batch, key heads, capacity, head size]``,
    the mask ``[batch, 1, new, capacity]`` is added to the scores; the result is ``[batch, new, heads, head size]``.
    """
    rows, heads, new, size = query.shape
    ours = new == 1 and attention_mask is not None and attention_mask.shape == (rows, 1, 1, key.shape[2])
    ours = ours and attention_mask.is_floating_point() and key.shape == value.shape
    if not ours or any(kwargs.get(name) is not None for name in OTHERS):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    capacity, groups = key.shape[2], heads // key.shape[1]
    width = triton.next_power_of_2(size)
    block = min(BLOCK, LOADED // width)
    blocks = triton.cdiv(capacity, block)
    pieces = min(blocks, triton.cdiv(BUSY, rows * heads))
    result = query.new_empty(rows, 1, heads, size)
    best, norm = query.new_empty(2, rows * heads, pieces, dtype=torch.float32)
    total = query.new_empty(rows * heads, pieces, width, dtype=torch.float32)
    scale = size**-0.5 if scaling is None else scaling
    _attend[(rows * heads, pieces)](
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        attention_mask.contiguous(),
        result,
        best,
        norm,
        total,
        heads,
        capacity,
        size,
        scale,
        GROUPS=groups,
        PIECES=pieces,
        STEPS=triton.cdiv(blocks, pieces),
        BLOCK=block,
        WIDTH=width,
        num_warps=4,
    )
    if pieces > 1:
        _join[(rows * heads,)](best, norm, total, result, size, PIECES=pieces, WIDTH=width, num_warps=1)
    return result, None


@triton.jit
def _attend(
    query,
    key,
    value,
    mask,
    result,
    best,
    norm,
    total,
    heads,
    capacity,
    size,
    scale,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One head's weighted sum of the values of one piece of the positions, as a softmax that is not yet divided."""
    head, piece = tl.program_id(0), tl.program_id(1)
    row = head // heads
    shared = (row * (heads // GROUPS) + (head % heads) // GROUPS).to(tl.int64) * capacity
    column = tl.arange(0, WIDTH)
    inside = column < size
    q = (tl.load(query + head * size + column, mask=inside, other=0.0).to(tl.float32) * scale).to(tl.float32)
    top, weight, sum_ = -float("inf"), 0.0, tl.zeros((WIDTH,), tl.float32)
    for step in range(STEPS):
        position = (piece * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        there = position < capacity
        at, both = (shared + position)[:, None] * size + column[None, :], there[:, None] & inside[None, :]
        k = tl.load(key + at, mask=both, other=0.0).to(tl.float32)
        v = tl.load(value + at, mask=both, other=0.0).to(tl.float32)
        hidden = tl.load(mask + row * capacity + position, mask=there, other=-float("inf")).to(tl.float32)
        score = tl.sum(k * q[None, :], axis=1) + hidden
        higher = tl.maximum(tl.maximum(top, tl.max(score, axis=0)), -3e38)  # a piece may lie beyond the end
        share, before = tl.exp(score - higher), tl.exp(top - higher)
        weight = weight * before + tl.sum(share, axis=0)
        sum_ = sum_ * before + tl.sum(share[:, None] * v, axis=0)
        top = higher
    if PIECES == 1:
        tl.store(result + head * size + column, (sum_ / weight).to(result.dtype.element_ty), mask=inside)
    else:
        slot = head * PIECES + piece
        tl.store(best + slot, top)
        tl.store(norm + slot, weight)
        tl.store(total + slot * WIDTH + column, sum_)


@triton.jit
def _join(best, norm, total, result, size, PIECES: tl.constexpr, WIDTH: tl.constexpr):
    """One head's pieces, weighed by their highest scores."""
    head, column = tl.program_id(0), tl.arange(0, WIDTH)
    top = tl.load(best + head * PIECES)
    for piece in range(1, PIECES):
        top = tl.maximum(top, tl.load(best + head * PIECES + piece))
    weight, sum_ = 0.0, tl.zeros((WIDTH,), tl.float32)
    for piece in range(PIECES):
        slot = head * PIECES + piece
        share = tl.exp(tl.load(best + slot) - top)
        weight += share * tl.load(norm + slot)
        sum_ += share * tl.load(total + slot * WIDTH + column)
    tl.store(result + head * size + column, (sum_ / weight).to(result.dtype.element_ty), mask=column < size)


AttentionInterface.register(NAME, attention)
