"""One-line summaries of tensors, caches and nested inputs, and the distance between two of them.

The grammar of :func:`string_type` is the one that readers of onnx-diagnostic know::

    CT7s1x123[7,50285:A10138.9]
    │││└─┬──┘└───────┬────────┘
    │││  │           └ minimum, maximum, mean: with_min_max=True
    │││  └ shape: with_shape=True; else r2, the rank
    ││└ ONNX element type: 1 float32, 7 int64, 9 bool, 10 float16, 16 bfloat16...
    │└ T torch tensor, F fake tensor, A numpy array
    └ C on the CPU, G on a GPU: with_device=True
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.dynamic_shapes import _DerivedDim, _DimHint
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache
from transformers.utils import ModelOutput

# The numbers of onnx.TensorProto.DataType, under the names that torch, numpy and ml_dtypes share.
_ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "object": 8}
_ELEMENT_TYPES |= {"bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "complex64": 14}
_ELEMENT_TYPES |= {"complex128": 15, "bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19}
_ELEMENT_TYPES |= {"float8_e5m2fnuz": 20, "uint4": 21, "int4": 22, "float4_e2m1fn": 23, "float4_e2m1fn_x2": 23}
_ELEMENT_TYPES |= {"float8_e8m0fnu": 24, "uint2": 25, "int2": 26}
_KEYS = ("abs", "rel", "sum", "n", "dnan")  # what max_diff measures


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
    >>> string_type({"input_ids": torch.tensor([[7, 11]]), "past": [np.zeros((2, 0), np.float32)]}, with_shape=True)
    'dict(input_ids:T7s1x2,past:#1[A1s2x0])'
    >>> string_type((torch.tensor([1.0, math.nan, 3.0]), 5), with_shape=True, with_min_max=True)
    '(T1s3[1.0,3.0:A2.0N1nans],int=5)'
    """
    return _Line(with_shape, with_min_max, with_device, limit).of(obj)


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

    def dims(self, dtype: Any, shape: Sequence[Any]) -> str:
        name = "object" if getattr(dtype, "kind", "") in ("S", "U") else str(dtype).removeprefix("torch.")
        return f"{_ELEMENT_TYPES.get(name, name)}{'s' + 'x'.join(map(str, shape)) if self.shape else f'r{len(shape)}'}"

    def long(self, obj: Collection[Any], head: str, numbers: str) -> str:
        if not self.values or not all(isinstance(item, int | float) for item in obj):
            return head
        return head + numbers.format(min(obj), max(obj), sum(map(float, obj)) / len(obj))

    @functools.singledispatchmethod
    def write(self, obj: Any) -> str:
        """What no class below covers: dataclasses (model configurations are) and types known by their name."""
        name = type(obj).__name__
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
            return self.record(obj)
        if name == "OrtValue":
            where = ("C" if obj.device_name().lower() == "cpu" else "G") if self.device else ""
            text = f"({self.of(obj.numpy())})" if self.values else self.dims(obj.element_type(), obj.shape())
            return f"{where}OV{text}"
        return f"OT{obj.type.tensor_type.elem_type}" if name == "ValueInfoProto" else f"{name}(...)"

    @write.register
    def _(self, obj: bytes | slice | torch.SymInt | torch.SymFloat | torch.SymBool | _DerivedDim | None) -> str:
        return type(obj).__name__.removesuffix("Type").removeprefix("_")

    @write.register
    def _(self, obj: str | bool | int | float | complex | np.generic | np.float64) -> str:
        name = next((kind.__name__ for kind in (bool, int, float, str) if isinstance(obj, kind)), type(obj).__name__)
        return f"{name}={obj}" if self.values and name != "str" else name

    @write.register
    def _(self, obj: torch.device | torch.dtype | torch.memory_format | torch.layout | torch.export.Dim) -> str:
        return f"{type(obj).__name__}({getattr(obj, '__name__', obj)})"

    @write.register
    def _(self, obj: _DimHint) -> str:
        return str(obj).replace("DimHint(AUTO)", "AUTO").replace("DimHint(DYNAMIC)", "DYNAMIC")

    @write.register
    def _(self, obj: torch.Tensor) -> str:
        where = ("G" if obj.get_device() >= 0 else "C") if self.device else ""
        if isinstance(obj, FakeTensor) or obj.is_meta:
            return f"{where}{'F' if isinstance(obj, FakeTensor) else 'T'}{self.dims(obj.dtype, obj.shape)}"
        return f"{where}T{self.dims(obj.dtype, obj.shape)}{_content(obj.detach()) if self.values else ''}"

    @write.register
    def _(self, obj: np.ndarray) -> str:
        return f"A{self.dims(obj.dtype, obj.shape)}{_content(obj) if self.values else ''}"

    @write.register
    def _(self, obj: list) -> str:
        if len(obj) < self.limit or not obj:
            return f"#{len(obj)}[{','.join(map(self.of, obj))}]"
        return self.long(obj, f"#{len(obj)}[{self.of(obj[0])},...]", "[{},{}:{}]")

    @write.register
    def _(self, obj: tuple) -> str:
        if len(obj) < self.limit or len(obj) <= 1:
            return f"({','.join(map(self.of, obj))},)" if len(obj) == 1 else f"({','.join(map(self.of, obj))})"
        return self.long(obj, f"#{len(obj)}({self.of(obj[0])},...)", "[{},{}:A[{}]]")

    @write.register
    def _(self, obj: set | frozenset) -> str:
        if len(obj) < 10:
            return f"{{{','.join(map(self.of, obj))}}}"
        numbers = self.long(obj, "", "[{},{}:A{}]")
        return f"{{...}}#{len(obj)}{numbers}" if self.shape or numbers else "{...}"

    @write.register
    def _(self, obj: Mapping | collections.deque) -> str:
        if isinstance(obj, collections.UserDict):  # BatchEncoding, BatchFeature
            return f"{type(obj).__name__}(data={self.of(obj.data)})"
        if type(obj) is not dict:  # the values without their keys, as torch's pytrees see them
            return f"{type(obj).__name__}[serialized]({self.of(_items(obj))})"
        by_axis = all(isinstance(key, int) for key in obj)
        names = by_axis and all(isinstance(v, str | torch.export.Dim | _DimHint) for v in obj.values())
        text = (f"{k}:DYN({v})" if names and isinstance(v, str) else f"{k}:{self.of(v)}" for k, v in obj.items())
        return f"{{{','.join(text)}}}" if by_axis else f"dict({','.join(text)})"

    @write.register(ModelOutput)
    def record(self, obj: Any) -> str:
        fields = ((f.name, getattr(obj, f.name, None)) for f in dataclasses.fields(obj))
        text = (f"{name}:{self.of(value)}" for name, value in fields if value is not None)
        return f"{type(obj).__name__}({','.join(text)})"

    @write.register
    def _(self, obj: EncoderDecoderCache) -> str:
        own, cross = map(self.of, _items(obj))
        return f"{type(obj).__name__}(self_attention_cache={own}, cross_attention_cache={cross})"

    @write.register
    def _(self, obj: Cache) -> str:
        name = type(obj).__name__
        mixed = name == "DynamicCache" and any(type(layer).__name__ != "DynamicLayer" for layer in obj.layers)
        if mixed or not all(hasattr(layer, "keys") for layer in obj.layers):
            layers = (f"{type(layer).__name__}({', '.join(map(self.of, _states(layer)))})" for layer in obj.layers)
            return f"{name}({', '.join(layers)})"
        filled = [layer for layer in obj.layers if layer.keys is not None]
        keys, values = [layer.keys for layer in filled], [layer.values for layer in filled]
        return f"{name}(key_cache={self.of(keys)}, value_cache={self.of(values)})"

    @write.register
    def _(self, obj: CacheLayerMixin) -> str:
        return f"{type(obj).__name__}(keys={self.of(obj.keys)}, values={self.of(obj.values)})"


