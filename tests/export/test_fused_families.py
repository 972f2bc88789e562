"""Graphs of fused operators for each family: proved by the export's own check, which sees every part of a description.

Tiny random models, every parameter drawn. A window is 8 tokens.
"""

import dataclasses

import pytest
import torch
from helpers import left_padded
from tiny_models import tiny_config, tiny_model

from decodeloop import OnnxDecoder, export_onnx, generate
from decodeloop.export import write
from decodeloop.export.fused.describe import describe
from decodeloop.export.fused.families import FAMILIES

ALTERNATE = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
WIDE = {"hidden_size": 64, "num_attention_heads": 4}  # heads of 16, the smallest that the operator rotates
HALF_ROTATED = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 0.125,
}
GEMMA_4 = ALTERNATE | {
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "per_layer_config": {1: {"head_dim": 32, "num_key_value_heads": 1}},
}
#: Model type and settings: each way in which the layers of a family can be put together.
MODELS = {
    "cohere": ("cohere", WIDE),
    "cohere, norms of queries and keys": ("cohere", WIDE | {"use_qk_norm": True}),
    "cohere2": ("cohere2", WIDE | ALTERNATE),
    "falcon": ("falcon", WIDE | {"alibi": False, "bias": True}),
    "falcon, grouped heads": ("falcon", WIDE | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": ("falcon", WIDE | {"parallel_attn": False, "multi_query": False}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", ALTERNATE | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", ALTERNATE),
    "gemma4": ("gemma4_text", GEMMA_4),
    "gemma4, keys are values": ("gemma4_text", GEMMA_4 | {"attention_k_eq_v": True}),
    "glm": ("glm", {"head_dim": 32}),
    "glm4": ("glm4", {"head_dim": 32}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {"hidden_size": 128} | HALF_ROTATED),
    "gpt_neox, sequential": ("gpt_neox", {"hidden_size": 128, "use_parallel_residual": False} | HALF_ROTATED),
    "granite": ("granite", WIDE | GRANITE),
    "llama": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "mistral": ("mistral", {}),
    "olmo": ("olmo", WIDE | {"clip_qkv": 1.0}),
    "olmo2": ("olmo2", WIDE),
    "olmo3": ("olmo3", WIDE | ALTERNATE),
    "opt": ("opt", {}),
    "opt, norms behind": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi, norms of queries and keys": ("phi", {"hidden_size": 128, "qk_layernorm": True} | HALF_ROTATED),
    "phi3": ("phi3", {"hidden_size": 64, "sliding_window": 8}),
    "qwen2": ("qwen2", WIDE | ALTERNATE | {"use_sliding_window": True, "sliding_window": 8}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", WIDE | {"num_hidden_layers": 2, "no_rope_layers": [1, 0], "layer_types": None}),
    "starcoder2": ("starcoder2", WIDE | {"sliding_window": 8, "bos_token_id": 1, "eos_token_id": 2}),
}


def made(name):
    model_type, options = MODELS[name]
    model = tiny_model(tiny_config(model_type, **options))
    for module in model.modules():
        if hasattr(module, "layer_scalar"):  # no parameter, so it was not drawn
            module.layer_scalar.fill_(0.8)
    model.set_attn_implementation("eager")  # Gemma 2's other one has no soft cap in older versions of transformers
    return model


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_generate_past_the_window_padded_and_continued(name, tmp_path):
    model = made(name)
    report = export_onnx(model, tmp_path / "model.onnx", exporter="fused")
    assert report.graph == "fused"
    assert report.checked
    with OnnxDecoder(report.path, device="cpu") as decoder:
        for lengths in ([12], [12, 5, 9], [1, 40]):
            ids, mask = left_padded(lengths)
            options = {"max_new_tokens": 10, "eos_token_id": None}
            expected = model.generate(ids, attention_mask=mask, do_sample=False, **options)
            tokens, cache = decoder.generate(ids, attention_mask=mask, return_cache=True, **options)
            assert tokens.tolist() == expected.tolist(), lengths
            mask = torch.cat([mask, torch.ones(len(lengths), 10, dtype=torch.int64)], dim=-1)
            further = generate(model, tokens, attention_mask=mask, **options)
            options |= {"attention_mask": mask, "past_key_values": cache}
            assert decoder.generate(tokens, **options).tolist() == further.tolist(), lengths
            assert generate(model, tokens, **options).tolist() == further.tolist(), lengths  # it extends the cache


def test_every_family_is_tried():
    assert {type(made(name)).__name__ for name in MODELS} == FAMILIES.keys()


def parts(described):
    """What could be left out of a description, or got wrong, and the description without it."""
    for field in ("embedding_scale", "logit_scale"):
        if getattr(described, field) != 1:
            yield field, dataclasses.replace(described, **{field: 1.0})
    for field in ("logit_cap", "norm"):
        if getattr(described, field) is not None:
            yield field, dataclasses.replace(described, **{field: None})
    if described.tables:
        yield "pairs", dataclasses.replace(described, pairs=not described.pairs)
    if described.positions is not None:
        yield "positions", dataclasses.replace(described, positions=described.positions.roll(1, 0))

    def with_layer(index, layer):
        layers = list(described.layers)
        layers[index] = layer
        return dataclasses.replace(described, layers=tuple(layers))

    first, *others = described.layers
    kinds = [first, *(layer for layer in others if layer.attention.window != first.attention.window)]
    for index, layer in enumerate(kinds):
        for field in ("before_attention", "after_attention", "before_mlp", "after_mlp"):
            if getattr(layer, field) is not None:
                yield f"{index}.{field}", with_layer(index, dataclasses.replace(layer, **{field: None}))
                norm = getattr(layer, field)
                undone = field == "before_attention" and layer.attention.v_norm is not None  # by the norms behind it
                epsilon = {} if undone else {"epsilon": 10.0}
                for wrong in ({"offset": 1 - norm.offset}, {"centred": not norm.centred}, epsilon):
                    if not wrong:
                        continue
                    replaced = dataclasses.replace(norm, **wrong)
                    yield f"{index}.{field} {wrong}", with_layer(index, dataclasses.replace(layer, **{field: replaced}))
        if layer.after_sum != (None, None):
            for sums in ((None, layer.after_sum[1]), (layer.after_sum[0], None)):
                yield f"{index}.after_sum", with_layer(index, dataclasses.replace(layer, after_sum=sums))
        for field in ("residual_scale", "scale"):
            if getattr(layer, field) != 1 and index == 0:  # the last norm undoes a factor of the last sum
                yield f"{index}.{field}", with_layer(index, dataclasses.replace(layer, **{field: 1.0}))
        for field in ("q_norm", "k_norm", "v_norm", "clip", "window", "cap", "rotary"):
            if getattr(layer.attention, field) is not None:
                attention = dataclasses.replace(layer.attention, **{field: None})
                yield f"{index}.{field}", with_layer(index, dataclasses.replace(layer, attention=attention))
        attention = dataclasses.replace(layer.attention, scale=2 * layer.attention.scale)
        yield f"{index}.attention scale", with_layer(index, dataclasses.replace(layer, attention=attention))
        for linear, part in (("write", "attention"), ("down", "mlp")):
            whole = getattr(layer, part)
            if (bias := getattr(whole, linear).bias) is not None and bias.abs().sum() > 0:
                replaced = dataclasses.replace(getattr(whole, linear), bias=None)
                changed = dataclasses.replace(whole, **{linear: replaced})
                yield f"{index}.{linear}.bias", with_layer(index, dataclasses.replace(layer, **{part: changed}))


@pytest.mark.parametrize("name", MODELS)
def test_the_check_sees_each_part_that_is_left_out(name, tmp_path, monkeypatch):
    model = made(name)
    described = describe(model)
    unseen = []
    for part, wrong in parts(described):
        monkeypatch.setattr(write, "describe", lambda model, wrong=wrong: wrong)
        try:
            export_onnx(model, tmp_path / "model.onnx", exporter="fused")
        except ValueError:
            continue
        unseen.append(part)
    assert not unseen
    assert list(tmp_path.iterdir()) == []


def grown(model):
    model.model.layers[1].mlp.extra = torch.nn.Parameter(torch.zeros(3))


def adapted(model):
    class Adapted(torch.nn.Linear):
        pass

    model.model.layers[1].mlp.down_proj.__class__ = Adapted


@pytest.mark.parametrize("change", [grown, adapted])
def test_a_model_with_a_weight_or_layer_that_no_description_has_is_none_of_a_family(change):
    model = made("llama")
    assert describe(model) is not None
    change(model)
    assert describe(model) is None


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("falcon", WIDE | {"alibi": True}),
        ("gemma", {"use_bidirectional_attention": True}),
        ("gemma4_text", GEMMA_4 | {"hidden_size_per_layer_input": 16}),
        (
            "gemma4_text",
            GEMMA_4 | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
        ),
        (
            "gemma4_text",
            GEMMA_4 | {"num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 2, "per_layer_config": {}},
        ),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt_neox", {"rotary_pct": 0.25}),  # 2 of 8: too few for the operator
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("qwen3_moe", {}),
    ],
)
def test_what_a_description_cannot_say_is_not_described(model_type, options):
    assert describe(tiny_model(tiny_config(model_type, **options))) is None
