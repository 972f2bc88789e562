"""An export is proved before it is written: a graph that computes something else never gets its name."""

import copy
import sys

import pytest
import torch
from helpers import build
from tiny_models import tiny_config, tiny_model
from transformers import MistralConfig, MistralForCausalLM

import decodeloop
from decodeloop import export_onnx
from decodeloop.proof.check import ways_of_use


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("phimoe", {"sliding_window": 8}),  # a window that the mask alone tells of
        ("doge", {}),  # a mask that is learned
        ("llama4_text", {"attention_chunk_size": 8}),  # attention within chunks
    ],
)
def test_a_mask_that_the_operator_does_not_know_is_refused_and_nothing_written(tmp_path, model_type, options):
    model = tiny_model(tiny_config(model_type, **options))
    with pytest.raises(
        ValueError, match=r"was exported, and the graph computes something else: .*position \d+"
    ) as error:
        export_onnx(model, tmp_path / "model.onnx", exporter="fused")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_rotation_the_wrong_way_round_is_found(llama, tmp_path, monkeypatch):
    from decodeloop.export.fused import describe

    tables = describe.rotary_tables

    def backwards(*arguments):
        return {kind: (cos, -sin) for kind, (cos, sin) in tables(*arguments).items()}

    monkeypatch.setattr(describe, "rotary_tables", backwards)
    with pytest.raises(ValueError, match="computes something else"):
        export_onnx(llama, tmp_path / "model.onnx", exporter="fused")
    report = export_onnx(llama, tmp_path / "model.onnx", exporter="fused", check=False)
    assert report.checked is None
    assert report.path.exists()


def test_the_report_says_what_was_compared(phi, tmp_path):
    checked = export_onnx(phi, tmp_path / "model.onnx", exporter="fused", logits="all").checked
    assert checked
    assert checked.positions > 50  # every column of three texts, but for padding
    assert checked.worst < 1e-4
    assert f"{checked.positions} positions within" in str(checked)


def test_without_onnxruntime_the_report_says_so(phi, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    checked = export_onnx(phi, tmp_path / "model.onnx", exporter="fused").checked
    assert not checked
    assert str(checked).startswith("not checked: onnxruntime is not installed")


def test_the_model_is_as_it_was(phi, tmp_path):
    phi.train()
    try:
        export_onnx(phi, tmp_path / "model.onnx", exporter="fused")
        assert phi.training
    finally:
        phi.eval()


def test_a_window_is_passed_where_it_is_not_too_long():
    def longest(window):
        config = MistralConfig(sliding_window=window, max_position_embeddings=32768)
        uses, note = ways_of_use(config, torch.device("cpu"))
        return max(sum(use.pieces) for use in uses), note

    assert longest(None) == (20, "")
    assert longest(100) == (109, "")
    assert longest(4096) == (20, "its window of 4096 was not reached")


def test_every_way_of_use_keeps_within_a_models_positions(tmp_path):
    model = build(
        MistralForCausalLM, MistralConfig, num_key_value_heads=2, max_position_embeddings=16, sliding_window=4
    )
    uses, _ = ways_of_use(model.config, torch.device("cpu"))
    assert max(sum(use.pieces) for use in uses) <= 16
    assert decodeloop.export_onnx(model, tmp_path / "model.onnx", exporter="fused").checked


def test_a_model_whose_own_logits_are_no_numbers_is_named(llama, tmp_path):
    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.lm_head.weight[5] = float("nan")
    with pytest.raises(
        ValueError, match="LlamaForCausalLM gives logits that are no numbers itself, in float32: one row"
    ):
        export_onnx(broken, tmp_path / "model.onnx", exporter="fused")
    assert list(tmp_path.iterdir()) == []