def _content(obj: torch.Tensor | np.ndarray) -> str:
    if obj.ndim == 0 or 0 in obj.shape:
        return "[empty]" if obj.ndim else f"={obj[()]}"
    if isinstance(obj, torch.Tensor) and obj.dtype in (torch.uint16, torch.uint32, torch.uint64):
        obj = obj.cpu().numpy()  # torch has no minimum of these, nor of float8
    if "complex" in str(obj.dtype):
        obj = abs(obj)
    elif isinstance(obj, torch.Tensor) and obj.is_floating_point():
        obj = obj.double()
    nans = obj != obj
    kept, text = (obj[~nans], f"N{nans.sum()}nans") if nans.any() else (obj, "")
    if len(kept) == 0:
        return f"[{text}]"
    if isinstance(kept, np.ndarray):
        mean = kept.astype(np.float64).mean()
    else:
        mean = (kept if kept.is_floating_point() else kept.double()).mean()
    return f"[{kept.min()},{kept.max()}:A{mean}{text}]"


def _states(layer: Any) -> list[Any]:
    """What a cache layer holds: keys and values, the states of a linear attention, or both."""
    return [getattr(layer, s) for s in ("keys", "values", "conv_states", "recurrent_states") if hasattr(layer, s)]


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
        return [state for layer in obj.layers for state in _states(layer) if state is not None]
    if isinstance(obj, Mapping):
        return list(obj.values())
    return list(obj) if isinstance(obj, list | tuple | collections.deque) else None


def _leaves(obj: Any) -> list[Any]:
    return [obj] if (items := _items(obj)) is None else [leaf for item in items for leaf in _leaves(item)]


def _double(obj: Any) -> torch.Tensor | None:
    """As a float64 or complex128 tensor; None for what holds no numbers."""
    if isinstance(obj, np.ndarray | np.generic | int | float | complex):
        obj = torch.from_numpy(np.array(obj, dtype=np.complex128 if np.iscomplexobj(obj) else np.float64))
    if isinstance(obj, torch.Tensor):
        return obj.detach().to(torch.complex128 if obj.is_complex() else torch.float64)
    return None


def _leaf_diff(expected: Any, got: Any) -> dict[str, Any]:
    x, y = _double(expected), _double(got)
    if x is None or y is None:  # None, strings...: equal or not
        equal = x is y and type(expected) is type(got) and expected == got
        return dict.fromkeys(_KEYS, 0.0 if equal else math.inf)
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
    numbers = {"abs": diff.max(), "rel": (diff / (x.abs() + 1e-3)).max(), "sum": diff.sum(), "n": diff.numel()}
    argm = tuple(int(i) for i in torch.unravel_index(diff.argmax(), diff.shape))
    return {**{key: float(value) for key, value in numbers.items()}, "dnan": dnan, "argm": argm, **dev}


def string_diff(diff: dict[str, Any]) -> str:
    """Write what :func:`max_diff` returns in one line, without what is zero apart from ``abs`` and ``rel``."""
    return ", ".join(f"{key}={value}" for key, value in diff.items() if value or key in ("abs", "rel"))
