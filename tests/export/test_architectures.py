"""Fifteen architectures, tiny and random: one graph each, and the tokens of transformers' generate at any size."""

import pytest
import torch
from helpers import build, left_padded
from tiny_models import tiny_config, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from decodeloop import OnnxDecoder, export_inputs, export_onnx, generate

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
ALTERNATE = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
#: Model type and what is set besides sizes: two layers where they differ, else one. The window, where there is one, is
#: 8 tokens.
ARCHITECTURES = {
    "bloom": {},
    "gemma2": ALTERNATE,
    "gemma3_text": ALTERNATE,
    "gpt2": {},
    "gpt_neox": {"use_parallel_residual": False},
    "llama": {"rope_parameters": YARN},
    "mistral": {},
    "mixtral": {},
    "opt": {"word_embed_proj_dim": 16},
    "phi": {"qk_layernorm": True},
    "phi3": {"sliding_window": 8},
    "qwen2": ALTERNATE | {"use_sliding_window": True, "sliding_window": 8},
    "qwen3": {"num_hidden_layers": 2},
    "qwen3_moe": {},
    "smollm3": {"num_hidden_layers": 2, "no_rope_layers": [1, 0], "layer_types": None},
}
BATCHES = [(1,), (40,), (21, 9), (3, 40, 1, 17, 8), (130, 110)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_loops_give_generates_tokens_at_any_size(architecture, tmp_path):
    model = tiny_model(tiny_config(architecture, **({"num_hidden_layers": 1} | ARCHITECTURES[architecture])))
    decoder = OnnxDecoder(export_onnx(model, tmp_path / "model.onnx", logits="last").path, device="cpu")
    for lengths in BATCHES:
        ids, mask = left_padded(lengths, seed=sum(lengths))
        expected = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        options = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": None}
        assert generate(model, ids, **options).tolist() == expected.tolist(), lengths
        assert decoder.generate(ids, **options).tolist() == expected.tolist(), lengths


def test_the_window_of_a_tiny_mistral_matters():
    model = tiny_model(tiny_config("mistral"))
    ids, _ = left_padded((40,))
    with_window = generate(model, ids, max_new_tokens=12)
    model.config.sliding_window = None
    assert generate(model, ids, max_new_tokens=12).tolist() != with_window.tolist()


@pytest.mark.parametrize(
    ("architecture", "options", "feature"),
    [
        ("rwkv", {}, "keeps a recurrent state: expected one of transformers' caches"),
        ("recurrent_gemma", {}, "keeps what layer 0 remembers in its modules, not in its cache"),
        ("deepseek_v4", {}, "cache holds what a graph has no name for: layer 0 is a DeepseekV4"),
        ("openai-gpt", {}, "keeps nothing between steps"),
        ("cpmant", {"num_hidden_layers": 1}, "read 5 tokens and put 37 positions into its cache"),
        ("bert", {"is_decoder": False}, "keeps no keys and values; it reads in both directions unless"),
        ("bart", {"is_encoder_decoder": False, "add_cross_attention": True}, "has cross-attention"),
        ("llama", {"rope_parameters": YARN | {"rope_type": "dynamic"}}, "rotary frequencies change with the length"),
    ],
)
def test_what_cannot_be_exported_is_named_in_one_line(architecture, options, feature, tmp_path):
    model = tiny_model(tiny_config(architecture, **options))
    with pytest.raises(ValueError, match=feature) as raised:
        export_onnx(model, tmp_path / "model.onnx")
    assert type(model).__name__ in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_branches_on_the_length_of_its_cache_is_refused(tmp_path, monkeypatch):
    model = build(LlamaForCausalLM, LlamaConfig)
    plain = LlamaForCausalLM.forward

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **options):
        if past_key_values.get_seq_length():
            input_ids = (input_ids + 1) % 97
        return plain(self, input_ids, attention_mask, position_ids, past_key_values, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(ValueError, match="for 7 new tokens after 0 it computes in another way than for 3 after 5"):
        export_onnx(model, tmp_path / "model.onnx")


def test_a_failure_inside_the_exporter_is_one_line_too(tmp_path, monkeypatch):
    model = build(LlamaForCausalLM, LlamaConfig)
    attention = type(model.model.layers[0].self_attn)
    plain = attention.forward

    def data_dependent(self, hidden_states, **options):
        return plain(self, hidden_states * (2 if hidden_states.sum() > 0 else 1), **options)

    monkeypatch.setattr(attention, "forward", data_dependent)
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot be exported: GuardOnDataDependent") as raised:
        export_onnx(model, tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails, tmp_path, monkeypatch):
    model = tiny_model(tiny_config("mixtral", num_hidden_layers=1))
    model.set_attn_implementation("flex_attention")
    model.train()
    model.model.norm.eval()
    experts, modes = model.config._experts_implementation, [module.training for module in model.modules()]
    ids, _ = left_padded((7,))
    if fails:
        monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_onnx(model, tmp_path / "model.onnx")
    else:
        # unchecked: PyTorch's compiler, which flex attention asks for, is lost in a folder whose name has a space
        decoder = OnnxDecoder(export_onnx(model, tmp_path / "model.onnx", check=False).path, device="cpu")
    assert model.config._attn_implementation == "flex_attention"
    assert model.config._experts_implementation == experts
    assert [module.training for module in model.modules()] == modes
    model.eval().set_attn_implementation("sdpa")
    if not fails:
        assert decoder.generate(ids, max_new_tokens=5).tolist() == generate(model, ids, max_new_tokens=5).tolist()


def test_example_inputs_of_a_model_without_positions():
    inputs, dynamic_shapes = export_inputs(tiny_model(tiny_config("bloom")))
    assert set(inputs) == set(dynamic_shapes) == {"input_ids", "attention_mask", "past_key_values"}
