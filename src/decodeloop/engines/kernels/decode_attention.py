"""Attention of one query per row over a cache of fixed capacity: what a decode step needs, and no more.

Libraries tune attention for many queries. With one, it takes as long as reading the keys and values does, if enough
programs read at once: so the positions are cut into pieces, one program takes a piece for one head, and a second
kernel adds the pieces up. Query heads that share keys and values read the same ones, which are not repeated in memory.

Source: `Flash-Decoding for long-context inference <https://pytorch.org/blog/flash-decoding/>`_, written in `Triton
<https://triton-lang.org>`_.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from decodeloop.engines.kernels.overlap import launch

NAME = "decodeloop"  # among transformers' attention functions
BLOCK = 128  # positions that a program loads at once, of heads of up to 64 numbers
LOADED = 8192  # numbers of keys that it loads at once, at most: they stay in registers
BUSY = 512  # programs that keep a GPU's memory busy: heads are cut into pieces until there are so many
OTHERS = ("position_bias", "cache")  # what only other functions know


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: by the kernels below for one query per row, else PyTorch's or the model's own.

    ``query`` is ``[batch, heads, new, head size]``, ``key`` and ``value`` ``[batch, key heads, capacity, head size]``,
    the mask ``[batch, 1, new, capacity]`` is added to the scores; the result is ``[batch, new, heads, head size]``.
    Scores are kept within ``softcap``. ``s_aux`` ``[heads]`` are attention sinks: a score more, of no position. The
    mask holds the window; that there is one says that much is hidden, which is then not read.
    """
    rows, _, new, size = query.shape
    if (
        new != 1
        or attention_mask is None
        or attention_mask.shape != (rows, 1, 1, key.shape[2])
        or not attention_mask.is_floating_point()
        or key.shape != value.shape
        or any(kwargs.get(name) is not None for name in OTHERS)
    ):
        own = sys.modules[type(module).__module__]  # PyTorch's function knows neither caps nor sinks
        plain = sdpa_attention_forward if softcap is None and s_aux is None else own.eager_attention_forward
        return plain(module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, s_aux=s_aux, **kwargs)
    scale = size**-0.5 if scaling is None else scaling
    windowed = sliding_window is not None
    return decode_attention(query, key, value, attention_mask, scale, softcap, s_aux, windowed), None


