"""Caches that have read a text, of four kinds of decoders, and whether they decode on alike."""

import torch
from helpers import build, prompt_ids
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

WINDOW = 5
HYBRID = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}


def cached_models(llama):
    """One decoder of each kind: no window, a window everywhere, and two that mix."""
    return {
        "full": llama,
        "sliding": build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=WINDOW),
        "gemma2": build(Gemma2ForCausalLM, Gemma2Config, **HYBRID),
        "gemma3": build(Gemma3ForCausalLM, Gemma3TextConfig, **HYBRID),
    }


def filled(model, length=6, cache=None, more=1):
    """A cache that has read ``length`` tokens, and the ``more`` tokens that come next."""
    ids = prompt_ids(2, 32)[:, : length + more]
    cache = DynamicCache(config=model.config) if cache is None else cache
    if length:
        next_logits(model, cache, ids[:, :length])
    return cache, ids[:, length:]


def static(model, capacity=32):
    return StaticCache(config=model.config, max_cache_len=capacity)


@torch.no_grad()
def next_logits(model, cache, ids):
    return model(ids, past_key_values=cache, use_cache=True).logits


def assert_decodes_on_alike(model, cache, expected, ids):
    """One token at a time, then the rest at once: a window fills up, and a full one moves on."""
    for part in (*ids[:, :4].split(1, dim=1), ids[:, 4:]):
        torch.testing.assert_close(next_logits(model, cache, part), next_logits(model, expected, part))
    assert int(cache.get_seq_length()) == int(expected.get_seq_length())
