"""exporter="fused": the same tokens as generate, over windows, soft caps, learned positions and grouped heads."""

import json

import onnx
import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from decodeloop import OnnxDecoder, export_onnx, generate

MODELS = {
    "mistral, window 5": (
        MistralForCausalLM,
        MistralConfig,
        {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 5},
    ),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "opt": (OPTForCausalLM, OPTConfig, {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),
}

FUSED = {"mistral, window 5", "gpt2", "opt", "qwen3"}  # the others' heads are too small for the operator to rotate


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_generate(name, tmp_path):
    model_class, config_class, options = MODELS[name]
    model = build(model_class, config_class, **options)
    report = export_onnx(model, tmp_path / "model.onnx", exporter="fused", logits="last")
    assert report.operators["GroupQueryAttention"] == 2
    assert report.graph == ("fused" if name in FUSED else "traced")
    decoder = OnnxDecoder(report.path, device="cpu")
    for lengths in ([12], [12, 5, 9], [1, 70]):
        ids, mask = left_padded(lengths)
        options = {"attention_mask": mask, "max_new_tokens": 25, "eos_token_id": None}
        assert torch.equal(decoder.generate(ids, **options), model.generate(ids, do_sample=False, **options))


def test_its_older_name_is_read_and_written(phi, tmp_path):
    report = export_onnx(phi, tmp_path / "model.onnx", exporter="gqa")
    assert (report.exporter, report.graph) == ("fused", "fused")
    proto = onnx.load(report.path)
    (metadata,) = [entry for entry in proto.metadata_props if entry.key == "decodeloop"]
    metadata.value = json.dumps(json.loads(metadata.value) | {"exporter": "gqa"})
    onnx.save(proto, tmp_path / "older.onnx")
    ids, options = prompt_ids(1, 9), {"max_new_tokens": 12, "eos_token_id": None}
    older = OnnxDecoder(tmp_path / "older.onnx", device="cpu")
    assert torch.equal(older.generate(ids, **options), generate(phi, ids, **options))


def test_a_shared_table_is_not_transposed_when_the_graph_is_opened(phi, tmp_path):
    """onnxruntime folds what depends on constants alone, each time: 1.5 s and a second table for Gemma 3's."""
    assert phi.get_output_embeddings().weight is phi.get_input_embeddings().weight
    report = export_onnx(phi, tmp_path / "model.onnx", exporter="fused")
    graph = onnx.load(report.path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    assert not [node.name for node in graph.node if node.input and set(filter(None, node.input)) <= weights]


def test_past_and_present_are_one_buffer(phi_fused):
    assert phi_fused.inputs["past_key_values.0.key"] == ["batch", 4, "capacity", 32]
    decoder = OnnxDecoder(phi_fused.path, device="cpu")
    _, cache = decoder.generate(prompt_ids(1, 5), max_new_tokens=10, eos_token_id=None, return_cache=True)
    assert cache.get_seq_length() == 14
    address = decoder.feeds()["past_key_values.0.key"].data_ptr()
    decoder.generate(prompt_ids(1, 20, seed=1), max_new_tokens=10)
    assert decoder.feeds()["past_key_values.0.key"].data_ptr() == address  # the next request reuses it


def test_what_a_padded_batch_left_can_be_continued(phi, phi_fused):
    ids, mask = left_padded([8, 3])
    decoder = OnnxDecoder(phi_fused.path, device="cpu")
    first, cache = decoder.generate(ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None, return_cache=True)
    mask = torch.cat([mask, torch.ones(2, 4, dtype=torch.int64)], dim=-1)
    options = {"attention_mask": mask, "max_new_tokens": 6, "eos_token_id": None}
    expected = generate(phi, first, **options)
    assert torch.equal(decoder.generate(first, past_key_values=cache, **options), expected)
    assert torch.equal(generate(phi, first, past_key_values=cache, **options), expected)


def test_what_it_does_not_cover_is_named(tmp_path):
    model = build(BloomForCausalLM, BloomConfig, n_layer=2, n_head=4)
    with pytest.raises(ValueError, match='BloomForCausalLM takes no position ids.*exporter="dynamo"'):
        export_onnx(model, tmp_path / "model.onnx", exporter="fused")
    assert list(tmp_path.iterdir()) == []


def test_a_growing_cache_has_no_cuda_graph(phi_graph):
    with pytest.raises(ValueError, match='cuda_graph=True: the cache of model.onnx grows.*exporter="fused"'):
        OnnxDecoder(phi_graph.path, device="cpu", cuda_graph=True)