@torch.library.custom_op("decodeloop::decode_attention", mutates_args=(), device_types="cuda")
def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    windowed: bool,
) -> torch.Tensor:
    """The kernels as an operator of PyTorch: the compiler would copy what the first one leaves for the second."""
    rows, heads, _, size = query.shape
    capacity, groups = key.shape[2], heads // key.shape[1]
    width = triton.next_power_of_2(size)
    block = min(BLOCK, LOADED // width)
    blocks = triton.cdiv(capacity, block)
    pieces = min(blocks, triton.cdiv(BUSY, rows * heads))
    result = query.new_empty(rows, 1, heads, size)
    m_pieces, l_pieces = query.new_empty(2, rows * heads, pieces, dtype=torch.float32)
    acc_pieces = query.new_empty(rows * heads, pieces, width, dtype=torch.float32)
    _attend[(rows * heads, pieces)](
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        mask.contiguous(),
        mask if sinks is None else sinks,
        result,
        m_pieces,
        l_pieces,
        acc_pieces,
        heads,
        capacity,
        size,
        scale,
        0.0 if softcap is None else softcap,
        torch.finfo(mask.dtype).min,
        CAPPED=softcap is not None,
        SINKS=sinks is not None,
        SKIPS=windowed,
        GROUPS=groups,
        PIECES=pieces,
        STEPS=triton.cdiv(blocks, pieces),
        BLOCK=block,
        WIDTH=width,
        num_warps=4,
        **launch(query.device),
    )
    if pieces > 1:
        _join[(rows * heads,)](
            m_pieces,
            l_pieces,
            acc_pieces,
            result,
            size,
            PIECES=pieces,
            WIDTH=width,
            num_warps=1,
            **launch(query.device),
        )
    return result


@decode_attention.register_fake
def _(query: torch.Tensor, *others: Any) -> torch.Tensor:
    rows, heads, new, size = query.shape
    return query.new_empty(rows, new, heads, size)


@triton.jit
def _attend(
    query,
    key,
    value,
    mask,
    sinks,
    result,
    m_pieces,
    l_pieces,
    acc_pieces,
    heads,
    capacity,
    size,
    scale,
    cap,
    lowest,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    SKIPS: tl.constexpr,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One head's weighted sum of the values of one piece of the positions, as a softmax that is not yet divided.

    With flash attention's names: ``m_i`` is the running maximum of the scores, ``l_i`` the sum of the weights ``p``,
    ``acc`` that of the weighted values, ``alpha`` what scales the earlier ones to a new maximum.
    """
    head, piece = tl.program_id(0), tl.program_id(1)
    row = head // heads
    shared = (row * (heads // GROUPS) + (head % heads) // GROUPS).to(tl.int64) * capacity
    column = tl.arange(0, WIDTH)
    inside = column < size
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    q = (tl.load(query + head * size + column, mask=inside, other=0.0).to(tl.float32) * scale).to(tl.float32)
    m_i, l_i, acc = -float("inf"), 0.0, tl.zeros((WIDTH,), tl.float32)
    if SINKS:  # the first piece has it
        m_i = tl.where(piece == 0, tl.load(sinks + head % heads).to(tl.float32), m_i)
        l_i = tl.where(piece == 0, 1.0, l_i)
    for step in range(STEPS):
        position = (piece * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        there = position < capacity
        hidden = tl.load(mask + row * capacity + position, mask=there, other=-float("inf")).to(tl.float32)
        if SKIPS:
            there = there & (hidden > lowest)
        at, both = (shared + position)[:, None] * size + column[None, :], there[:, None] & inside[None, :]
        k = tl.load(key + at, mask=both, other=0.0).to(tl.float32)
        v = tl.load(value + at, mask=both, other=0.0).to(tl.float32)
        score = tl.sum(k * q[None, :], axis=1)
        if CAPPED:
            score = cap * (2 * tl.sigmoid(2 * score / cap) - 1)  # cap * tanh(score / cap)
        score += hidden
        m_ij = tl.maximum(tl.maximum(m_i, tl.max(score, axis=0)), -3e38)  # a piece may lie beyond the end
        p, alpha = tl.exp(score - m_ij), tl.exp(m_i - m_ij)
        l_i = l_i * alpha + tl.sum(p, axis=0)
        acc = acc * alpha + tl.sum(p[:, None] * v, axis=0)
        m_i = m_ij
    if PIECES == 1:
        tl.store(result + head * size + column, (acc / l_i).to(result.dtype.element_ty), mask=inside)
    else:
        slot = head * PIECES + piece
        tl.store(m_pieces + slot, m_i)
        tl.store(l_pieces + slot, l_i)
        tl.store(acc_pieces + slot * WIDTH + column, acc)


@triton.jit
def _join(
    m_pieces,
    l_pieces,
    acc_pieces,
    result,
    size,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One head's pieces, weighed by their highest scores."""
    head, column = tl.program_id(0), tl.arange(0, WIDTH)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    m_i = tl.load(m_pieces + head * PIECES)
    for piece in range(1, PIECES):
        m_i = tl.maximum(m_i, tl.load(m_pieces + head * PIECES + piece))
    l_i, acc = 0.0, tl.zeros((WIDTH,), tl.float32)
    for piece in range(PIECES):
        slot = head * PIECES + piece
        alpha = tl.exp(tl.load(m_pieces + slot) - m_i)
        l_i += alpha * tl.load(l_pieces + slot)
        acc += alpha * tl.load(acc_pieces + slot * WIDTH + column)
    tl.store(result + head * size + column, (acc / l_i).to(result.dtype.element_ty), mask=column < size)


AttentionInterface.register(NAME, attention)
