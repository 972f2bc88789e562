"""The one-line grammar, literally: these strings are what onnx-diagnostic's readers know."""

import collections
import dataclasses
import math

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BatchEncoding, DynamicCache, EncoderDecoderCache, LlamaConfig, MistralConfig, StaticCache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from decodeloop.measuring.describe import string_type
from decodeloop.measuring.difference import max_diff, string_diff

SHAPE = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
INF = {"abs": math.inf, "rel": math.inf, "sum": math.inf, "n": math.inf, "dnan": math.inf}
F32 = torch.tensor([[0.5, 1.0, 1.5], [-2.0, 0.0, 5.0]])
I64 = torch.tensor([[7, 50285]])


def filled(cache, n_layers=2, offset=0.0):
    for layer in range(n_layers):
        keys = torch.full((1, 2, 3, 8), 1.0 + layer + offset)
        cache.update(keys, -keys, layer)
    return cache


@dataclasses.dataclass
class Pair:
    first: object = None
    second: object = None


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        *[(torch.float32, 1), (torch.uint8, 2), (torch.int8, 3), (torch.uint16, 4), (torch.int16, 5), (torch.int32, 6)],
        *[(torch.int64, 7), (torch.bool, 9), (torch.float16, 10), (torch.float64, 11), (torch.uint32, 12)],
        *[(torch.uint64, 13), (torch.complex64, 14), (torch.complex128, 15), (torch.bfloat16, 16)],
        *[(torch.float8_e4m3fn, 17), (torch.float8_e4m3fnuz, 18), (torch.float8_e5m2, 19), (torch.float8_e5m2fnuz, 20)],
    ],
)
def test_tensor_is_written_with_its_onnx_element_type(dtype, number):
    tensor = torch.ones((2, 3), dtype=dtype)
    assert string_type(tensor) == f"T{number}r2"
    assert string_type(tensor, with_shape=True) == f"T{number}s2x3"
    assert string_type(tensor, with_device=True) == f"CT{number}r2"
    assert string_type(tensor, with_min_max=True).startswith(f"T{number}r2[")


