"""Caches: transformers' cache objects <-> flat lists of tensors, the form that an ONNX graph takes.

The flat order is that of the graphs' inputs: layer 0's keys, layer 0's values, layer 1's keys, ...; each of them
``[batch, heads, length, head size]``. Where a layer keeps convolution or recurrent states, they follow its keys and
values, in the order of :mod:`decodeloop.caches.states`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig, StaticCache
from transformers.cache_utils import Cache, DynamicLayer

from decodeloop.caches.buffer_pool import no_room
from decodeloop.caches.layers import is_empty, kv_layers, read_layer, tokens_needed, write_layer
from decodeloop.caches.shapes import check_config, check_heads, check_states
from decodeloop.caches.states import State, fixed_names, keeps_states, note_seen, read_state, write_state
from decodeloop.checks import check_count, check_sequence, shown


def cache_to_tensors(cache: Cache | Sequence[Any]) -> list[torch.Tensor]:
    """Flatten a cache.

    Parameters
    ----------
    cache : transformers Cache, or a sequence of ``(keys, values)`` pairs
        The pairs are the legacy format, a tuple of tuples. A static cache gives the filled part of its buffers only,
        a layer with a sliding window the tokens that it still holds.

    Returns
    -------
    list of torch.Tensor
        ``[keys_0, values_0, keys_1, values_1, ...]``, each ``[batch, heads, length, head size]``, not copied. A layer
        with states of fixed size gives those too, after its keys and values if it has any: its convolutions'
        ``[batch, channels, width]``, then its recurrences' ``[batch, ...]``.

    Raises
    ------
    ValueError
        If a layer holds nothing yet, or something that has no name (a quantized layer, say).
    """
    if not isinstance(cache, Cache):
        what = "a transformers cache, or a pair (keys, values) for each layer"
        pairs: list[tuple[Any, ...]] = [
            _pair(item, index) for index, item in enumerate(check_sequence("cache", cache, what))
        ]
    else:
        keyed = {id(layer) for layer in kv_layers(cache)}
        pairs = [_tensors(cache, index, id(layer) in keyed) for index, layer in enumerate(cache.layers)]
    for index, pair in enumerate(pairs):
        if not all(isinstance(tensor, torch.Tensor) for tensor in pair):
            raise ValueError(f"layer {index} of the cache is empty: run the model once, or see empty_tensors.")
    return [tensor for pair in pairs for tensor in pair]


def _tensors(cache: Cache, index: int, keyed: bool) -> tuple[torch.Tensor | None, ...]:
    """What one layer keeps; None for what is not there yet."""
    layer: Any = cache.layers[index]
    pair: tuple[torch.Tensor | None, ...] = ()
    if keyed:
        pair = (None, None) if is_empty(layer) else read_layer(layer)[:2]
    names = fixed_names(layer)
    if hasattr(layer, "conv_states") and not names:
        return *pair, None
    states = [read_state(cache, State(index, name)) for name in names]
    if getattr(layer, "indexer_keys", None) is not None:
        states.append(layer.indexer_keys[:, : read_layer(layer)[2]])
    return *pair, *states


def tensors_to_cache(
    tensors: Sequence[torch.Tensor], config: PreTrainedConfig | None = None, *, length: int | None = None
) -> DynamicCache:
    """Build a ``DynamicCache`` from flat tensors: the inverse of :func:`cache_to_tensors`.

    Parameters
    ----------
    tensors : sequence of torch.Tensor
        Keys and values of each layer in turn, ``[batch, heads, length, head size]``; they are copied.
    config : transformers PreTrainedConfig, optional
        The model's. With it, layers with a sliding window become sliding layers; without, all layers keep everything,
        and it is keys and values only.
    length : int, optional
        How many tokens were decoded so far, ``int(cache.get_seq_length())``. Needed only where every layer has a
        sliding window and every window is full, or where nothing but states of fixed size is kept: such tensors do
        not tell. Default: the longest.

    Raises
    ------
    ValueError
        If the tensors cannot be such a model's cache: their number, their heads or their head size differ from the
        configuration's, a layer holds too few tokens or too many, or the length cannot be known.
    """
    if config is not None and keeps_states(check_config(config)):
        return _states_to_cache(tensors, config, length)
    pairs = tensors_to_legacy(tensors)
    cache = DynamicCache(config=config) if config is not None else DynamicCache()
    if config is None:
        cache.layers = [DynamicLayer() for _ in pairs]
    layers = kv_layers(cache)
    if config is not None and len(layers) != len(pairs):
        raise ValueError(
            f"{len(tensors)} tensors are {len(pairs)} layers of keys and values; the configuration "
            f"({config.model_type}) has {len(layers)} layers. Do they belong to the same model?"
        )
    if config is not None:
        check_heads(pairs, config)
    _write_pairs(layers, pairs, length)
    return cache


def _write_pairs(layers: Sequence[Any], pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], length: int | None) -> None:
    """Keys and values into empty layers, copied."""
    length = (
        text_length(pairs, layers) if length is None else check_count("length", length, note="the tokens of the text")
    )
    for index, (layer, (keys, values)) in enumerate(zip(layers, pairs, strict=True)):
        held = keys.shape[2]
        if not tokens_needed(layer, length) <= held <= length:
            least = tokens_needed(layer, length)
            expected = f"{length}" if least == length else f"{least} to {length}"
            raise ValueError(f"layer {index} holds {held} tokens: expected {expected} after {length} tokens of text.")
        write_layer(layer, keys.clone(), values.clone(), length)


def _states_to_cache(tensors: Sequence[torch.Tensor], config: PreTrainedConfig, length: int | None) -> DynamicCache:
    """As tensors_to_cache, for a model that keeps more than keys and values."""
    check_sequence("tensors", tensors, "what the model keeps, as cache_to_tensors gives it", torch.Tensor)
    states = check_states(tensors, config)
    cache = DynamicCache(config=config)
    growing = [tensor for state, tensor in zip(states, tensors, strict=True) if state.name in ("key", "value")]
    if growing:
        _write_pairs(kv_layers(cache), tensors_to_legacy(growing), length)
    elif length is not None:
        note_seen(cache, check_count("length", length, note="the tokens of the text"))
    for state, tensor in zip(states, tensors, strict=True):
        if state.name not in ("key", "value"):
            write_state(cache, state, tensor.clone())
    return cache


def tensors_to_static(
    tensors: Sequence[torch.Tensor], config: PreTrainedConfig, capacity: int, *, length: int | None = None
) -> StaticCache:
    """Fill a ``StaticCache`` from flat tensors, to decode on in buffers whose addresses do not change.

    Parameters
    ----------
    tensors, config, length
        As for :func:`tensors_to_cache`.
    capacity : int
        Tokens that the buffers hold in all, the text so far included.

    Raises
    ------
    ValueError
        As :func:`tensors_to_cache` does, and if the text is longer than the capacity.
    MemoryError
        If there is no room for the buffers.
    """
    if keeps_states(check_config(config)):
        raise ValueError(
            f"{config.model_type} keeps more than keys and values, and a static cache of it is not made from tensors: "
            "use tensors_to_cache, or hand the tensors to decodeloop.TorchDecoder."
        )
    source = tensors_to_cache(tensors, config, length=length)
    length = source.get_seq_length()
    check_count("capacity", capacity, max(length, 1), note="the text so far")
    cache = StaticCache(config=config, max_cache_len=capacity)
    try:
        for layer, filled in zip(kv_layers(cache), kv_layers(source), strict=True):
            write_layer(layer, *read_layer(filled))
    except RuntimeError as error:
        position = sum(tensor[:, :, :1].nbytes for tensor in tensors)
        raise no_room(tensors[0].device, capacity * position) from error
    return cache


def tensors_to_legacy(tensors: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """The format of transformers before its cache classes: one pair ``(keys, values)`` for each layer, not copied.

    :func:`cache_to_tensors` reads it back.

    Raises
    ------
    ValueError
        If the tensors are not keys and values of layers of one batch.
    """
    check_sequence("tensors", tensors, "keys and values of each layer in turn", torch.Tensor)
    if len(tensors) % 2:
        raise ValueError(f"{len(tensors)} tensors: expected an even number, keys and values for each layer.")
    for index, tensor in enumerate(tensors):
        partner = tensors[index - index % 2]
        shape, expected = list(tensor.shape), [*tensors[0].shape[:1], *partner.shape[1:3]]
        if tensor.ndim != 4 or shape[:3] != expected:
            name = ("keys", "values")[index % 2]
            raise ValueError(
                f"the {name} of layer {index // 2} have shape {shape}: expected [batch, heads, length, head size], "
                f"beginning with {expected}."
            )
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


def _pair(item: Any, index: int) -> tuple[Any, Any]:
    """One layer of the legacy format; iterating a DynamicCache adds the window's size, or None, as a third."""
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or len(item) < 2:
        raise ValueError(f"layer {index} of the cache is {shown(item)}: expected a pair (keys, values).")
    keys, values, *more = item
    if any(isinstance(value, torch.Tensor) and value.ndim for value in more):
        raise ValueError(f"layer {index} of the cache holds {len(item)} tensors: expected keys and values only.")
    return keys, values


def text_length(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], layers: Sequence[Any]) -> int:
    """The length of the text whose keys these are: a layer tells, unless its window is exactly full."""
    held = [keys.shape[2] for keys, _ in pairs]
    telling = [
        n for n, layer in zip(held, layers, strict=True) if not (layer.is_sliding and n == layer.sliding_window - 1)
    ]
    if held and not telling:
        raise ValueError(
            f"every layer has a sliding window and holds all the {max(held)} tokens it can: the text may be longer. "
            "Give its length, int(cache.get_seq_length())."
        )
    return max(telling, default=0)
