"""Weights of 8 and 4 bits: what becomes of tokens, sizes and types, and what is refused."""

import logging

import numpy as np
import onnx
import pytest
import torch
from helpers import prompt_ids

import decodeloop
from decodeloop import OnnxDecoder, export_onnx, quantize_onnx, verify


@pytest.fixture
def bundled_fused(bundled_graphs):
    return bundled_graphs["fused"].path


def _saved(path, nodes, **weights):
    """A graph from ``x`` to ``logits``, both ``[rows, 64]``."""
    shape = onnx.TensorProto.FLOAT, ["rows", 64]
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [onnx.helper.make_tensor_value_info("x", *shape)],
        [onnx.helper.make_tensor_value_info("logits", *shape)],
        [onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def _assert_same_logits(source, target, within=0.02):
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((3, 64), dtype=np.float32)
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (source, target)]
    before, after = (session.run(None, {"x": x})[0] for session in sessions)
    assert np.abs(after - before).max() < within * np.abs(before).max()


def weights_size(path):
    return path.with_name(path.name + ".data").stat().st_size


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (4, False)])
def test_a_trained_model_still_writes_its_tokens(bundled, bundled_graphs, tmp_path, exporter, bits, symmetric):
    source = bundled_graphs[exporter].path
    target = quantize_onnx(source, tmp_path / "small.onnx", bits=bits, symmetric=symmetric)
    text = 'def factorial(n):\n    """Return the factorial of n."""'
    ids = bundled.tokenizer(text, return_tensors="pt").input_ids
    decoder = OnnxDecoder(target, device="cpu")
    assert torch.equal(decoder.generate(ids), decodeloop.generate(bundled.model, ids))
    worst = verify(source, decoder, ids).max_logit_diff
    low, high = (0.05, 0.4) if bits == 8 else (1, 4)
    assert low < worst < high  # rounded, but the same model
    assert decoder.config.model_type == "phi"


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (4, False)])
def test_the_file_shrinks_by_what_is_rounded(bundled, bundled_graphs, tmp_path, exporter, bits, symmetric):
    source = bundled_graphs[exporter].path
    target = quantize_onnx(source, tmp_path / "small.onnx", bits=bits, symmetric=symmetric, block_size=32)
    weights = sum(m.weight.numel() for m in bundled.model.modules() if isinstance(m, torch.nn.Linear))
    table = bundled.model.lm_head.weight.numel()  # the head's too: once, in 8 bits, 64 of them to a scale
    block = 32 * bits // 8 + 4 + (0 if symmetric else bits / 8)  # bytes of weights, their scale and zero point
    expected = weights_size(source) - 4 * weights + (weights - table) // 32 * block + table // 64 * (64 + 4)
    assert weights_size(target) == pytest.approx(expected, rel=0.01)  # each tensor begins at a page's edge, or not


def readers(path):
    """Which operators read the quantized embedding table, and its bytes."""
    graph = onnx.load(path).graph
    (gather,) = [node for node in graph.node if node.op_type == "GatherBlockQuantized"]
    nodes = {node.op_type for node in graph.node if gather.input[0] in node.input}
    return nodes, next(onnx.numpy_helper.to_array(t).nbytes for t in graph.initializer if t.name == gather.input[0])


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
def test_a_head_reads_the_bytes_of_the_table_that_it_shares(bundled, bundled_graphs, tmp_path, exporter):
    target = quantize_onnx(bundled_graphs[exporter].path, tmp_path / "m.onnx", bits=4)
    table = bundled.model.get_input_embeddings().weight
    assert readers(target) == ({"GatherBlockQuantized", "MatMulNBits"}, table.numel())
    assert not any(size >= table.nbytes for size in target.left.values())


def test_a_table_of_its_own_is_gathered_from_in_8_bits(llama, tmp_path):
    export_onnx(llama, tmp_path / "m.onnx", exporter="fused")
    target = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", bits=8)
    assert readers(target)[0] == {"GatherBlockQuantized"}
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    numbers, scales = (arrays[f"embedding.weight.{part}"] for part in ("quantized", "scales"))
    table, steps = llama.get_input_embeddings().weight.detach().numpy(), np.abs(scales)[..., None]
    restored = (numbers.astype(np.float32) - 128) * scales[..., None]
    assert (np.abs(restored - table.reshape(restored.shape)) <= 1.01 * steps).all()  # the end of the range is clipped
    whole = quantize_onnx(tmp_path / "m.onnx", tmp_path / "w.onnx", bits=8, embedding=False)
    assert set(whole.left) - set(target.left) == {"embedding.weight"}
    assert weights_size(target) < weights_size(whole)