def test_numpy_element_types_are_those_of_onnx():
    six_bits = {getattr(onnx.TensorProto, name, None) for name in ("FLOAT6E2M3", "FLOAT6E3M2")}
    for number in set(onnx.helper.get_all_tensor_dtypes()) - six_bits:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
        assert string_type(np.empty((4, 0), dtype=dtype)) == f"A{number}r2"


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (I64, "T7s1x2[7,50285:A25146.0]"),
        (F32, "T1s2x3[-2.0,5.0:A1.0]"),
        (F32.half(), "T10s2x3[-2.0,5.0:A1.0]"),
        (F32.bfloat16(), "T16s2x3[-2.0,5.0:A1.0]"),
        (F32.to(torch.float8_e4m3fn), "T17s2x3[-2.0,5.0:A1.0]"),
        (F32 > 0.7, "T9s2x3[False,True:A0.5]"),
        (torch.tensor([0.1, 0.1]), "T1s2[0.10000000149011612,0.10000000149011612:A0.10000000149011612]"),
        (torch.tensor([1, 2**40], dtype=torch.uint64), "T13s2[1,1099511627776:A549755813888.5]"),
        (torch.tensor([3 + 4j]), "T14s1[5.0,5.0:A5.0]"),
        (torch.tensor([math.inf, 1.0]), "T1s2[1.0,inf:Ainf]"),
        (torch.tensor([math.nan, 1.0, 3.0, math.nan]), "T1s4[1.0,3.0:A2.0N2nans]"),
        (torch.tensor([math.nan, math.nan]), "T1s2[N2nans]"),
        (torch.tensor(2.5), "T1s=2.5"),
        (torch.tensor(True), "T9s=True"),
        (torch.empty((0, 3)), "T1s0x3[empty]"),
        (torch.ones(2, requires_grad=True), "T1s2[1.0,1.0:A1.0]"),
        (torch.empty((2, 3), device="meta"), "T1s2x3"),
        (F32.numpy(), "A1s2x3[-2.0,5.0:A1.0]"),
        (np.array([0.1, 0.1], dtype=np.float32), "A1s2[0.10000000149011612,0.10000000149011612:A0.10000000149011612]"),
        (np.array([math.nan, 1.0, 3.0]), "A11s3[1.0,3.0:A2.0N1nans]"),
        (np.array([math.nan]), "A11s1[N1nans]"),
        (np.array([True, False]), "A9s2[False,True:A0.5]"),
        (np.array([1.5, 2.5], dtype=ml_dtypes.bfloat16), "A16s2[1.5,2.5:A2.0]"),
        (np.array(3), "A7s=3"),
        (np.empty((0, 2), dtype=np.int32), "A6s0x2[empty]"),
        (np.array(["a", "b"]), "A8s2"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_values_of_tensors_and_arrays(obj, expected):
    assert string_type(obj, with_shape=True, with_min_max=True) == expected


@pytest.mark.parametrize(
    ("obj", "types", "values"),
    [
        (None, "None", "None"),
        (True, "bool", "bool=True"),
        (3, "int", "int=3"),
        (2.5, "float", "float=2.5"),
        ("text", "str", "str"),
        (np.float64(2.5), "float", "float=2.5"),
        (np.float32(2.5), "float32", "float32=2.5"),
        (np.str_("text"), "str", "str"),
        (slice(1, 2), "slice", "slice"),
        ([], "#0[]", "#0[]"),
        ((), "()", "()"),
        ({}, "{}", "{}"),
        ((1,), "(int,)", "(int=1,)"),
        ((1, "r", [2.5]), "(int,str,#1[float])", "(int=1,str,#1[float=2.5])"),
        ({"a": 1, "b": {"c": None}}, "dict(a:int,b:dict(c:None))", "dict(a:int=1,b:dict(c:None))"),
        ({1: 2, 3: "x"}, "{1:int,3:str}", "{1:int=2,3:str}"),
        ({1}, "{int}", "{int=1}"),
        (set(range(10)), "{...}", "{...}#10[0,9:A4.5]"),
        ([1] * 19, f"#19[{','.join(['int'] * 19)}]", f"#19[{','.join(['int=1'] * 19)}]"),
        ([1, 2.5] * 10, "#20[int,...]", "#20[int=1,...][1,2.5:1.75]"),
        ((True,) * 100, "#100(bool,...)", "#100(bool=True,...)[True,True:A[1.0]]"),
        (["a"] * 20, "#20[str,...]", "#20[str,...]"),
        (collections.OrderedDict(a=1), "OrderedDict[serialized](#1[int])", "OrderedDict[serialized](#1[int=1])"),
        (torch.Size([1, 2]), "(int,int)", "(int=1,int=2)"),
        (torch.float16, "dtype(torch.float16)", "dtype(torch.float16)"),
        (torch.device("cpu"), "device(cpu)", "device(cpu)"),
        (torch.nn.Linear(2, 2), "Linear(...)", "Linear(...)"),
        (Pair(1), "Pair(first:int)", "Pair(first:int=1)"),
        (
            BatchEncoding({"ids": [1]}),
            "BatchEncoding(data=dict(ids:#1[int]))",
            "BatchEncoding(data=dict(ids:#1[int=1]))",
        ),
        (object(), "object(...)", "object(...)"),
        (max, "builtin_function_or_method(...)", "builtin_function_or_method(...)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_python_objects(obj, types, values):
    assert string_type(obj) == types
    assert string_type(obj, with_min_max=True) == values


def test_limit_cuts_lists_and_tuples():
    assert string_type([1, 2, 3], limit=3) == "#3[int,...]"
    assert string_type((1, 2, 3), limit=4) == "(int,int,int)"


def test_dynamic_shapes():
    dim = torch.export.Dim
    assert string_type({0: "batch", 1: dim.DYNAMIC, 2: dim.AUTO}) == "{0:DYN(batch),1:DYNAMIC,2:AUTO}"
    assert string_type({"x": {0: dim("batch")}, "y": {}}) == "dict(x:{0:Dim(batch)},y:{})"
    assert string_type(2 * dim("half")) == "DerivedDim"


def test_model_inputs_and_outputs():
    cache = filled(DynamicCache(), n_layers=1)
    inputs = {"input_ids": I64, "attention_mask": torch.ones((1, 5), dtype=torch.int64), "past_key_values": cache}
    assert string_type(inputs, with_shape=True) == (
        "dict(input_ids:T7s1x2,attention_mask:T7s1x5,"
        "past_key_values:DynamicCache(key_cache=#1[T1s1x2x3x8], value_cache=#1[T1s1x2x3x8]))"
    )
    assert string_type(CausalLMOutputWithPast(logits=F32, past_key_values=cache)) == (
        "CausalLMOutputWithPast(logits:T1r2,past_key_values:DynamicCache(key_cache=#1[T1r4], value_cache=#1[T1r4]))"
    )
    assert string_type(BaseModelOutput(hidden_states=(F32,))) == "BaseModelOutput(hidden_states:(T1r2,))"


def test_caches():
    dynamic = filled(DynamicCache())
    assert string_type(dynamic, with_shape=True, with_min_max=True, with_device=True) == (
        "DynamicCache(key_cache=#2[CT1s1x2x3x8[1.0,1.0:A1.0],CT1s1x2x3x8[2.0,2.0:A2.0]], "
        "value_cache=#2[CT1s1x2x3x8[-1.0,-1.0:A-1.0],CT1s1x2x3x8[-2.0,-2.0:A-2.0]])"
    )
    assert string_type(DynamicCache()) == "DynamicCache(key_cache=#0[], value_cache=#0[])"
    static = StaticCache(config=LlamaConfig(**SHAPE), max_cache_len=5)
    assert string_type(static) == "StaticCache(key_cache=#0[], value_cache=#0[])"
    assert string_type(filled(static), with_shape=True) == (
        "StaticCache(key_cache=#2[T1s1x2x5x8,T1s1x2x5x8], value_cache=#2[T1s1x2x5x8,T1s1x2x5x8])"
    )
    assert string_type(EncoderDecoderCache(filled(DynamicCache(), 1), DynamicCache())) == (
        "EncoderDecoderCache(self_attention_cache=DynamicCache(key_cache=#1[T1r4], value_cache=#1[T1r4]), "
        "cross_attention_cache=DynamicCache(key_cache=#0[], value_cache=#0[]))"
    )
    assert string_type(dynamic.layers[0], with_shape=True) == "DynamicLayer(keys=T1s1x2x3x8, values=T1s1x2x3x8)"


def test_sliding_cache_is_written_layer_by_layer():
    config = MistralConfig(**SHAPE, sliding_window=4)
    assert string_type(filled(DynamicCache(config=config), 2), with_min_max=True) == (
        "DynamicCache(DynamicSlidingWindowLayer(T1r4[1.0,1.0:A1.0], T1r4[-1.0,-1.0:A-1.0]), "
        "DynamicSlidingWindowLayer(T1r4[2.0,2.0:A2.0], T1r4[-2.0,-2.0:A-2.0]))"
    )


def test_fake_tensors_and_onnx():
    fake = FakeTensorMode().from_tensor(F32)
    assert string_type(fake, with_shape=True, with_min_max=True) == "F1s2x3"
    assert string_type(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [1])) == "OT7"
    assert string_type(onnx.ModelProto()) == "ModelProto(...)"


def test_ort_value():
    value = pytest.importorskip("onnxruntime").OrtValue.ortvalue_from_numpy(F32.numpy())
    assert string_type(value) == "OV1r2"
    assert string_type(value, with_shape=True, with_device=True) == "COV1s2x3"
    assert string_type(value, with_shape=True, with_min_max=True) == "OV(A1s2x3[-2.0,5.0:A1.0])"


def test_never_raises():
    class Broken(list):
        def __len__(self):
            raise RuntimeError("no length")

    assert string_type([Broken(), 1]) == "#2[Broken(...),int]"
    assert string_type(DynamicCache.__new__(DynamicCache), with_min_max=True) == "DynamicCache(...)"
    assert string_type(np.array([object()]), with_min_max=True) == "A8r1"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_tensors():
    assert string_type(F32.cuda(), with_shape=True, with_device=True, with_min_max=True) == "GT1s2x3[-2.0,5.0:A1.0]"
    assert max_diff(F32, F32.cuda()) == {**max_diff(F32, F32), "dev": 1}


def test_max_diff_of_tensors():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    got = base.clone()
    got[1, 2] += 0.5
    got[2, 2] -= 0.25
    expected = {"abs": 0.5, "rel": pytest.approx(0.5 / 6.001), "sum": 0.75, "n": 12.0, "dnan": 0.0, "argm": (1, 2)}
    assert max_diff(base, got) == {**expected, "dev": 0}
    assert max_diff(base.numpy(), got) == {**expected, "dev": 0}
    assert max_diff(base.numpy(), got.numpy()) == expected
    assert max_diff(base, [got]) == max_diff([base], got) == {**expected, "dev": 0}


@pytest.mark.parametrize(
    ("expected", "got", "difference"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 5], dtype=torch.int32), 3.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (torch.tensor([1.0]), torch.tensor([1.5], dtype=torch.bfloat16), 0.5),
        (np.array([1.0], dtype=ml_dtypes.bfloat16), torch.tensor([1.5]), 0.5),
        (torch.tensor([1 + 2j]), torch.tensor([1 + 2.5j]), 0.5),
        (torch.tensor([math.inf]), torch.tensor([math.inf]), 0.0),
        (torch.tensor(3), 3.5, 0.5),
        (3, torch.tensor(3), 0.0),
        (torch.empty((0, 3)), torch.empty((0, 3)), 0.0),
        (None, None, 0.0),
        ("a", "a", 0.0),
        ([], [], 0.0),
    ],
)
def test_max_diff_of_mixed_types(expected, got, difference):
    assert max_diff(expected, got)["abs"] == difference


def test_max_diff_counts_nans_on_one_side():
    one, none = torch.tensor([math.nan, math.nan, 1.0]), torch.tensor([math.nan, 2.0, 1.0])
    diff = max_diff(one, none)
    assert diff["dnan"] == 1
    assert diff["abs"] == 1e10 - 2
    assert max_diff(one, one)["abs"] == max_diff(one, one)["dnan"] == 0


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (F32, F32[:1]),
        (F32, torch.tensor(1.0)),
        (F32, None),
        (F32, "a"),
        ("a", "b"),
        (None, 0),
        ([F32], [F32, F32]),
        ([], F32),
        (F32, []),
        ({"a": F32}, {"b": F32}),
        ({"a": F32}, {"a": F32, "b": F32}),
        ([F32, F32], F32),
    ],
)
def test_max_diff_is_infinite_where_structures_differ(expected, got):
    assert max_diff(expected, got) == INF


