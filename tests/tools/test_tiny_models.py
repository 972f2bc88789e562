"""Tiny random models of the architectures whose sizes depend on each other, or whose layers are of several kinds."""

import pytest
import torch
from helpers import left_padded
from tiny_models import NO_LANGUAGE_MODEL, tiny_config, tiny_model
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

NEW = pytest.mark.skipif("dots3_note_text" not in CONFIG_MAPPING, reason="transformers 5.17 does not know it")
#: The kinds of layers that the tiny model must keep, where transformers names them.
KINDS = {
    "bamba": {"linear_attention", "full_attention"},
    "dots3_note_text": {"indexed_attention", "sliding_attention"},
    "falcon_mamba": {"linear_attention"},
    "granitemoehybrid": {"linear_attention", "full_attention"},
    "jamba": {"linear_attention", "full_attention"},
    "mamba": {"linear_attention"},
    "mamba2": {"linear_attention"},
    "minimax": {"linear_attention", "full_attention"},
    "nemotron_h": {"linear_attention", "moe", "full_attention", "mlp"},
    "recurrent_gemma": {"linear_attention", "sliding_attention"},
    "zamba": {"linear_attention", "hybrid"},
    "zamba2": {"linear_attention", "hybrid"},
    "prophetnet": set(),
    "rwkv": set(),
    "xlstm": set(),
}


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=NEW if name == "dots3_note_text" else ()) for name in KINDS]
)
def test_a_tiny_model_has_each_kind_of_layer_and_generates(architecture):
    config = tiny_config(architecture)
    named = getattr(config, "layer_types", None)  # transformers 5.17 names none of Recurrent Gemma's
    assert named is None or set(named) == KINDS[architecture]
    assert config.num_hidden_layers <= 4
    ids, mask = left_padded((21, 9))
    text = tiny_model(config).generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False, pad_token_id=0)
    assert text.shape == (2, 45)


def test_what_a_configuration_works_out_is_worked_out_again():
    """Else the sizes of the large model stay: 2560 recurrent channels beside a hidden size of 32."""
    assert tiny_config("recurrent_gemma").lru_width == tiny_config("recurrent_gemma").hidden_size == 32
    assert tiny_config("zamba2").mamba_headdim * tiny_config("zamba2").n_mamba_heads == 2 * 32


@NEW
def test_a_kind_of_layers_keeps_its_proportion_to_the_others():
    dots, gemma = tiny_config("dots3_note_text").per_layer_config, tiny_config("gemma4_text").per_layer_config
    assert dots["sliding_attention"].kv_lora_rank == 2 * dots["indexed_attention"].kv_lora_rank
    assert gemma["full_attention"].head_dim == 2 * gemma["sliding_attention"].head_dim


@pytest.mark.parametrize("architecture", NO_LANGUAGE_MODEL)
def test_what_is_no_language_model_by_itself_says_why(architecture):
    with pytest.raises(ValueError, match="no language model by itself: it"):
        tiny_config(architecture)


def test_a_seed_makes_the_same_weights():
    first, second = (tiny_model(tiny_config("mamba"), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