def test_a_graph_of_16_bits_keeps_its_table_unless_asked(phi, tmp_path):
    import copy

    export_onnx(copy.deepcopy(phi).to(torch.float16), tmp_path / "m.onnx", exporter="fused", check=False)
    kept = quantize_onnx(tmp_path / "m.onnx", tmp_path / "kept.onnx", bits=4)
    asked = quantize_onnx(tmp_path / "m.onnx", tmp_path / "asked.onnx", bits=4, embedding=True)
    assert "embedding.weight" in kept.left
    assert "embedding.weight" not in asked.left


def test_each_block_is_within_half_a_step_of_its_weights(bundled_fused, tmp_path):
    target = quantize_onnx(bundled_fused, tmp_path / "m.onnx", bits=4, block_size=32)
    arrays = {t.name: onnx.numpy_helper.to_array(t, str(tmp_path)) for t in onnx.load(target).graph.initializer}
    source = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(bundled_fused).graph.initializer}
    name = "layers.0.o_down.weight"
    packed, scales = arrays[f"{name}.quantized"], arrays[f"{name}.scales"]
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32) - 8
    restored = (numbers * scales.reshape(packed.shape[0], -1, 1)).reshape(packed.shape[0], -1)
    error = np.abs(restored.T - source[name]).reshape(-1, 32, packed.shape[0]).max(1)
    assert (error <= np.abs(scales.reshape(packed.shape[0], -1).T) * 1.01).all()  # the end of the range is clipped
    assert np.median(error / np.abs(scales.reshape(packed.shape[0], -1).T)) < 0.6


def test_a_table_that_a_head_of_its_own_type_shares_is_stored_once(bundled_fused, tmp_path):
    target = quantize_onnx(bundled_fused, tmp_path / "m.onnx", head=False, embedding=True)
    assert "embedding.weight" in target.left
    assert "GatherBlockQuantized" not in {
        node.op_type for node in onnx.load(target, load_external_data=False).graph.node
    }


def test_the_head_can_keep_its_type(bundled_fused, tmp_path):
    def operators(path):
        return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]

    whole = operators(quantize_onnx(bundled_fused, tmp_path / "whole.onnx"))
    kept = operators(quantize_onnx(bundled_fused, tmp_path / "kept.onnx", head=False))
    assert (whole.count("MatMulNBits"), whole.count("MatMul"), whole.count("FusedMatMul")) == (13, 0, 0)
    assert (kept.count("MatMulNBits"), kept.count("FusedMatMul")) == (12, 1)


@pytest.mark.parametrize(
    ("operator", "attributes", "quantized"),
    [
        ("MatMul", {}, True),
        ("Gemm", {}, True),
        ("Gemm", {"transB": 1}, True),
        ("Gemm", {"transB": 2}, True),
        ("Gemm", {"alpha": 0.5}, False),
        ("FusedMatMul", {}, True),
        ("FusedMatMul", {"transB": 1}, True),
        ("FusedMatMul", {"transB": 1, "alpha": 0.5}, False),
    ],
)
def test_products_of_each_operator(tmp_path, operator, attributes, quantized):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 64), dtype=np.float32)
    domain = "com.microsoft" if operator == "FusedMatMul" else ""
    node = onnx.helper.make_node(operator, ["x", "w"], ["logits"], domain=domain, **attributes)
    source, target = _saved(tmp_path / "source.onnx", [node], w=weight), tmp_path / "target.onnx"
    if not quantized:
        with pytest.raises(ValueError, match="no matrix product with constant weights"):
            quantize_onnx(source, target)
        return
    assert quantize_onnx(source, target, embedding=False).products == 1
    _assert_same_logits(source, target)


