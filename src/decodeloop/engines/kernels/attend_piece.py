"""The kernel of attention for one query per row: one program takes a piece of the positions, for one head or a group.

A group is all query heads that share keys and values, which one program reads once for all of them. Tensor cores
multiply, which take 16 heads at least: a smaller group is filled up, which costs nothing. Over a short text, what takes
time is that threads wait for each other: there a program takes one head, and each of a block's places keeps sums of its
own, which are added up once, at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

from decodeloop.engines.kernels.heads import capped, hidden_of, pair, positions, prepared

STAGES = tl.constexpr(3)  # blocks of a group on their way at once
LEAST = tl.constexpr(-3.4028234663852886e38)  # float32's, which a mask has, too


@triton.jit
def attend_piece(
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
    BY_GROUP: tl.constexpr,
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
    """The weighted sums of one piece's values, as a softmax that is not yet divided.

    With flash attention's names: ``m_i`` is the running maximum of the scores, ``l_i`` the sum of the weights ``p``,
    ``acc`` that of the weighted values, ``alpha`` what scales the earlier ones to a new maximum.
    """
    program, piece = tl.program_id(0), tl.program_id(1)
    if BY_GROUP:
        row, shared = program // (heads // GROUPS), program % (heads // GROUPS)
        member = tl.arange(0, HEADS)
        head = shared * GROUPS + tl.minimum(member, GROUPS - 1)  # of those that share, the last one several times
        m_own, l_own = tl.full((HEADS,), LEAST, tl.float32), tl.zeros((HEADS,), tl.float32)
        acc_own = tl.zeros((HEADS, WIDTH), tl.float32)
        writes = piece == 0
    else:
        row, head = program // heads, program % heads
        shared = head // GROUPS
        m_own, l_own, acc_own = LEAST, 0.0, tl.zeros((WIDTH,), tl.float32)
        writes = (head % GROUPS == 0) & (piece == 0)
    first = (row * (heads // GROUPS) + shared).to(tl.int64) * capacity  # of the head's positions
    column = tl.arange(0, WIDTH)
    inside = column < size
    columns = column[None, :] if BY_GROUP else column  # of each head
    begin = piece * STEPS * BLOCK
    at = begin + tl.arange(0, BLOCK)
    end = capacity  # of the positions that are read
    if APPENDS:
        end = tl.load(position).to(tl.int32)
    blocks = tl.minimum(STEPS, tl.cdiv(end - begin, BLOCK))
    early: tl.constexpr = APPENDS and not SKIPS  # what a window hides is known later
    if early:
        k, v = positions(keys, values, first, at, at < end, column, size)
    query_scales, key_scales = (0.0, 0.0), (0.0, 0.0)
    if NORMS:
        query_scales = pair(query_norm, column, size, ROTARY)
        key_scales = pair(key_norm, column, size, ROTARY)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    # All is loaded before anything is computed: each waiting for memory is a large part of this kernel's time.
    start = (head[:, None] if BY_GROUP else head) * size
    q_pair = pair(query + row * query_stride + start, columns, size, ROTARY)
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
    q = prepared(q_pair, query_scales, angles, eps, columns, size, ROTARY, NORMS, PLUS_ONE)
    if not BY_GROUP:
        q = q.to(tl.float32)
    if SINKS:  # the first piece has it
        m_own = tl.where(piece == 0, tl.load(sinks + head).to(tl.float32), m_own)
        l_own = tl.where(piece == 0, 1.0, l_own)
    if APPENDS:
        new_k = prepared(k_pair, key_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE)
        if writes:
            tl.store(keys + (first + end) * size + column, new_k, mask=inside)
            tl.store(values + (first + end) * size + column, new_v, mask=inside)
        own = capped(tl.sum(q.to(tl.float32) * new_k.to(tl.float32), axis=-1) * scale, cap, CAPPED)
        own = tl.where(piece == 0, own, -float("inf"))
        m_new = tl.maximum(m_own, own)
        p = tl.exp(own - m_new)
        l_own = l_own * tl.exp(m_own - m_new) + p
        acc_own = (p[:, None] if BY_GROUP else p) * new_v.to(tl.float32)
        m_own = m_new
    if BY_GROUP:
        m_i, l_i, acc = _group_and(m_own, l_own, acc_own, q, k, v, hidden, scale, cap, CAPPED)
    else:
        m_i, l_i = tl.full((BLOCK,), LEAST, tl.float32), tl.zeros((BLOCK,), tl.float32)
        acc = tl.zeros((BLOCK, WIDTH), tl.float32)
        m_i, l_i, acc = _places_and(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED)
    for _ in tl.range(1, blocks, num_stages=STAGES if BY_GROUP else None):
        at += BLOCK
        hidden = hidden_of(mask, row, capacity, at, at < end)
        k, v = positions(keys, values, first, at, hidden > lowest if SKIPS else at < end, column, size)
        if BY_GROUP:
            m_i, l_i, acc = _group_and(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED)
        else:
            m_i, l_i, acc = _places_and(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED)
    if not BY_GROUP:
        highest = tl.maximum(tl.max(m_i, axis=0), m_own)
        p, p_own = tl.exp(m_i - highest), tl.exp(m_own - highest)
        l_i, acc = tl.sum(l_i * p, axis=0) + l_own * p_own, tl.sum(acc * p[:, None], axis=0) + acc_own * p_own
        m_i = highest
    slot = row * heads + head
    wanted = (member < GROUPS)[:, None] & inside[None, :] if BY_GROUP else inside
    if PIECES == 1:
        acc = acc / (l_i[:, None] if BY_GROUP else l_i)
        place = (slot[:, None] if BY_GROUP else slot) * size + columns
        tl.store(result + place, acc.to(result.dtype.element_ty), mask=wanted)
    else:
        slot = slot * PIECES + piece
        place = (slot[:, None] if BY_GROUP else slot) * WIDTH + columns
        tl.store(m_pieces + slot, m_i, mask=member < GROUPS if BY_GROUP else None)
        tl.store(l_pieces + slot, l_i, mask=member < GROUPS if BY_GROUP else None)
        tl.store(acc_pieces + place, acc, mask=wanted)


@triton.jit
def _group_and(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED: tl.constexpr):
    """A group's sums with some more positions."""
    score = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * scale
    score = capped(score, cap, CAPPED) + hidden[None, :]
    m_ij = tl.maximum(m_i, tl.max(score, axis=1))
    p, alpha = tl.exp(score - m_ij[:, None]), tl.exp(m_i - m_ij)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return m_ij, l_i * alpha + tl.sum(p, axis=1), acc


@triton.jit
def _places_and(m_i, l_i, acc, q, k, v, hidden, scale, cap, CAPPED: tl.constexpr):
    """The same of one head, where each place of a block has sums of its own."""
    score = capped(tl.sum(k.to(tl.float32) * q[None, :], axis=1) * scale, cap, CAPPED) + hidden
    m_ij = tl.maximum(m_i, score)
    p, alpha = tl.exp(score - m_ij), tl.exp(m_i - m_ij)
    return m_ij, l_i * alpha + p, acc * alpha[:, None] + p[:, None] * v.to(tl.float32)
