"""Attention over a long text: one program takes all query heads that share keys and values, which it reads once.

Tensor cores multiply, which take 16 heads at least: a group of fewer is filled up, which costs nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from decodeloop.engines.kernels.heads import capped, hidden_of, pair, positions, prepared

STAGES = tl.constexpr(3)  # blocks on their way at once


@triton.jit
def attend_by_group(
    query,
    key,
    value,
    keys,
    values,
    mask,
    sinks,
    position,
    cos,
    sin,
    query_norm,
    key_norm,
    result,
    m_pieces,
    l_pieces,
    acc_pieces,
    query_stride,
    key_stride,
    value_stride,
    cos_stride,
    heads,
    capacity,
    size,
    scale,
    eps,
    cap,
    lowest,
    APPENDS: tl.constexpr,
    ROTARY: tl.constexpr,
    NORMS: tl.constexpr,
    PLUS_ONE: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    SKIPS: tl.constexpr,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    PIECES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The weighted sums of ``GROUPS`` heads of one piece's values, as a softmax that is not yet divided.

    With flash attention's names: ``m_i`` is the running maximum of the scores, ``l_i`` the sum of the weights ``p``,
    ``acc`` that of the weighted values, ``alpha`` what scales the earlier ones to a new maximum.
    """
    shared, piece = tl.program_id(0), tl.program_id(1)
    row, shared = shared // (heads // GROUPS), shared % (heads // GROUPS)
    first = (row * (heads // GROUPS) + shared).to(tl.int64) * capacity  # of the head's positions
    column = tl.arange(0, WIDTH)
    inside = column < size
    group = tl.arange(0, HEADS)
    head = shared * GROUPS + tl.minimum(group, GROUPS - 1)  # of those that share, the last one several times
    begin = piece * STEPS * BLOCK
    at = begin + tl.arange(0, BLOCK)
    end = capacity  # of the positions that are read
    if APPENDS:
        end = tl.load(position).to(tl.int32)
    blocks = tl.minimum(STEPS, tl.cdiv(end - begin, BLOCK))
    early: tl.constexpr = APPENDS and not SKIPS  # what a window hides is known later
    if early:
        k, v = positions(keys, values, first, at, at < end, column, size)
    if NORMS:
        query_scales = pair(query_norm, column, size, ROTARY)
        key_scales = pair(key_norm, column, size, ROTARY)
    else:
        query_scales, key_scales = (0.0, 0.0), (0.0, 0.0)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    # All is loaded before anything is computed: each waiting for memory is a large part of this kernel's time.
    q_pair = pair(query + row * query_stride + head[:, None] * size, column[None, :], size, ROTARY)
    angles = (0.0, 0.0)
    if ROTARY > 0:
        turns = column < ROTARY
        angles = (
            tl.load(cos + row * cos_stride + column, mask=turns, other=0.0),
            tl.load(sin + row * cos_stride + column, mask=turns, other=0.0),
        )
    if APPENDS:
        k_pair = pair(key + row * key_stride + shared * size, column, size, ROTARY)
        new_v = tl.load(value + row * value_stride + shared * size + column, mask=inside, other=0.0)
    hidden = hidden_of(mask, row, capacity, at, at < end)
    if not early:
        k, v = positions(keys, values, first, at, hidden > lowest if SKIPS else at < end, column, size)
    q = prepared(q_pair, query_scales, angles, eps, column[None, :], size, ROTARY, NORMS, PLUS_ONE)
    m_i = tl.full((HEADS,), -3e38, tl.float32)
    l_i = tl.zeros((HEADS,), tl.float32)
    acc = tl.zeros((HEADS, WIDTH), tl.float32)
    if SINKS:  # the first piece has it
        m_i = tl.where(piece == 0, tl.load(sinks + head).to(tl.float32), m_i)
        l_i = tl.where(piece == 0, 1.0, l_i)
    if APPENDS:
        new_k = prepared(k_pair, key_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE)
        if piece == 0:
            tl.store(keys + (first + end) * size + column, new_k, mask=inside)
            tl.store(values + (first + end) * size + column, new_v, mask=inside)
        own = capped(tl.sum(q.to(tl.float32) * new_k.to(tl.float32)[None, :], axis=1) * scale, cap, CAPPED)
        own = tl.where(piece == 0, own, -float("inf"))
        m_new = tl.maximum(m_i, own)
        l_i = l_i * tl.exp(m_i - m_new) + tl.exp(own - m_new)
        acc = tl.exp(own - m_new)[:, None] * new_v.to(tl.float32)[None, :]
        m_i = m_new
    m_i, l_i, acc = _add(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED)
    for _ in tl.range(1, blocks, num_stages=STAGES):
        at += BLOCK
        hidden = hidden_of(mask, row, capacity, at, at < end)
        k, v = positions(keys, values, first, at, hidden > lowest if SKIPS else at < end, column, size)
        m_i, l_i, acc = _add(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED)
    head = row * heads + head
    wanted = (group < GROUPS)[:, None] & inside[None, :]
    if PIECES == 1:
        tl.store(
            result + head[:, None] * size + column[None, :], (acc / l_i[:, None]).to(result.dtype.element_ty), wanted
        )
    else:
        slot = head * PIECES + piece
        tl.store(m_pieces + slot, m_i, mask=group < GROUPS)
        tl.store(l_pieces + slot, l_i, mask=group < GROUPS)
        tl.store(acc_pieces + slot[:, None] * WIDTH + column[None, :], acc, mask=(group < GROUPS)[:, None])


@triton.jit
def _add(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED: tl.constexpr):
    """The sums with some more positions."""
    score = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
    score = capped(score, cap, CAPPED) + hidden[None, :]
    m_ij = tl.maximum(m_i, tl.max(score, axis=1))
    p, alpha = tl.exp(score - m_ij[:, None]), tl.exp(m_i - m_ij)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return m_ij, l_i * alpha + tl.sum(p, axis=1), acc
