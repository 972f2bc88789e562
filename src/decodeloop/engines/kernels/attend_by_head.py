"""Attention over a short text: one program takes one head, or a piece of its positions.

What takes time here is that threads wait for each other, so each of a block's places keeps sums of its own, which are
added up once, at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from decodeloop.engines.kernels.heads import capped, hidden_of, pair, positions, prepared


@triton.jit
def attend_by_head(
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
    """One head's weighted sum of the values of one piece of the positions, as a softmax that is not yet divided.

    With flash attention's names: ``m_i`` is the running maximum of the scores, ``l_i`` the sum of the weights ``p``,
    ``acc`` that of the weighted values, ``alpha`` what scales the earlier ones to a new maximum.
    """
    head, piece = tl.program_id(0), tl.program_id(1)
    row, of_row = head // heads, head % heads
    shared = of_row // GROUPS
    first = (row * (heads // GROUPS) + shared).to(tl.int64) * capacity  # of the head's positions
    column = tl.arange(0, WIDTH)
    inside = column < size
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
    q_pair = pair(query + row * query_stride + of_row * size, column, size, ROTARY)
    new_k, new_v, angles = q_pair[0], q_pair[0], (q_pair[0], q_pair[0])
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
    q = prepared(q_pair, query_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE).to(tl.float32) * scale
    m_own, l_own, acc_own = -3e38, 0.0, tl.zeros((WIDTH,), tl.float32)
    if SINKS:  # the first piece has it
        m_own = tl.where(piece == 0, tl.load(sinks + of_row).to(tl.float32), m_own)
        l_own = tl.where(piece == 0, 1.0, l_own)
    if APPENDS:
        new_k = prepared(k_pair, key_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE)
        if of_row % GROUPS == 0 and piece == 0:
            tl.store(keys + (first + end) * size + column, new_k, mask=inside)
            tl.store(values + (first + end) * size + column, new_v, mask=inside)
        own = capped(tl.sum(new_k.to(tl.float32) * q, axis=0), cap, CAPPED)
        own = tl.where(piece == 0, own, -float("inf"))
        m_new = tl.maximum(m_own, own)
        l_own = l_own * tl.exp(m_own - m_new) + tl.exp(own - m_new)
        acc_own = tl.exp(own - m_new) * new_v.to(tl.float32)
        m_own = m_new
    # Each of a block's places keeps sums of its own, which are added up once, at the end.
    m_i = capped(tl.sum(k.to(tl.float32) * q[None, :], axis=1), cap, CAPPED) + hidden
    m_i = tl.where(m_i < -3e38, -3e38, m_i)  # so that NaN stays
    l_i, acc = tl.where(at < end, 1.0, 0.0), v.to(tl.float32)
    for _ in range(1, blocks):
        at += BLOCK
        hidden = hidden_of(mask, row, capacity, at, at < end)
        k, v = positions(keys, values, first, at, hidden > lowest if SKIPS else at < end, column, size)
        score = capped(tl.sum(k.to(tl.float32) * q[None, :], axis=1), cap, CAPPED) + hidden
        m_ij = tl.maximum(m_i, score)
        p, alpha = tl.exp(score - m_ij), tl.exp(m_i - m_ij)
        l_i, acc, m_i = l_i * alpha + p, acc * alpha[:, None] + p[:, None] * v.to(tl.float32), m_ij
    highest = tl.maximum(tl.max(m_i, axis=0), m_own)
    p, p_own = tl.exp(m_i - highest), tl.exp(m_own - highest)
    l_sum, acc_sum = tl.sum(l_i * p, axis=0) + l_own * p_own, tl.sum(acc * p[:, None], axis=0) + acc_own * p_own
    if PIECES == 1:
        tl.store(result + head * size + column, (acc_sum / l_sum).to(result.dtype.element_ty), mask=inside)
    else:
        slot = head * PIECES + piece
        tl.store(m_pieces + slot, highest)
        tl.store(l_pieces + slot, l_sum)
        tl.store(acc_pieces + slot * WIDTH + column, acc_sum)
