"""Attention of one query per row over a cache of fixed capacity: what a decode step needs, and no more.

A function for transformers' attention interface, so no architecture is known to it, and two operators of PyTorch, which
stay whole when a step is compiled. On a GPU they are the kernels of :mod:`decodeloop.engines.kernels.attend`; on a CPU,
where nothing uses them but tests, they are what they mean.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from decodeloop.engines.kernels.products import rms_norm

NAME = "decodeloop"  # among transformers' attention functions
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
    """transformers' attention function: by the operator below for one query per row, else PyTorch's or the model's own.

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


@torch.library.custom_op("decodeloop::decode_attention", mutates_args=())
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
    """The attention of :func:`attention`; an operator, since the compiler would copy what one kernel leaves another."""
    if query.is_cuda:
        from decodeloop.engines.kernels.attend import attend  # Triton comes with PyTorch for GPUs only

        return attend(query, key, value, mask, scale, softcap, sinks, windowed)
    rows, heads, _, _ = query.shape
    wide_key, wide_value = (x.float().repeat_interleave(heads // key.shape[1], 1) for x in (key, value))
    scores = query.float() @ wide_key.transpose(2, 3) * scale
    scores = (scores if softcap is None else softcap * (scores / softcap).tanh()) + mask.float()
    if sinks is not None:
        scores = torch.cat([scores, sinks.float()[None, :, None, None].expand(rows, -1, 1, 1)], dim=-1)
    result = scores.softmax(-1)[..., : key.shape[2]] @ wide_value
    return result.to(query.dtype).transpose(1, 2).contiguous()


@torch.library.custom_op("decodeloop::append_and_attend", mutates_args=("keys", "values"))
def append_and_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
    eps: float,
    plus_one: bool,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    windowed: bool,
) -> torch.Tensor:
    """The same with what a layer does before: norms of the heads, rotation, and writing into the cache.

    ``query`` ``[batch, heads, 1, head size]``, ``key`` and ``value`` ``[batch, key heads, 1, head size]`` are a
    product's results; ``keys`` and ``values`` the cache, in which ``position`` ``[1]`` is the token's place. ``cos``
    and ``sin`` ``[batch or 1, 1, 1, rotated columns]`` and the norms ``[head size]`` are None where a model has none.
    """
    if query.is_cuda:
        from decodeloop.engines.kernels.attend import attend

        return attend(
            query,
            keys,
            values,
            mask,
            scale,
            softcap,
            sinks,
            windowed,
            key=key,
            value=value,
            position=position,
            cos=cos,
            sin=sin,
            norms=None if query_norm is None or key_norm is None else (query_norm, key_norm),
            eps=eps,
            plus_one=plus_one,
        )
    if query_norm is not None and key_norm is not None:
        query, key = rms_norm(query, query_norm, eps, plus_one), rms_norm(key, key_norm, eps, plus_one)
    if cos is not None and sin is not None:
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
    keys.index_copy_(2, position, key)
    values.index_copy_(2, position, value)
    return decode_attention(query, keys, values, mask, scale, softcap, sinks, windowed)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`Rotary position embedding <https://arxiv.org/abs/2104.09864>`_ of the first columns, as many as ``cos`` has."""
    size = cos.shape[-1]
    turns = x if x.shape[-1] == size else x[..., :size]
    across = torch.cat([-turns[..., size // 2 :], turns[..., : size // 2]], dim=-1)
    turned = turns * cos + across * sin
    return turned if x.shape[-1] == size else torch.cat([turned, x[..., size:]], dim=-1)


@decode_attention.register_fake
def _(query: torch.Tensor, *others: Any) -> torch.Tensor:
    rows, heads, new, size = query.shape
    return query.new_empty(rows, new, heads, size)


@append_and_attend.register_fake
def _(query: torch.Tensor, *others: Any) -> torch.Tensor:
    rows, heads, new, size = query.shape
    return query.new_empty(rows, new, heads, size)


AttentionInterface.register(NAME, attention)
