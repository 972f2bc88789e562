"""A cache that is rewound is that of the shorter text, or refuses and stays as it was."""

import copy

import pytest
import torch
from caching import WINDOW, assert_decodes_on_alike, filled, next_logits, static
from transformers import DynamicCache

from decodeloop.caches.crop import crop_cache


@pytest.mark.parametrize("kind", [DynamicCache, static])
@pytest.mark.parametrize("length", [0, 1, 3, 6])
def test_a_rewound_cache_is_the_cache_of_the_shorter_text(llama, kind, length):
    cache, _ = filled(llama, 6, None if kind is DynamicCache else static(llama))
    expected, more = filled(llama, length, more=7)
    assert crop_cache(cache, length) is cache
    assert int(cache.get_seq_length()) == length
    assert_decodes_on_alike(llama, cache, expected, more)


@pytest.mark.parametrize("kind", [DynamicCache, static])
def test_windows_that_are_not_full_can_be_rewound(model, kind):
    cache, _ = filled(model, WINDOW - 1, None if kind is DynamicCache else static(model))
    expected, more = filled(model, 2, more=7)
    assert_decodes_on_alike(model, crop_cache(cache, 2), expected, more)


@pytest.mark.parametrize("kind", [DynamicCache, static])
@pytest.mark.parametrize("name", ["sliding", "gemma2", "gemma3"])
def test_a_window_that_dropped_what_is_needed_refuses_and_stays_as_it_was(models, kind, name):
    model = models[name]
    cache, more = filled(model, 9, None if kind is DynamicCache else static(model), more=7)
    untouched = copy.deepcopy(cache)
    with pytest.raises(
        ValueError, match="cannot rewind from 9 tokens to 6: layer 0 has a sliding window, and of the 4"
    ):
        crop_cache(cache, 6)
    assert_decodes_on_alike(model, crop_cache(cache, 9), untouched, more)


def test_a_static_window_can_be_rewound_by_the_one_token_that_it_holds_too_many(models):
    for length in (WINDOW + 1, 9):  # of the first, rewinding leaves a window that is just full
        cache, _ = filled(models["gemma3"], length, static(models["gemma3"]))
        expected, more = filled(models["gemma3"], length - 1, more=7)
        again = copy.deepcopy(crop_cache(cache, length - 1))
        assert_decodes_on_alike(models["gemma3"], cache, expected, more)
        with pytest.raises(ValueError, match="cannot rewind"):
            crop_cache(again, length - 2)


def test_a_dynamic_window_that_records_its_past_can_be_rewound(models):
    cache = DynamicCache(config=models["gemma3"].config)
    cache.activate_past_recording()
    filled(models["gemma3"], 9, cache)
    expected, more = filled(models["gemma3"], 6, more=1)
    cache = crop_cache(cache, 6)
    torch.testing.assert_close(
        next_logits(models["gemma3"], cache, more), next_logits(models["gemma3"], expected, more)
    )


def test_rewinding_a_static_cache_keeps_its_addresses_and_zeroes_the_tail(models):
    cache, _ = filled(models["gemma3"], 4, static(models["gemma3"]))
    addresses = [(layer.keys.data_ptr(), layer.cumulative_length.data_ptr()) for layer in cache.layers]
    crop_cache(cache, 3)
    assert addresses == [(layer.keys.data_ptr(), layer.cumulative_length.data_ptr()) for layer in cache.layers]
    assert not any(layer.keys[:, :, 3:].any() or layer.values[:, :, 3:].any() for layer in cache.layers)


@pytest.mark.parametrize("length", [-1, 7, 2.0, True])
def test_a_length_that_a_cache_cannot_be_rewound_to_is_named(llama, length):
    with pytest.raises(ValueError, match=f"length={length!r}: expected an int from 0 to 6"):
        crop_cache(filled(llama, 6)[0], length)
