"""One-line summaries of tensors, caches and nested inputs.

The grammar of :func:`string_type` is the one that readers of onnx-diagnostic know::

    CT7s1x123[7,50285:A10138.9]
    │││└─┬──┘└───────┬────────┘
    │││  │           └ minimum, maximum, mean: with_min_max=True
    │││  └ shape: with_shape=True; else r2, the rank
    ││└ ONNX element type: 1 float32, 7 int64, 9 bool, 10 float16, 16 bfloat16...
    │└ T torch tensor, F fake tensor, A numpy array
    └ C on the CPU, G on a GPU: with_device=True
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache


def string_type(
    obj: Any, with_shape: bool = False, with_min_max: bool = False, with_device: bool = False, limit: int = 20
) -> str:
    """Summarise any object in one line. Never raises: an unknown type gives its name, ``Name(...)``.

    Parameters
    ----------
    obj
        Tensors, arrays, caches, model outputs, and lists, tuples, sets and dictionaries of them; or anything else.
    with_shape
        Shapes instead of ranks.
    with_min_max
        ``[min,max:Amean]`` for tensors and arrays, and the value of numbers. NaNs are counted (``N2nans``) and kept
        out of the three; the mean is taken in float64; complex numbers are summarised by their modulus.
    with_device
        ``C`` or ``G`` before a tensor: on the CPU or on a GPU.
    limit
        A list or tuple of ``limit`` items or more is cut to its first one.

    Examples
    --------
    >>> import math
    >>> string_type({"input_ids": torch.tensor([[7, 11]]), "past": [np.zeros((2, 0), np.float32)]}, with_shape=True)
    'dict(input_ids:T7s1x2,past:#1[A1s2x0])'
    >>> string_type((torch.tensor([1.0, math.nan, 3.0]), 5), with_shape=True, with_min_max=True)
    '(T1s3[1.0,3.0:A2.0N1nans],int=5)'
    """
    given = (with_shape, with_min_max, with_device)
    shape, values, device = (isinstance(flag, int | np.bool_) and bool(flag) for flag in given)
    return _Line(shape, values, device, limit).of(obj)


@dataclasses.dataclass(frozen=True)
class _Line:
    """The flags of one call, and how each kind of object is written."""

    shape: bool
    values: bool
    device: bool
    limit: int

    def of(self, obj: Any) -> str:
        try:
            return self.write(obj)
        except Exception:  # a tensor without storage, a half-built object: say less rather than fail
            return dataclasses.replace(self, values=False).of(obj) if self.values else f"{type(obj).__name__}(...)"

    def write(self, obj: Any) -> str:
        name = type(obj).__name__
        match obj:
            case str() | bool() | int() | float() | complex() | np.generic():
                name = next((kind.__name__ for kind in (bool, int, float, str) if isinstance(obj, kind)), name)
                return f"{name}={obj}" if self.values and name != "str" else name
            case torch.Tensor():
                return f"{self.place(obj.get_device() >= 0)}{'F' if name == 'FakeTensor' else 'T'}{self.array(obj)}"
            case np.ndarray():
                return f"A{self.array(obj)}"
            case list():
                if len(obj) >= max(self.limit, 1):
                    return f"#{len(obj)}[{self.of(obj[0])},...]{self.numbers(obj, '[{},{}:{}]')}"
                return f"#{len(obj)}[{self.items(obj)}]"
            case tuple():
                if len(obj) >= max(self.limit, 2):
                    return f"#{len(obj)}({self.of(obj[0])},...){self.numbers(obj, '[{},{}:A[{}]]')}"
                return f"({self.items(obj)}{',' if len(obj) == 1 else ''})"
            case set() | frozenset():
                if len(obj) < 10:
                    return f"{{{self.items(obj)}}}"
                numbers = self.numbers(obj, "[{},{}:A{}]")
                return f"{{...}}#{len(obj)}{numbers}" if self.shape or numbers else "{...}"
            case torch.device() | torch.dtype() | torch.memory_format() | torch.layout():
                return f"{name}({obj})"
            case EncoderDecoderCache():
                own, cross = self.of(obj.self_attention_cache), self.of(obj.cross_attention_cache)
                return f"{name}(self_attention_cache={own}, cross_attention_cache={cross})"
            case Cache():
                return self.cache(obj)
            case CacheLayerMixin():
                return f"{name}(keys={self.of(obj.keys)}, values={self.of(obj.values)})"
            case collections.UserDict():  # BatchEncoding, BatchFeature
                return f"{name}(data={self.of(obj.data)})"
            case Mapping() if not dataclasses.is_dataclass(obj):
                return self.mapping(obj)
        return self.by_name(obj, name)

    def by_name(self, obj: Any, name: str) -> str:
        """Types that are private to torch, or of packages that need not be there; dataclasses; and the unknown."""
        match name:
            case "NoneType" | "slice" | "SymInt" | "SymFloat" | "_DerivedDim":
                return name.removesuffix("Type").removeprefix("_")
            case "Dim":
                return f"Dim({obj.__name__})"
            case "_DimHint":
                return str(obj).replace("DimHint(AUTO)", "AUTO").replace("DimHint(DYNAMIC)", "DYNAMIC")
            case "OrtValue":
                text = f"({self.of(obj.numpy())})" if self.values else self.dims(obj.element_type(), obj.shape())
                return f"{self.place(obj.device_name().lower() != 'cpu')}OV{text}"
            case "ValueInfoProto":
                return f"OT{obj.type.tensor_type.elem_type}"
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type):  # as model outputs and configurations are
            fields = {field.name: getattr(obj, field.name, None) for field in dataclasses.fields(obj)}
            return f"{name}({self.pairs({key: value for key, value in fields.items() if value is not None})})"
        return f"{name}(...)"

    def array(self, obj: torch.Tensor | np.ndarray) -> str:
        return f"{self.dims(_element_type(obj.dtype), obj.shape)}{_content(obj) if self.values else ''}"

    def dims(self, element_type: int | str, shape: Sequence[Any]) -> str:
        return f"{element_type}{'s' + 'x'.join(map(str, shape)) if self.shape else f'r{len(shape)}'}"

    def place(self, on_gpu: bool) -> str:
        return "CG"[on_gpu] if self.device else ""

    def items(self, obj: Iterable[Any]) -> str:
        return ",".join(map(self.of, obj))

    def pairs(self, obj: Mapping[Any, Any]) -> str:
        return ",".join(f"{key}:{self.of(value)}" for key, value in obj.items())

    def numbers(self, obj: Collection[Any], form: str) -> str:
        """What there is to say of many numbers; nothing of anything else."""
        if not self.values or not all(isinstance(item, int | float) for item in obj):
            return ""
        return form.format(min(obj), max(obj), sum(map(float, obj)) / len(obj))

    def mapping(self, obj: Mapping[Any, Any]) -> str:
        if type(obj) is not dict:  # the values without their keys, as torch's pytrees see them
            return f"{type(obj).__name__}[serialized]({self.of(list(obj.values()))})"
        if not all(isinstance(key, int) for key in obj):
            return f"dict({self.pairs(obj)})"
        dynamic = all(type(value).__name__ in ("str", "Dim", "_DerivedDim", "_DimHint") for value in obj.values())
        axes = (f"DYN({v})" if dynamic and isinstance(v, str) else self.of(v) for v in obj.values())
        return f"{{{','.join(f'{key}:{axis}' for key, axis in zip(obj, axes, strict=True))}}}"

    def cache(self, obj: Cache) -> str:
        name = type(obj).__name__
        layers: list[Any] = obj.layers
        mixed = name == "DynamicCache" and any(type(layer).__name__ != "DynamicLayer" for layer in layers)
        if mixed or not all(hasattr(layer, "keys") for layer in layers):
            text = (f"{type(layer).__name__}({', '.join(map(self.of, layer_states(layer)))})" for layer in layers)
            return f"{name}({', '.join(text)})"
        filled = [layer for layer in layers if layer.keys is not None]
        keys, values = [layer.keys for layer in filled], [layer.values for layer in filled]
        return f"{name}(key_cache={self.of(keys)}, value_cache={self.of(values)})"


def layer_states(layer: Any) -> list[Any]:
    """What a layer of a transformers cache holds: keys and values, the states of a linear attention, or both."""
    return [getattr(layer, s) for s in ("keys", "values", "conv_states", "recurrent_states") if hasattr(layer, s)]


def _element_type(dtype: Any) -> int | str:
    """The number of onnx.TensorProto.DataType; the type's name where ONNX has none."""
    name = str(dtype).removeprefix("torch.")
    try:  # NumPy knows all of torch's types by their names, those of ml_dtypes included
        return int(ir.DataType.from_numpy(np.dtype(name)))
    except TypeError:
        return name


def _content(obj: torch.Tensor | np.ndarray) -> str:
    if isinstance(obj, torch.Tensor):
        obj = obj.detach()
        obj = (obj.double() if obj.is_floating_point() else obj).cpu().numpy()
    if obj.ndim == 0 or obj.size == 0:
        return "[empty]" if obj.ndim else f"={obj}"
    if np.iscomplexobj(obj):
        obj = abs(obj)
    elif obj.dtype.kind not in "biu":
        obj = obj.astype(np.float64, casting="same_kind")
    nans = np.isnan(obj)
    kept, text = obj[~nans], f"N{nans.sum()}nans" if nans.any() else ""
    return f"[{kept.min()},{kept.max()}:A{kept.mean(dtype=np.float64)}{text}]" if kept.size else f"[{text}]"
