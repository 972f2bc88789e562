"""Caches and what holds them in another type or on another device."""

import copy

import pytest
import torch
from caching import assert_decodes_on_alike, filled, next_logits, static
from transformers import DynamicCache

from decodeloop import cache_to_tensors, get_weight_type, to_any


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


@pytest.mark.parametrize("kind", [DynamicCache, static])
@pytest.mark.parametrize("length", [3, 9])
def test_a_cache_in_another_dtype_decodes_on(model, kind, length):
    cache, more = filled(model, length, None if kind is DynamicCache else static(model), more=7)
    there_and_back = to_any(to_any(cache, torch.float64), torch.float32)
    in_double = to_any(cache, torch.float64)
    double = copy.deepcopy(model).double()
    assert_decodes_on_alike(model, there_and_back, copy.deepcopy(cache), more)
    expected = next_logits(model, cache, more)
    torch.testing.assert_close(next_logits(double, in_double, more).float(), expected, atol=1e-4, rtol=1e-4)


def test_get_weight_type_counts_elements():
    module = torch.nn.Sequential(torch.nn.Linear(50, 50).half(), torch.nn.Linear(2, 2), torch.nn.LayerNorm(3))
    assert get_weight_type(module) == torch.float16
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        get_weight_type(torch.nn.ReLU())
