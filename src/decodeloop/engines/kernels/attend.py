"""Kernels for the attention of one query per row over a cache of fixed capacity.

Libraries tune attention for many queries. With one, it takes as long as reading the keys and values does, if enough
programs read at once: so the positions are cut into pieces, one program takes a piece for one head, and a second
kernel adds the pieces up. Query heads that share keys and values read the same ones, which are not repeated in memory.

What comes before it in a step is small, and a kernel of its own takes as long as attention over a short text. So the
same programs can normalise and rotate their query and the token's key, and write the key and the value into the cache:
each one computes the key for itself, and the first one whose piece has the token's place writes it. Earlier positions
are on their way by then: they are nobody's result (:mod:`decodeloop.engines.kernels.overlap`).

Source: `Flash-Decoding for long-context inference <https://pytorch.org/blog/flash-decoding/>`_, written in `Triton
<https://triton-lang.org>`_.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from decodeloop.engines.kernels.heads import _pair, _prepared
from decodeloop.engines.kernels.overlap import launch

BLOCK = 128  # positions that a program loads at once, of heads of up to 128 numbers
LOADED = 16384  # numbers of keys that it loads at once, at most: they stay in registers
ALONE = 4  # times so many are one program's: to add pieces up takes as long
BUSY = 512  # programs that keep a GPU's memory busy: heads are cut into pieces until there are so many


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    windowed: bool,
    *,
    key: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None,
    eps: float = 0.0,
    plus_one: bool = False,
) -> torch.Tensor:
    """What the operators of :mod:`decodeloop.engines.kernels.decode_attention` say."""
    rows, heads, _, size = query.shape
    capacity, groups = keys.shape[2], heads // keys.shape[1]
    width = triton.next_power_of_2(size)
    block = min(BLOCK, LOADED // width)
    blocks = triton.cdiv(capacity, block)
    pieces = min(blocks, triton.cdiv(BUSY, rows * heads)) if blocks > ALONE else 1
    result = query.new_empty(rows, 1, heads, size)
    m_pieces, l_pieces = query.new_empty(2, rows * heads, pieces, dtype=torch.float32)
    acc_pieces = query.new_empty(rows * heads, pieces, width, dtype=torch.float32)
    if key is None or value is None or position is None:
        query, key, value, position = query.contiguous(), query, query, mask  # of which only the query is read
        keys, values = keys.contiguous(), values.contiguous()
        appends = False
    else:
        query, key, value = (x if x.stride()[1::2] == (size, 1) else x.contiguous() for x in (query, key, value))
        appends = True
    cosines, sines = (mask, mask) if cos is None or sin is None else (cos.contiguous(), sin.contiguous())
    query_norm, key_norm = norms or (mask, mask)
    _attend[(rows * heads, pieces)](
        query,
        key,
        value,
        keys,
        values,
        mask.contiguous(),
        mask if sinks is None else sinks,
        position,
        cosines,
        sines,
        query_norm,
        key_norm,
        result,
        m_pieces,
        l_pieces,
        acc_pieces,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        cosines.stride(0) if cosines.shape[0] > 1 else 0,
        heads,
        capacity,
        size,
        scale,
        eps,
        0.0 if softcap is None else softcap,
        torch.finfo(mask.dtype).min,
        APPENDS=appends,
        ROTARY=0 if cos is None else cos.shape[-1],
        NORMS=norms is not None,
        PLUS_ONE=plus_one,
        CAPPED=softcap is not None,
        SINKS=sinks is not None,
        SKIPS=windowed,
        GROUPS=groups,
        PIECES=pieces,
        STEPS=triton.cdiv(blocks, pieces),
        BLOCK=block,
        WIDTH=width,
        num_warps=4 if block * width < LOADED else 8,
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


@triton.jit
def _attend(
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
    at = piece * STEPS * BLOCK + tl.arange(0, BLOCK)
    now, blocks = capacity, STEPS  # positions before the token's, and how many times so many are loaded
    if APPENDS:
        now = tl.load(position).to(tl.int32)
        blocks = tl.minimum(STEPS, tl.cdiv(now + 1 - piece * STEPS * BLOCK, BLOCK))
    early: tl.constexpr = APPENDS and not SKIPS  # what a window hides is known later
    if early:
        k, v = _load(keys, values, first, at, at < now, column, size)
    if NORMS:
        query_scales = _pair(query_norm, column, size, ROTARY)
        key_scales = _pair(key_norm, column, size, ROTARY)
    else:
        query_scales, key_scales = (0.0, 0.0), (0.0, 0.0)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    # All is loaded before anything is computed: each waiting for memory is a large part of this kernel's time.
    q_pair = _pair(query + row * query_stride + of_row * size, column, size, ROTARY)
    new_k, new_v, angles = q_pair[0], q_pair[0], (q_pair[0], q_pair[0])
    if ROTARY > 0:
        turns = column < ROTARY
        angles = (
            tl.load(cos + row * cos_stride + column, mask=turns, other=0.0),
            tl.load(sin + row * cos_stride + column, mask=turns, other=0.0),
        )
    if APPENDS:
        k_pair = _pair(key + row * key_stride + shared * size, column, size, ROTARY)
        new_v = tl.load(value + row * value_stride + shared * size + column, mask=inside, other=0.0)
    hidden = tl.load(mask + row * capacity + at, mask=at < capacity, other=-float("inf")).to(tl.float32)
    if not early:
        k, v = _load(keys, values, first, at, (at < now) & (hidden > lowest) if SKIPS else at < now, column, size)
    q = _prepared(q_pair, query_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE).to(tl.float32) * scale
    if APPENDS:
        new_k = _prepared(k_pair, key_scales, angles, eps, column, size, ROTARY, NORMS, PLUS_ONE)
        if of_row % GROUPS == 0 and now // (BLOCK * STEPS) == piece:
            tl.store(keys + (first + now) * size + column, new_k, mask=inside)
            tl.store(values + (first + now) * size + column, new_v, mask=inside)
    m_i, l_i, acc = -float("inf"), 0.0, tl.zeros((WIDTH,), tl.float32)
    if SINKS:  # the first piece has it
        m_i = tl.where(piece == 0, tl.load(sinks + of_row).to(tl.float32), m_i)
        l_i = tl.where(piece == 0, 1.0, l_i)
    m_i, l_i, acc = _add(m_i, l_i, acc, q, k, v, new_k, new_v, at, now, hidden, cap, APPENDS, CAPPED)
    for _ in range(1, blocks):
        at += BLOCK
        hidden = tl.load(mask + row * capacity + at, mask=at < capacity, other=-float("inf")).to(tl.float32)
        k, v = _load(keys, values, first, at, (at < now) & (hidden > lowest) if SKIPS else at < now, column, size)
        m_i, l_i, acc = _add(m_i, l_i, acc, q, k, v, new_k, new_v, at, now, hidden, cap, APPENDS, CAPPED)
    if PIECES == 1:
        tl.store(result + head * size + column, (acc / l_i).to(result.dtype.element_ty), mask=inside)
    else:
        slot = head * PIECES + piece
        tl.store(m_pieces + slot, m_i)
        tl.store(l_pieces + slot, l_i)
        tl.store(acc_pieces + slot * WIDTH + column, acc)


@triton.jit
def _load(keys, values, first, at, there, column, size):
    """The keys and values of some of a head's positions."""
    place, wanted = (first + at)[:, None] * size + column[None, :], there[:, None] & (column < size)[None, :]
    return tl.load(keys + place, mask=wanted, other=0.0), tl.load(values + place, mask=wanted, other=0.0)


@triton.jit
def _add(m_i, l_i, acc, q, k, v, new_k, new_v, at, now, hidden, cap, APPENDS: tl.constexpr, CAPPED: tl.constexpr):
    """The sums with some more positions; the token's own place may not be written yet."""
    k, v = k.to(tl.float32), v.to(tl.float32)
    if APPENDS:
        own = (at == now)[:, None]
        k = tl.where(own, new_k.to(tl.float32)[None, :], k)
        v = tl.where(own, new_v.to(tl.float32)[None, :], v)
    score = tl.sum(k * q[None, :], axis=1)
    if CAPPED:
        score = cap * (2 * tl.sigmoid(2 * score / cap) - 1)  # cap * tanh(score / cap)
    score += hidden
    m_ij = tl.maximum(tl.maximum(m_i, tl.max(score, axis=0)), -3e38)  # a piece may lie beyond the end
    p, alpha = tl.exp(score - m_ij), tl.exp(m_i - m_ij)
    return m_ij, l_i * alpha + tl.sum(p, axis=0), acc * alpha + tl.sum(p[:, None] * v, axis=0)


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
