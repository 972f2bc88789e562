"""What the export writes: shapes, names, metadata, agreement with PyTorch at sizes it was not traced with."""

import json

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from helpers import build, prompt_ids
from transformers import DynamicCache, T5Config, T5ForConditionalGeneration

from decodeloop import cache_to_tensors, export_inputs, export_onnx


def test_example_inputs_run_and_no_dimension_is_0_or_1(llama):
    inputs, dynamic_shapes = export_inputs(llama)
    assert set(inputs) == set(dynamic_shapes)
    assert inputs["past_key_values"].get_seq_length() == 5
    assert inputs["attention_mask"].shape == (2, 8)
    tensors = cache_to_tensors(inputs["past_key_values"])
    assert len(dynamic_shapes["past_key_values"]) == len(tensors)
    flat = [inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"], *tensors]
    assert min(size for t in flat for size in t.shape) > 1
    assert all(t.abs().sum() > 0 for t in tensors)  # the cache holds text, not zeros
    with torch.no_grad():
        assert llama(**inputs).logits.shape == (2, 3, 97)


def test_the_report_says_what_was_written(phi_graph):
    assert phi_graph.path.exists()
    assert phi_graph.external_data.name == "model.onnx.data"
    assert phi_graph.bytes == phi_graph.path.stat().st_size + phi_graph.external_data.stat().st_size
    assert phi_graph.inputs["input_ids"] == ["batch", "sequence"]
    assert phi_graph.inputs["attention_mask"] == ["batch", "total"]
    assert phi_graph.inputs["past_key_values.1.value"] == ["batch", 4, "past", 32]
    assert phi_graph.outputs["logits"] == ["batch", "sequence", 97]
    pairs = [f"{layer}.{name}" for layer in range(2) for name in ("key", "value")]
    assert list(phi_graph.outputs) == ["logits", *(f"present.{pair}" for pair in pairs)]
    assert phi_graph.operators["MatMul"] > 10
    assert phi_graph.exporter == "dynamo"


def test_nothing_else_is_left_in_the_folder(phi_graph):
    assert sorted(file.name for file in phi_graph.path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_the_graph_is_valid_and_knows_its_model(phi, phi_graph):
    onnx.checker.check_model(str(phi_graph.path))
    (text,) = [p.value for p in onnx.load(phi_graph.path).metadata_props if p.key == "decodeloop"]
    facts = json.loads(text)
    assert facts["eos_token_id"] == 2
    assert facts["config"]["model_type"] == "phi"
    assert facts["dtype"] == "float32"


@pytest.mark.parametrize(("batch", "new", "past"), [(1, 1, 4), (2, 3, 5), (3, 7, 0), (1, 1, 0), (5, 1, 40)])
def test_outputs_are_pytorchs_at_any_size(phi, phi_graph, batch, new, past):
    ids = prompt_ids(batch, past + new, seed=batch)
    cache = DynamicCache()
    with torch.no_grad():
        if past:
            phi(ids[:, :past], past_key_values=cache, use_cache=True)
        tensors = cache_to_tensors(cache) if past else [torch.zeros(batch, 4, 0, 32)] * 4
        feeds = {
            "input_ids": ids[:, past:],
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(past, past + new).expand(batch, new),
        }
        names = [name for name in phi_graph.inputs if name.startswith("past")]
        feeds |= dict(zip(names, tensors, strict=True))
        session = onnxruntime.InferenceSession(str(phi_graph.path), providers=["CPUExecutionProvider"])
        got = session.run(None, {name: np.ascontiguousarray(t.numpy()) for name, t in feeds.items()})
        expected = phi(ids[:, past:], past_key_values=cache if past else None, use_cache=True)
    for a, b in zip([expected.logits, *cache_to_tensors(expected.past_key_values)], got, strict=True):
        torch.testing.assert_close(a, torch.from_numpy(b), atol=2e-5, rtol=1e-4)


def test_logits_of_the_last_position_only(llama_graph):
    assert llama_graph.outputs["logits"] == ["batch", 1, 97]


def test_half_precision_stays_half(phi, tmp_path):
    import copy

    report = export_onnx(copy.deepcopy(phi).half(), tmp_path / "half.onnx")
    types = {i.name: i.type for i in onnxruntime.InferenceSession(str(report.path)).get_inputs()}
    assert types["past_key_values.0.key"] == "tensor(float16)"


def test_bad_arguments_are_named_and_leave_nothing_behind(phi, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder '.*missing' does not exist"):
        export_onnx(phi, tmp_path / "missing" / "model.onnx")
    with pytest.raises(ValueError, match="is a directory: expected a file name"):
        export_onnx(phi, tmp_path)
    with pytest.raises(ValueError, match="exporter='nosuch': expected one of 'dynamo', 'fused'"):
        export_onnx(phi, tmp_path / "model.onnx", exporter="nosuch")
    with pytest.raises(ValueError, match="logits='some'"):
        export_onnx(phi, tmp_path / "model.onnx", logits="some")
    t5 = build(T5ForConditionalGeneration, T5Config, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4,
               decoder_start_token_id=0)  # fmt: skip
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has an encoder"):
        export_onnx(t5, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
def test_a_failed_export_leaves_nothing_behind(phi, tmp_path, monkeypatch, exporter):
    def fail(model, path, **options):
        with open(path, "w") as file:
            file.write("half a graph")
        raise OSError("disk full")

    monkeypatch.setattr(onnx_ir, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(phi, tmp_path / "model.onnx", exporter=exporter)
    assert list(tmp_path.iterdir()) == []
