"""Move what is nested to a device, or cast it: tensors, caches, modules, and containers of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache

from decodeloop.checks import shown


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

    Raises
    ------
    ValueError
        If there is no such device or dtype, or something in the structure cannot be moved there.
    """
    if isinstance(nested, torch.Tensor):
        if isinstance(device_or_dtype, torch.dtype) and not nested.is_floating_point():
            return nested
        return _moved(nested, device_or_dtype)
    if isinstance(nested, torch.nn.Module):
        return _moved(nested, device_or_dtype)
    if isinstance(nested, Cache):
        return _convert_cache(nested, device_or_dtype)
    if isinstance(nested, Mapping):
        make: Any = type(nested)  # that it can be called with a dictionary is no part of Mapping
        return make({key: to_any(value, device_or_dtype) for key, value in nested.items()})
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(to_any(item, device_or_dtype) for item in nested))
    if isinstance(nested, list | tuple | set):
        return type(nested)(to_any(item, device_or_dtype) for item in nested)
    return nested


def _moved(part: Any, device_or_dtype: Any) -> Any:
    if not isinstance(device_or_dtype, torch.device | torch.dtype | str):
        raise ValueError(f"device_or_dtype={shown(device_or_dtype)}: expected a device, its name, or a dtype.")
    try:
        return part.to(device_or_dtype)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"{shown(part)} cannot go to {device_or_dtype}: {shown(str(error))}.") from error


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
