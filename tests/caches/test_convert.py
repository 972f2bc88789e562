"""Conversions of caches: round trips, and decoding on with what came out."""

import copy

import pytest
import torch
from caching import WINDOW, assert_decodes_on_alike, filled, next_logits, static
from helpers import SMALL, build, prompt_ids
from transformers import (
    DeepseekV3Config,
    DynamicCache,
    EncoderDecoderCache,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    LlamaConfig,
    MambaConfig,
    StaticCache,
)
from transformers.cache_utils import DynamicSlidingWindowLayer

from decodeloop import cache_to_tensors, empty_tensors, tensors_to_cache
from decodeloop.caches.convert import tensors_to_legacy, tensors_to_static
from decodeloop.caches.crop import crop_cache
from decodeloop.caches.shapes import kv_shape

LENGTHS = [WINDOW - 1, WINDOW, WINDOW + 1, 13]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [DynamicCache, static])
def test_round_trip_keeps_every_tensor_and_decodes_on(model, length, kind):
    cache, more = filled(model, length, None if kind is DynamicCache else static(model), more=7)
    tensors = cache_to_tensors(cache)
    rebuilt = tensors_to_cache(tensors, model.config, length=length)
    assert isinstance(rebuilt, DynamicCache)
    for a, b in zip(tensors, cache_to_tensors(rebuilt), strict=True):
        assert torch.equal(a[:, :, -b.shape[2] :], b)  # a static window holds one token more than a dynamic one
    assert_decodes_on_alike(model, rebuilt, cache, more)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_static_cache_filled_from_tensors_decodes_on(model, length):
    capacity = 20
    cache, more = filled(model, length, more=7)
    buffers = tensors_to_static(cache_to_tensors(cache), model.config, capacity, length=length)
    assert isinstance(buffers, StaticCache)
    assert buffers.layers[-1].keys.shape[2] == (WINDOW if buffers.layers[-1].is_sliding else capacity)
    for a, b in zip(cache_to_tensors(buffers), cache_to_tensors(cache), strict=True):
        assert torch.equal(a, b)
    assert_decodes_on_alike(model, buffers, cache, more)


def test_a_static_cache_may_be_shorter_than_the_window(models):
    cache, more = filled(models["sliding"], 2, more=1)
    buffers = tensors_to_static(cache_to_tensors(cache), models["sliding"].config, 3)
    expected = next_logits(models["sliding"], cache, more)
    torch.testing.assert_close(next_logits(models["sliding"], buffers, more), expected)


def test_layers_with_a_window_are_sliding_layers(models):
    rebuilt = tensors_to_cache(cache_to_tensors(filled(models["gemma3"], 9)[0]), models["gemma3"].config)
    assert [type(layer) is DynamicSlidingWindowLayer for layer in rebuilt.layers] == [True, True, False]
    assert rebuilt.get_seq_length() == 9  # the layer without a window tells


def test_tensors_of_full_windows_do_not_tell_how_long_the_text_was(models):
    tensors, config = cache_to_tensors(filled(models["sliding"], 9)[0]), models["sliding"].config
    with pytest.raises(ValueError, match="holds all the 4 tokens it can: the text may be longer. Give its length"):
        tensors_to_cache(tensors, config)
    assert tensors_to_cache(tensors, config, length=9).get_seq_length() == 9
    assert tensors_to_cache([t[:, :, :2] for t in tensors], config).get_seq_length() == 2


def test_keys_come_before_values_layer_by_layer(llama):
    cache, _ = filled(llama)
    tensors = cache_to_tensors(cache)
    assert [tuple(t.shape) for t in tensors] == [(2, 2, 6, 16)] * 4  # two key/value heads, keys and values, two layers
    assert tensors[2] is cache.layers[1].keys
    assert tensors[3] is cache.layers[1].values


def test_a_rebuilt_cache_does_not_share_the_tensors(llama):
    tensors = cache_to_tensors(filled(llama)[0])
    rebuilt = tensors_to_cache(tensors)
    before = tensors[0].clone()
    rebuilt.layers[0].keys.zero_()
    assert torch.equal(tensors[0], before)


def test_the_legacy_format_is_written_and_read(model):
    cache, more = filled(model, 9)
    pairs = tensors_to_legacy(cache_to_tensors(cache))
    assert isinstance(pairs, tuple)
    assert {(type(pair), len(pair)) for pair in pairs} == {(tuple, 2)}
    for readable in (pairs, list(cache)):  # iterating a DynamicCache gives (keys, values, window)
        assert all(a is b for a, b in zip(cache_to_tensors(readable), cache_to_tensors(cache), strict=True))
    rebuilt = tensors_to_cache(cache_to_tensors(pairs), model.config, length=9)
    assert torch.equal(next_logits(model, rebuilt, more), next_logits(model, cache, more))


def test_empty_tensors_start_a_generation(model):
    ids = prompt_ids(3, 4)
    start = tensors_to_cache(empty_tensors(model.config, batch=3), model.config)
    torch.testing.assert_close(next_logits(model, start, ids), next_logits(model, None, ids))
    layers, heads, size = kv_shape(model.config)
    assert [tuple(t.shape) for t in empty_tensors(model.config, 2, length=9)] == [(2, heads, 9, size)] * (2 * layers)


