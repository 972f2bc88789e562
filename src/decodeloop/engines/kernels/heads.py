"""Parts of the kernels of attention: heads, loaded, normalised and rotated as a layer does before it, and positions.

A rotation turns two numbers by an angle, each with the one half of the rotated columns away, so both are loaded.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def hidden_of(mask, row, capacity, at, there):
    """What the mask adds to the scores of some positions."""
    return tl.load(mask + row * capacity + at, mask=there, other=-float("inf")).to(tl.float32)


@triton.jit
def positions(keys, values, first, at, there, column, size):
    """The keys and values of some of a head's positions."""
    place, wanted = (first + at)[:, None] * size + column[None, :], there[:, None] & (column < size)[None, :]
    return tl.load(keys + place, mask=wanted, other=0.0), tl.load(values + place, mask=wanted, other=0.0)


@triton.jit
def capped(score, cap, CAPPED: tl.constexpr):
    """What a softcap leaves of scores."""
    if CAPPED:
        score = cap * (2 * tl.sigmoid(2 * score / cap) - 1)  # cap * tanh(score / cap)
    return score


@triton.jit
def pair(x, column, size, ROTARY: tl.constexpr):
    """The numbers of heads, and for each that is rotated the other one, half of them away."""
    numbers = tl.load(x + column, mask=column < size, other=0.0)
    if ROTARY > 0:
        other = tl.where(column < ROTARY // 2, column + ROTARY // 2, column - ROTARY // 2)
        return numbers, tl.load(x + other, mask=column < ROTARY, other=0.0)
    return numbers, numbers


@triton.jit
def prepared(
    numbers_and_others,
    scales,
    angles,
    eps,
    column,
    size,
    ROTARY: tl.constexpr,
    NORMS: tl.constexpr,
    PLUS_ONE: tl.constexpr,
):
    """Heads of a query or a key, normalised and rotated, and rounded where the model rounds it."""
    numbers, others = numbers_and_others
    kind: tl.constexpr = numbers.dtype
    if NORMS:
        wide = numbers.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=-1, keep_dims=True) / size + eps)
        numbers = _normed(numbers, scales[0], scale, PLUS_ONE)
        others = _normed(others, scales[1], scale, PLUS_ONE)
    if ROTARY > 0:
        cos, sin = angles
        others = tl.where(column < ROTARY // 2, -others.to(tl.float32), others.to(tl.float32))
        along = (numbers.to(tl.float32) * cos.to(tl.float32)).to(kind)
        across = (others * sin.to(tl.float32)).to(kind)
        turned = (along.to(tl.float32) + across.to(tl.float32)).to(kind)
        numbers = tl.where(column < ROTARY, turned, numbers)
    return numbers


@triton.jit
def _normed(numbers, weights, scale, PLUS_ONE: tl.constexpr):
    wide, weights = numbers.to(tl.float32) * scale, weights.to(tl.float32)
    if PLUS_ONE:
        return (wide * (1 + weights)).to(numbers.dtype)
    return (wide.to(numbers.dtype).to(tl.float32) * weights).to(numbers.dtype)