def test_two_matrices_of_which_one_bears_the_others_name_stay_two(tmp_path):
    generator = np.random.default_rng(0)
    one, other = generator.standard_normal((2, 64, 64), dtype=np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "logits.weight"], ["h"]),
        onnx.helper.make_node("Gemm", ["h", "w"], ["logits"], transB=1),
    ]
    source = _saved(tmp_path / "source.onnx", nodes, **{"logits.weight": one, "w": other})
    quantize_onnx(source, tmp_path / "target.onnx", embedding=False)
    _assert_same_logits(source, tmp_path / "target.onnx", within=0.05)


def test_one_matrix_is_rounded_once_for_each_way_of_reading_it(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "w"], ["b"]),
        onnx.helper.make_node("Gemm", ["b", "w"], ["logits"], transB=1),
    ]
    source = _saved(tmp_path / "source.onnx", nodes, w=weight)
    target = quantize_onnx(source, tmp_path / "target.onnx", embedding=False)
    names = [tensor.name for tensor in onnx.load(target, load_external_data=False).graph.initializer]
    assert target.products == 3
    assert len([name for name in names if name.endswith(".quantized")]) == 2
    _assert_same_logits(source, target, within=0.05)


@pytest.mark.parametrize("inputs", [["product", "bias"], ["bias", "product"]])
def test_the_head_is_found_past_its_bias(tmp_path, inputs):
    one, other = np.random.default_rng(0).standard_normal((2, 64, 64), dtype=np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "a"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "w"], ["product"]),
        onnx.helper.make_node("Add", inputs, ["logits"]),
    ]
    source = _saved(tmp_path / "source.onnx", nodes, a=one, w=other, bias=one[0])
    assert quantize_onnx(source, tmp_path / "target.onnx", head=False).products == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scales_have_the_graphs_type(phi, tmp_path, dtype):
    import copy

    export_onnx(copy.deepcopy(phi).to(dtype), tmp_path / "m.onnx", exporter="fused", check=False)
    target = quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", bits=4)
    types = {t.name: t.data_type for t in onnx.load(target, load_external_data=False).graph.initializer}
    expected = onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.BFLOAT16
    assert {kind for name, kind in types.items() if name.endswith(".scales")} == {expected}


def test_a_quantized_file_is_not_quantized_again(bundled_fused, tmp_path):
    once = quantize_onnx(bundled_fused, tmp_path / "once.onnx")
    with pytest.raises(ValueError, match="quantized already: it has GatherBlockQuantized, MatMulNBits nodes"):
        quantize_onnx(once, tmp_path / "twice.onnx", bits=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once.onnx", "once.onnx.data"]


def test_what_cannot_be_used_is_named(bundled_fused, tmp_path):
    source = bundled_fused
    with pytest.raises(ValueError, match="bits=3: expected 8 or 4"):
        quantize_onnx(source, tmp_path / "m.onnx", bits=3)
    with pytest.raises(ValueError, match="block_size=33: expected 16, 32"):
        quantize_onnx(source, tmp_path / "m.onnx", block_size=33)
    with pytest.raises(ValueError, match="accuracy_level=7: expected an int from 0 to 4"):
        quantize_onnx(source, tmp_path / "m.onnx", accuracy_level=7)
    with pytest.raises(FileNotFoundError, match="no ONNX graph at .*nothing.onnx"):
        quantize_onnx(tmp_path / "nothing.onnx", tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="cannot write .*: the folder .* does not exist"):
        quantize_onnx(source, tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(ValueError, match="source and target are both"):
        quantize_onnx(source, source)
    with pytest.raises(ValueError, match="is a directory"):
        quantize_onnx(source, tmp_path)


def test_the_applications_logging_is_left_alone(bundled_fused, tmp_path):
    root = logging.getLogger()
    before = list(root.handlers), root.level
    quantize_onnx(bundled_fused, tmp_path / "m.onnx")
    assert (list(root.handlers), root.level) == before


def test_prompts_of_several_rows(phi, tmp_path):
    export_onnx(phi, tmp_path / "m.onnx", exporter="fused")
    decoder = OnnxDecoder(quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx"), device="cpu")
    ids = prompt_ids(3, 9)
    together = decoder.generate(ids, max_new_tokens=10, eos_token_id=None)
    apart = [decoder.generate(row[None], max_new_tokens=10, eos_token_id=None)[0] for row in ids]
    assert torch.equal(together, torch.stack(apart))