def test_bad_caches_are_named(llama):
    with pytest.raises(ValueError, match="layer 0 of the cache is empty"):
        cache_to_tensors(DynamicCache(config=llama.config))
    with pytest.raises(ValueError, match="layer 0 of the cache holds 4 tensors: expected keys and values only"):
        cache_to_tensors([[torch.zeros(1, 2, 3, 4)] * 4])
    with pytest.raises(ValueError, match="layer 0 of the cache is empty"):
        cache_to_tensors(DynamicCache(config=MambaConfig(hidden_size=8, num_hidden_layers=1)))
    more = filled(llama)[0]
    more.layers[1].scales = torch.zeros(2, 6, 4)
    for convert in (cache_to_tensors, lambda cache: crop_cache(cache, 3)):
        with pytest.raises(ValueError, match="layer 1 of the cache is a DynamicLayer, which holds scales"):
            convert(more)
    with pytest.raises(ValueError, match="EncoderDecoderCache is not one cache"):
        cache_to_tensors(EncoderDecoderCache(filled(llama)[0], filled(llama)[0]))


def test_tensors_of_another_model_are_named(llama):
    def config(**options):
        return LlamaConfig(**(SMALL | {"num_key_value_heads": 2, "head_dim": 16} | options))

    tensors = cache_to_tensors(filled(llama)[0])
    with pytest.raises(ValueError, match="2 layers of keys and values; the configuration .llama. has 3"):
        tensors_to_cache(tensors, config(num_hidden_layers=3))
    with pytest.raises(ValueError, match="layer 0 has 2 heads of size 16; the configuration .llama. has 4 of size 16"):
        tensors_to_cache(tensors, config(num_key_value_heads=4))
    with pytest.raises(ValueError, match="layer 0 has 2 heads of size 16; the configuration .llama. has 2 of size 8"):
        tensors_to_static(tensors, config(head_dim=8), 32)


def test_layers_may_differ_in_shape_and_borrow_from_others():
    config = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8}
    config |= {"num_hidden_layers": 3, "num_key_value_heads": 2, "sliding_window": WINDOW, "pad_token_id": 0}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    wide = {"layer_types": [kinds[0], kinds[0], kinds[1]], "num_kv_shared_layers": 0, "global_head_dim": 16}
    wide |= {"num_global_key_value_heads": 1, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0}
    borrowed = {"layer_types": kinds, "num_kv_shared_layers": 1, "intermediate_size": [64] * 3, "laurel_rank": 4}
    borrowed |= {"hidden_size_per_layer_input": 4, "activation_sparsity_pattern": [0.0] * 3}
    borrowed |= {"vocab_size_per_layer_input": 97}
    for model, shapes in (
        (build(Gemma4ForCausalLM, Gemma4TextConfig, **(config | wide)), [(2, 8), (2, 8), (1, 16)]),
        (build(Gemma3nForCausalLM, Gemma3nTextConfig, **(config | borrowed)), [(2, 8), (2, 8)]),
    ):
        empty = empty_tensors(model.config)
        assert [(t.shape[1], t.shape[3]) for t in empty[::2]] == shapes
        cache, more = filled(model, 9, tensors_to_cache(empty_tensors(model.config, 2), model.config), more=7)
        tensors = cache_to_tensors(cache)
        assert len(tensors) == 2 * len(shapes)
        assert_decodes_on_alike(model, tensors_to_static(tensors, model.config, 20), copy.deepcopy(cache), more)
        assert_decodes_on_alike(model, tensors_to_cache(tensors, model.config), cache, more)


def test_what_latent_attention_caches_is_converted_but_not_guessed():
    config = DeepseekV3Config(num_hidden_layers=1)
    tensors = [torch.zeros(1, 1, 4, 512), torch.zeros(1, 1, 4, 64)]
    assert tensors_to_cache(tensors, config).get_seq_length() == 4
    with pytest.raises(ValueError, match="deepseek_v3 caches latent vectors .kv_lora_rank=512., whose shape"):
        empty_tensors(config)


def test_bad_tensors_are_named(llama):
    keys = torch.zeros(2, 2, 6, 16)
    with pytest.raises(ValueError, match="3 tensors: expected an even number"):
        tensors_to_cache([keys] * 3)
    with pytest.raises(
        ValueError, match=r"the keys of layer 0 have shape \[1\]: expected \[batch, heads, length, head"
    ):
        tensors_to_cache([torch.zeros(1)] * 2)
    with pytest.raises(ValueError, match=r"the values of layer 0 have shape \[2, 2, 5, 16\]: expected .* \[2, 2, 6\]"):
        tensors_to_legacy([keys, keys[:, :, :5]])
    with pytest.raises(ValueError, match=r"the keys of layer 1 have shape \[1, 2, 6, 16\]: expected .* \[2, 2, 6\]"):
        tensors_to_legacy([keys, keys, keys[:1], keys[:1]])
    with pytest.raises(ValueError, match="layer 1 holds 5 tokens: expected 6 after 6 tokens of text"):
        tensors_to_cache([keys, keys, keys[:, :, :5], keys[:, :, :5]], llama.config)
    with pytest.raises(ValueError, match="layer 0 holds 6 tokens: expected 9 after 9 tokens of text"):
        tensors_to_cache([keys] * 4, llama.config, length=9)
    with pytest.raises(ValueError, match="capacity=5: expected an int of 6 or more"):
        tensors_to_static([keys] * 4, llama.config, 5)
