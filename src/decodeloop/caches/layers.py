"""One layer of a transformers cache: what it holds, and how to write it back.

Four kinds of layer keep nothing but keys and values ``[batch, heads, tokens, head size]``:

- ``DynamicLayer``: every token;
- ``DynamicSlidingWindowLayer``: the last ``window - 1`` tokens, all that the next token can see besides itself;
- ``StaticLayer``: a buffer of fixed length, filled from the left;
- ``StaticSlidingWindowLayer``: a buffer of ``window`` places; once it is full the oldest token leaves on the left.

A layer may keep states of fixed size besides, or nothing else: :mod:`decodeloop.caches.states` names them.

A layer is read as keys and values of the *last* tokens of a text, and the length of that text.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from decodeloop.checks import shown

_STATES = {"conv_states", "recurrent_states", "indexer_keys"}
_NOTES = {"is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state", "conv_kernel_size"}
_KNOWN = {"keys", "values", "cumulative_length", "_sliding_window_tensor", *_STATES, *_NOTES}
PLACEHOLDER = getattr(cache_utils, "DummyLayer", ())  # newer versions: a layer that borrows another layer's cache
#: Kinds of layers that can go back, once they are told that they will have to.
REWINDABLE = (DynamicLayer, DynamicSlidingWindowLayer, PLACEHOLDER)


def kv_layers(cache: Cache) -> list[Any]:
    """The layers of a cache that hold keys and values of their own.

    Raises
    ------
    ValueError
        If a layer holds what has no name in :mod:`decodeloop.caches.states` (a quantized one), or if the cache is an
        encoder-decoder's, which is two.
    """
    if not isinstance(cache, Cache):
        raise ValueError(f"cache={shown(cache)}: expected a transformers cache, such as DynamicCache.")
    if not hasattr(cache, "layers"):
        raise ValueError(
            f"{type(cache).__name__} is not one cache: convert its self_attention_cache and its "
            "cross_attention_cache, each by itself."
        )
    for index, layer in enumerate(cache.layers):
        more = [
            name
            for name, value in vars(layer).items()
            if name not in _KNOWN and isinstance(value, torch.Tensor | dict | list | tuple)
        ]
        if more or not (hasattr(layer, "keys") or hasattr(layer, "conv_states")):
            raise ValueError(
                f"layer {index} of the cache is a {type(layer).__name__}, which holds {', '.join(more) or 'no keys'}: "
                "expected keys and values, and convolution or recurrent states, as transformers' own layers keep them."
            )
    own = [name for name, value in vars(cache).items() if name != "layers" and isinstance(value, list) and value]
    if own:
        raise ValueError(
            f"{type(cache).__name__} keeps {', '.join(own)} beside its layers: expected a cache whose layers keep all "
            "there is, such as DynamicCache."
        )
    return [layer for layer in cache.layers if hasattr(layer, "keys") and not isinstance(layer, PLACEHOLDER)]


def is_empty(layer: Any) -> bool:
    """Whether a layer has seen no token yet, so that not even the shape of its keys is known."""
    return layer.keys is None or layer.keys.ndim < 4


def read_layer(layer: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
    """``(keys, values, length)``: the tokens that a filled layer still holds, not copied, and how many it has seen."""
    keys, values = layer.keys, layer.values
    if not isinstance(layer, StaticLayer):
        return keys, values, getattr(layer, "cumulative_length", keys.shape[2])
    if not isinstance(layer, StaticSlidingWindowLayer):
        length = int(layer.cumulative_length)
        return keys[:, :, :length], values[:, :, :length], length
    length, capacity = layer.cumulative_length_int, layer.max_cache_len
    if length < capacity:
        return keys[:, :, :length], values[:, :, :length], length
    # the first place of a full buffer is never read again, and may have been left empty
    first = 0 if bool(keys[:, :, 0].any()) else 1
    return keys[:, :, first:], values[:, :, first:], length


def write_layer(layer: Any, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
    """Let a layer hold the last tokens of a text of ``length`` tokens; buffers are filled in place, the rest zeroed."""
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
    if not isinstance(layer, StaticLayer):
        if layer.is_sliding:
            first = max(keys.shape[2] - tokens_needed(layer, length), 0)
            keys, values = keys[:, :, first:], values[:, :, first:]
            layer.cumulative_length = length
        layer.keys, layer.values = keys, values
        return
    capacity = layer.max_cache_len
    assert layer.keys is not None  # it is initialized
    assert layer.values is not None
    for buffer, new in ((layer.keys, keys), (layer.values, values)):
        new = new[:, :, -capacity:].clone()  # it may be a part of the buffer
        end = min(length, capacity)
        buffer.zero_()
        buffer[:, :, end - new.shape[2] : end] = new
    layer.cumulative_length.fill_(min(length, capacity))
    if isinstance(layer, StaticSlidingWindowLayer):
        layer.cumulative_length_int = length


def tokens_needed(layer: Any, length: int) -> int:
    """How many of the last tokens of a text of ``length`` tokens a layer must hold for the next one to be right."""
    if not layer.is_sliding:
        return length
    window = layer.max_cache_len if isinstance(layer, StaticLayer) else layer.sliding_window
    return min(length, window - 1)