def test_max_diff_of_nested_objects():
    expected, got = [F32, ({"b": I64, "a": F32}, None)], (F32 + 1, [{"a": F32, "b": I64.numpy()}, None])
    diff = max_diff(expected, got)
    assert {key: diff[key] for key in ("abs", "sum", "n", "dnan", "dev")} == {
        **{"abs": 1.0, "sum": 6.0, "n": 14.0, "dnan": 0.0},
        "dev": 0,
    }
    assert max_diff({"a": F32, "b": I64}, [F32, I64])["abs"] == 0


def test_max_diff_of_caches_and_model_outputs():
    cache, other = filled(DynamicCache()), filled(DynamicCache(), offset=0.5)
    flat = [tensor for layer in other.layers for tensor in (layer.keys, layer.values)]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    for got in (other, flat, pairs, EncoderDecoderCache(other, DynamicCache())):
        diff = max_diff(cache, got)
        assert (diff["abs"], diff["n"], diff["dev"]) == (0.5, 4 * 48, 0)
    assert max_diff(cache, filled(DynamicCache(), 1)) == INF
    output = CausalLMOutputWithPast(logits=F32, past_key_values=cache)
    assert max_diff(output, [F32, *flat])["abs"] == 0.5
    assert max_diff(output, output)["abs"] == 0


def test_string_diff():
    assert string_diff(max_diff(F32, F32 + 1)) == "abs=1.0, rel=1000.0, sum=6.0, n=6.0, argm=(0, 0)"
    assert string_diff(max_diff(3, 3)) == "abs=0.0, rel=0.0, n=1.0"


@pytest.mark.parametrize(
    "value",
    [np.array([None, "x"], dtype=object), np.array(["x"]), 10**400, torch.ones(2, device="meta"), object()],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_no_numbers_differs_from_all_but_itself(value):
    assert max_diff(value, value)["abs"] == 0
    assert max_diff(value, 1.0)["abs"] == math.inf


def test_a_sparse_tensor_is_compared_by_its_numbers():
    assert max_diff(torch.eye(2).to_sparse(), torch.zeros(2, 2))["abs"] == 1


def test_a_flag_that_is_none_counts_as_not_given():
    assert string_type([1], with_min_max=torch.ones(2), with_shape=np.ones(2)) == string_type([1])
