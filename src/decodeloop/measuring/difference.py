"""The distance between two results, of any types and nesting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.utils.generic import ModelOutput

from decodeloop.measuring.describe import layer_states

_KEYS = ("abs", "rel", "sum", "n", "dnan")


def max_diff(expected: Any, got: Any) -> dict[str, Any]:
    """Measure how far ``got`` is from ``expected``, in float64 whatever the types.

    Lists and tuples are compared item by item, dictionaries key by key, a tensor with a list of one. Caches and model
    outputs are compared as flat lists, layer by layer, keys before values, with whatever flattens to as many tensors.

    Parameters
    ----------
    expected, got
        Tensors, arrays, numbers, caches, model outputs, and nested lists, tuples and dictionaries of them, mixed.

    Returns
    -------
    dict
        ``abs`` and ``rel``, the largest absolute and relative difference, relative to ``|expected| + 1e-3``; ``sum``
        of the absolute differences; ``n`` elements compared; ``dnan``, how many are NaN on one side only (the largest
        such count of one tensor); in the differences NaN counts as 1e10. For a single pair ``argm``, the index of
        the largest difference (None when empty). With torch tensors ``dev``, how many pairs lie on two devices.
        Where structures, lengths, keys or shapes differ, the first five are infinite.

    Examples
    --------
    >>> found = max_diff({"logits": torch.tensor([[1.0, 2.0]])}, {"logits": np.array([[1.0, 2.5]])})
    >>> found["abs"], found["n"], found["argm"]
    (0.5, 2.0, (0, 1))
    >>> max_diff(torch.ones(2), torch.ones(3))["abs"]
    inf
    """
    if isinstance(expected, Cache | ModelOutput) or isinstance(got, Cache | ModelOutput):
        expected, got = _leaves(expected), _leaves(got)
    elif isinstance(expected, Mapping) and isinstance(got, Mapping):
        if expected.keys() != got.keys():
            return dict.fromkeys(_KEYS, math.inf)
        got = {key: got[key] for key in expected}
    left, right = _items(expected), _items(got)
    if left is None and right is None:
        return _leaf_diff(expected, got)
    left, right = [expected] if left is None else left, [got] if right is None else right
    if len(left) != len(right):
        return dict.fromkeys(_KEYS, math.inf)
    if len(left) == 1:
        return max_diff(left[0], right[0])
    total = dict.fromkeys(_KEYS, 0.0)
    for diff in map(max_diff, left, right):
        total |= {key: max(total[key], diff[key]) for key in ("abs", "rel", "dnan")}
        total |= {key: total.get(key, 0) + diff[key] for key in ("sum", "n", "dev") if key in diff}
    return total


def _items(obj: Any) -> list[Any] | None:
    """The parts of a container; None for what has none."""
    if isinstance(obj, EncoderDecoderCache):
        return [obj.self_attention_cache, obj.cross_attention_cache]
    if isinstance(obj, Cache):
        return [state for layer in obj.layers for state in layer_states(layer) if state is not None]
    if isinstance(obj, Mapping):
        return list(obj.values())
    return list(obj) if isinstance(obj, list | tuple) else None


def _leaves(obj: Any) -> list[Any]:
    return [obj] if (items := _items(obj)) is None else [leaf for item in items for leaf in _leaves(item)]


def _double(obj: Any) -> torch.Tensor | None:
    """As a float64 or complex128 tensor; None for what holds no numbers."""
    if isinstance(obj, np.ndarray | np.generic | int | float | complex):
        try:
            obj = torch.from_numpy(np.array(obj, dtype=np.complex128 if np.iscomplexobj(obj) else np.float64))
        except (TypeError, ValueError, OverflowError):  # of objects or strings; an integer that no float holds
            return None
    if isinstance(obj, torch.Tensor) and not obj.is_meta:
        obj = obj if obj.layout == torch.strided else obj.to_dense()
        return obj.detach().to(torch.complex128 if obj.is_complex() else torch.float64)
    return None


def _leaf_diff(expected: Any, got: Any) -> dict[str, Any]:
    x, y = _double(expected), _double(got)
    if x is None or y is None:  # None, strings...: equal or not
        return dict.fromkeys(_KEYS, 0.0 if x is y and _equal(expected, got) else math.inf)
    if x.is_complex() or y.is_complex():
        x, y = (torch.view_as_real(z.to(torch.complex128)) for z in (x, y))
    if x.shape != y.shape:
        return dict.fromkeys(_KEYS, math.inf)
    dev = {"dev": int(x.device != y.device)} if any(isinstance(z, torch.Tensor) for z in (expected, got)) else {}
    if x.numel() == 0:
        return {**dict.fromkeys(_KEYS, 0.0), "argm": None, **dev}
    y = y.to(x.device)
    dnan = float((x.isnan() != y.isnan()).sum())
    x = x.nan_to_num(1e10)
    diff = (y.nan_to_num(1e10) - x).abs()
    return {
        "abs": float(diff.max()),
        "rel": float((diff / (x.abs() + 1e-3)).max()),
        "sum": float(diff.sum()),
        "n": float(diff.numel()),
        "dnan": dnan,
        "argm": tuple(int(i) for i in torch.unravel_index(diff.argmax(), diff.shape)),
        **dev,
    }


def _equal(expected: Any, got: Any) -> bool:
    """Whether two things that hold no numbers are equal; what cannot be compared is equal to itself alone."""
    try:
        return type(expected) is type(got) and bool(np.all(expected == got))
    except Exception:  # whatever their comparison raises
        return expected is got


def string_diff(diff: dict[str, Any]) -> str:
    """Write what :func:`max_diff` returns in one line, without what is zero apart from ``abs`` and ``rel``.

    Examples
    --------
    >>> string_diff(max_diff(torch.zeros(2), torch.tensor([0.0, 0.5])))
    'abs=0.5, rel=500.0, sum=0.5, n=2.0, argm=(1,)'
    """
    return ", ".join(f"{key}={value}" for key, value in diff.items() if value or key in ("abs", "rel"))
