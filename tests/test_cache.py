"""Conversions of caches: round trips, and decoding on with what came out."""

import pytest
import torch
from conftest import build, prompt_ids
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from decodeloop import cache_to_tensors, empty_tensors, get_weight_type, tensors_to_cache, to_any


def filled(model, length=6, cache=None):
    ids = prompt_ids(2, length + 1)
    with torch.no_grad():
        outputs = model(ids[:, :length], past_key_values=cache, use_cache=True)
    return outputs.past_key_values, ids[:, length:]


def next_logits(model, cache, ids):
    with torch.no_grad():
        return model(ids, past_key_values=cache, use_cache=True).logits


def test_round_trip_keeps_every_tensor_and_decodes_on(llama):
    cache, more = filled(llama)
    tensors = cache_to_tensors(cache)
    assert [tuple(t.shape) for t in tensors] == [(2, 2, 6, 16)] * 4  # two key/value heads, keys and values, two layers
    rebuilt = tensors_to_cache(tensors, llama.config)
    assert isinstance(rebuilt, DynamicCache)
    assert all(torch.equal(a, b) for a, b in zip(tensors, cache_to_tensors(rebuilt), strict=True))
    assert torch.equal(next_logits(llama, rebuilt, more), next_logits(llama, cache, more))


def test_keys_come_before_values_layer_by_layer(llama):
    cache, _ = filled(llama)
    tensors = cache_to_tensors(cache)
    assert tensors[2] is cache.layers[1].keys
    assert tensors[3] is cache.layers[1].values


def test_a_legacy_cache_of_pairs_is_read(llama):
    cache, _ = filled(llama)
    pairs = tuple((layer.keys, layer.values) for layer in cache.layers)
    assert all(a is b for a, b in zip(cache_to_tensors(pairs), cache_to_tensors(cache), strict=True))


def test_a_static_cache_gives_its_filled_part(llama):
    static, more = filled(llama, cache=StaticCache(config=llama.config, max_cache_len=32))
    dynamic, _ = filled(llama)
    for a, b in zip(cache_to_tensors(static), cache_to_tensors(dynamic), strict=True):
        assert a.shape[2] == 6
        torch.testing.assert_close(a, b)
    rebuilt = tensors_to_cache(cache_to_tensors(static), llama.config)
    torch.testing.assert_close(next_logits(llama, rebuilt, more), next_logits(llama, dynamic, more))


@pytest.mark.parametrize("length", [3, 12])
def test_a_sliding_window_cache_decodes_on(length):
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=5)
    cache, more = filled(model, length, DynamicCache(config=model.config))
    rebuilt = tensors_to_cache(cache_to_tensors(cache), model.config, length=length)
    assert all(isinstance(layer, DynamicSlidingWindowLayer) for layer in rebuilt.layers)
    assert rebuilt.get_seq_length() == length
    assert torch.equal(next_logits(model, rebuilt, more), next_logits(model, cache, more))


def test_empty_tensors_start_a_generation(llama):
    ids = prompt_ids(3, 4)
    start = tensors_to_cache(empty_tensors(llama.config, batch=3), llama.config)
    torch.testing.assert_close(next_logits(llama, start, ids), next_logits(llama, None, ids))
    assert [tuple(t.shape) for t in empty_tensors(llama.config, 2, length=9)] == [(2, 2, 9, 16)] * 4


def test_bad_caches_are_named(llama):
    with pytest.raises(ValueError, match="layer 0 of the cache is empty"):
        cache_to_tensors(DynamicCache(config=llama.config))
    with pytest.raises(ValueError, match="3 tensors: expected an even number"):
        tensors_to_cache([torch.zeros(1)] * 3)
    with pytest.raises(ValueError, match="1 layers of keys and values; the configuration .llama. has 2"):
        tensors_to_cache(empty_tensors(llama.config)[:2], llama.config)


def test_to_any_casts_floats_and_keeps_integers(llama):
    cache, _ = filled(llama)
    nested = {"ids": torch.ones(2, dtype=torch.int64), "list": [torch.zeros(2), (torch.zeros(1), 3)], "cache": cache}
    cast = to_any(nested, torch.float16)
    assert cast["ids"].dtype == torch.int64
    assert cast["list"][0].dtype == cast["list"][1][0].dtype == torch.float16
    assert cast["list"][1][1] == 3
    assert {t.dtype for t in cache_to_tensors(cast["cache"])} == {torch.float16}
    assert {t.dtype for t in cache_to_tensors(cache)} == {torch.float32}  # the original is left as it was
    assert to_any(nested, "meta")["list"][0].device.type == "meta"


def test_get_weight_type_counts_elements():
    module = torch.nn.Sequential(torch.nn.Linear(50, 50).half(), torch.nn.Linear(2, 2), torch.nn.LayerNorm(3))
    assert get_weight_type(module) == torch.float16
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        get_weight_type(torch.nn.ReLU())
