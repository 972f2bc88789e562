"""Kernels for the attention of one query per row over a cache of fixed capacity.

Libraries tune attention for many queries. With one, it takes as long as reading the keys and values does, if enough
programs read at once: so the positions are cut into pieces, one program takes a piece
(:mod:`decodeloop.engines.kernels.attend_piece`), and a second kernel adds the pieces up. Over a short text, a program
takes one head; over a long one, or with heads of more than 128 numbers, all query heads that share keys and values.

What comes before it in a step is small, and a kernel of its own takes as long as attention over a short text. So the
same programs can normalise and rotate their query and the token's key, and write the key and the value into the cache:
each one computes the key for itself, and one of them writes it. Earlier positions are on their way by then: they are
nobody's result (:mod:`decodeloop.engines.kernels.overlap`).

Source: `Flash-Decoding for long-context inference <https://pytorch.org/blog/flash-decoding/>`_, written in `Triton
<https://triton-lang.org>`_.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from decodeloop.engines.kernels.attend_piece import attend_piece
from decodeloop.engines.kernels.overlap import launch

LONG = 2048  # positions of all rows from which on the memory's speed decides, so that nothing is read twice
ALONE = 2  # times that a program loads before others share the positions: to add pieces up is a kernel more
NUMBERS = 2048  # of the keys that a warp loads at once, 64 for each thread, and as many of the values
WARPS = 1536  # that a GPU holds at once, each with so many: over a short text, there are no more pieces than that
BUSY = 512  # programs that keep a GPU's memory busy: a long text is cut into pieces until there are so many
MOST = 64  # pieces of a head, at most


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
    shared, capacity = keys.shape[1:3]
    width = max(triton.next_power_of_2(size), 16)
    heads_at_once = max(triton.next_power_of_2(heads // shared), 16)
    by_group = heads > shared and (rows * capacity > LONG or width > 128)
    programs = rows * (shared if by_group else heads)
    if by_group:
        tile = heads_at_once * width * query.element_size()
        block, warps = _by_group(width, keys.element_size(), _shared_memory(query.device) - tile)
    else:
        block, warps = _by_head(width, capacity)
    steps, pieces = _pieces(triton.cdiv(capacity, block), programs, warps, by_group or capacity > LONG)
    result = query.new_empty(rows, 1, heads, size)
    m_pieces, l_pieces = query.new_empty(2, rows * heads, pieces, dtype=torch.float32)
    acc_pieces = query.new_empty(rows * heads, pieces, width, dtype=torch.float32)
    query = _whole_heads(query)
    appends = position is not None
    if key is not None and value is not None and position is not None:
        key, value = _whole_heads(key), _whole_heads(value)
    else:  # only the query is read
        keys, values = keys.contiguous(), values.contiguous()
        key, value, position = query, query, mask
    cosines, sines = (mask, mask) if cos is None or sin is None else (cos.contiguous(), sin.contiguous())
    query_norm, key_norm = norms or (mask, mask)
    attend_piece[(programs, pieces)](
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
        BY_GROUP=by_group,
        APPENDS=appends,
        ROTARY=0 if cos is None else cos.shape[-1],
        NORMS=norms is not None,
        PLUS_ONE=plus_one,
        CAPPED=softcap is not None,
        SINKS=sinks is not None,
        SKIPS=windowed,
        GROUPS=heads // shared,
        HEADS=heads_at_once,
        PIECES=pieces,
        STEPS=steps,
        BLOCK=block,
        WIDTH=width,
        num_warps=warps,
        **launch(query.device),
    )
    if pieces > 1:
        slots = triton.next_power_of_2(pieces)
        _join[(rows * heads,)](
            m_pieces,
            l_pieces,
            acc_pieces,
            result,
            size,
            pieces,
            SLOTS=slots,
            WIDTH=width,
            num_warps=max(min(slots * width // 1024, 4), 1),
            **launch(query.device),
        )
    return result


def _whole_heads(x: torch.Tensor) -> torch.Tensor:
    """Heads of one token for each row, ``[rows, heads, 1, size]``, of which each row's lie one behind the other."""
    return x if x.stride()[1::2] == (x.shape[-1], 1) else x.contiguous()


def _by_head(width: int, capacity: int) -> tuple[int, int]:
    """Positions that a program loads at once, and its warps, each with :data:`NUMBERS`: what stays in registers.

    Warps of one program wait for each other. So where a text is shared, it is by programs of one warp, unless there
    would be many for a short text, or a long one asks for more at once.
    """
    most = min(2**14 // width, 256)
    if capacity <= ALONE * most:
        block = min(max(triton.next_power_of_2(capacity), 64), most)
    elif capacity > LONG:
        block = min(most, 128)
    else:
        block = 64 if width == 128 and capacity <= 512 else NUMBERS // width
    return block, max(block * width // NUMBERS, 1)


def _by_group(width: int, bytes_each: int, shared_memory: int) -> tuple[int, int]:
    """The same, of a program that has keys and values of two blocks and a half in so much shared memory."""
    block = max(min(shared_memory // 5, 2**15) // (width * bytes_each), 1)
    return max(min(1 << block.bit_length() - 1, 64), 16), max(min(width // 16, 8), 4)


def _pieces(blocks: int, programs: int, warps: int, long: bool) -> tuple[int, int]:
    """Blocks of each piece of a head's or a group's text, and how many pieces there are."""
    if blocks <= ALONE:
        return blocks, 1
    most = triton.cdiv(BUSY, programs) if long else max(WARPS // (warps * programs), 1)
    steps = triton.cdiv(blocks, min(most, MOST))
    return steps, triton.cdiv(blocks, steps)


@functools.cache
def _shared_memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]


@triton.jit
def _join(
    m_pieces,
    l_pieces,
    acc_pieces,
    result,
    size,
    pieces,
    SLOTS: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One head's pieces, weighed by their highest scores."""
    head, column, piece = tl.program_id(0), tl.arange(0, WIDTH), tl.arange(0, SLOTS)
    slot, there = head * pieces + piece, piece < pieces
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    m_i = tl.load(m_pieces + slot, mask=there, other=-float("inf"))
    l_i = tl.load(l_pieces + slot, mask=there, other=0.0)
    acc = tl.load(acc_pieces + slot[:, None] * WIDTH + column[None, :], mask=there[:, None], other=0.0)
    p = tl.exp(m_i - tl.max(m_i, axis=0))
    total = tl.sum(acc * p[:, None], axis=0) / tl.sum(l_i * p, axis=0)
    tl.store(result + head * size + column, total.to(result.dtype.element_ty), mask=column < size)
