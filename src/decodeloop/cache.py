"""Key/value caches: transformers' cache objects <-> flat lists of tensors, the form that an ONNX graph takes.

The flat order is that of the graphs' inputs: layer 0's keys, layer 0's values, layer 1's keys, ...
Every tensor is ``[batch, heads, length, head size]``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache


def cache_to_tensors(cache: Cache | Sequence) -> list[torch.Tensor]:
    """Flatten a cache.

    Parameters
    ----------
    cache : transformers Cache, or a sequence of ``(keys, values)`` pairs
        A static cache gives the filled part of its buffers only.

    Returns
    -------
    list of torch.Tensor
        ``[keys_0, values_0, keys_1, values_1, ...]``, each ``[batch, heads, length, head size]``, not copied.

    Raises
    ------
    ValueError
        If a layer holds nothing yet, or holds more than keys and values (a state-space layer, say).
    """
    if not isinstance(cache, Cache):
        pairs = [tuple(pair)[:2] for pair in cache]
    else:
        pairs = [_layer_tensors(layer, index) for index, layer in enumerate(cache.layers)]
    for index, pair in enumerate(pairs):
        if not all(isinstance(t, torch.Tensor) for t in pair):
            raise ValueError(f"layer {index} of the cache is empty: run the model once, or see empty_tensors.")
    return [tensor for pair in pairs for tensor in pair]


def _layer_tensors(layer: Any, index: int) -> tuple:
    if not hasattr(layer, "keys") or hasattr(layer, "conv_states"):
        raise ValueError(
            f"layer {index} of the cache is a {type(layer).__name__}: expected keys and values only, "
            "as attention layers keep them."
        )
    filled = getattr(layer, "cumulative_length", None)
    if isinstance(filled, torch.Tensor) and layer.is_initialized:  # static: the buffers are longer than the text
        length = min(int(filled), layer.keys.shape[2])
        return layer.keys[:, :, :length], layer.values[:, :, :length]
    return layer.keys, layer.values


def tensors_to_cache(
    tensors: Sequence[torch.Tensor], config: PreTrainedConfig | None = None, *, length: int | None = None
) -> DynamicCache:
    """Build a ``DynamicCache`` from flat tensors: the inverse of :func:`cache_to_tensors`.

    Parameters
    ----------
    tensors : sequence of torch.Tensor
        Keys and values of each layer in turn, ``[batch, heads, length, head size]``.
    config : transformers PreTrainedConfig, optional
        The model's. With it, layers with a sliding window become sliding layers; without, all layers keep everything.
    length : int, optional
        How many tokens were decoded so far, where the tensors of a sliding layer hold fewer. Default: the longest.

    Raises
    ------
    ValueError
        If the number of tensors is odd or is not twice the configuration's number of layers.
    """
    if len(tensors) % 2:
        raise ValueError(f"{len(tensors)} tensors: expected an even number, keys and values for each layer.")
    cache = DynamicCache(config=config) if config is not None else DynamicCache()
    if config is not None and len(cache.layers) != len(tensors) // 2:
        raise ValueError(
            f"{len(tensors)} tensors are {len(tensors) // 2} layers of keys and values; the configuration "
            f"({config.model_type}) has {len(cache.layers)} layers. Do they belong to the same model?"
        )
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    length = max((t.shape[2] for t in tensors), default=0) if length is None else length
    for layer in cache.layers:
        if getattr(layer, "is_sliding", False):
            layer.cumulative_length = length
    return cache


def kv_shape(config: PreTrainedConfig) -> tuple[int, int, int]:
    """``(layers, key/value heads, head size)`` of a decoder's cache, read off its configuration."""
    config = config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None)
    if kv_heads is None:
        kv_heads = 1 if getattr(config, "multi_query", False) else heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, kv_heads, size


def empty_tensors(
    config: PreTrainedConfig,
    batch: int = 1,
    *,
    length: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[torch.Tensor]:
    """Flat zero tensors of a model's cache: of no length to start from, or of a fixed length as buffers.

    Returns
    -------
    list of torch.Tensor
        Two for each layer, ``[batch, key/value heads, length, head size]``.
    """
    layers, heads, size = kv_shape(config)
    return [torch.zeros(batch, heads, length, size, dtype=dtype, device=device) for _ in range(2 * layers)]


def to_any(nested: Any, device_or_dtype: torch.device | torch.dtype | str) -> Any:
    """Move everything in a nested structure to a device, or cast its floating-point tensors to a dtype.

    Tensors of integers and booleans keep their type; what holds no tensor is returned as it is. Lists, tuples,
    sets, mappings, transformers' caches and modules are followed; a cache is rebuilt, not changed in place.

    Parameters
    ----------
    nested : Any
        A tensor, a module, a cache, or containers of these.
    device_or_dtype : torch.device, torch.dtype or str
        ``"cuda"``, ``torch.float16``, ...
    """
    if isinstance(nested, torch.Tensor):
        if isinstance(device_or_dtype, torch.dtype) and not nested.is_floating_point():
            return nested
        return nested.to(device_or_dtype)
    if isinstance(nested, torch.nn.Module):
        return nested.to(device_or_dtype)
    if isinstance(nested, Cache):
        return _convert_cache(nested, device_or_dtype)
    if isinstance(nested, Mapping):
        items = {key: to_any(value, device_or_dtype) for key, value in nested.items()}
        return items if type(nested) is dict else type(nested)(items)
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(to_any(item, device_or_dtype) for item in nested))
    if isinstance(nested, list | tuple | set):
        return type(nested)(to_any(item, device_or_dtype) for item in nested)
    return nested


def _convert_cache(cache: Cache, device_or_dtype: torch.device | torch.dtype | str) -> Cache:
    cache = copy.deepcopy(cache)
    parts = [cache, getattr(cache, "self_attention_cache", None), getattr(cache, "cross_attention_cache", None)]
    for part in parts:
        for layer in getattr(part, "layers", []):
            for name, value in list(vars(layer).items()):
                if isinstance(value, torch.Tensor):
                    setattr(layer, name, to_any(value, device_or_dtype))
            if isinstance(device_or_dtype, torch.dtype):
                layer.dtype = device_or_dtype
            elif getattr(layer, "device", None) is not None:
                layer.device = torch.device(device_or_dtype)
    return cache
