"""Going on from the cache of an earlier call, of the same loop or another."""

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import MistralConfig, MistralForCausalLM

import decodeloop
from decodeloop import OnnxDecoder

FREE = {"eos_token_id": None}


@pytest.mark.parametrize("lengths", [[6], [6, 2, 5]])
def test_turns_give_the_tokens_of_one_long_call(phi, decoder, lengths):
    ids, mask = left_padded(lengths)
    first, cache = decoder(ids, attention_mask=mask, max_new_tokens=5, return_cache=True, **FREE)
    assert cache.get_seq_length() == first.shape[1] - 1
    said = prompt_ids(len(lengths), 4, seed=9)
    text = torch.cat([first, said], dim=-1)
    whole = torch.cat([mask, torch.ones(len(lengths), 9, dtype=torch.int64)], dim=-1)
    second, cache = decoder(
        text, attention_mask=whole, past_key_values=cache, max_new_tokens=12, return_cache=True, **FREE
    )
    expected = phi.generate(text, attention_mask=whole, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert second.tolist() == expected.tolist() or torch.equal(second[:, : expected.shape[1]], expected)
    third = torch.cat([second, said], dim=-1)
    mask = torch.cat([whole, torch.ones(len(lengths), 16, dtype=torch.int64)], dim=-1)
    assert torch.equal(
        decoder(third, attention_mask=mask, past_key_values=cache, max_new_tokens=8, **FREE),
        decoder(third, attention_mask=mask, max_new_tokens=8, **FREE),
    )


def test_only_the_new_part_is_read(phi):
    ids = prompt_ids(1, 6)
    first, cache = decodeloop.generate(phi, ids, max_new_tokens=3, return_cache=True, **FREE)
    lengths = []
    hook = phi.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decodeloop.generate(phi, torch.cat([first, prompt_ids(1, 4)], -1), past_key_values=cache, max_new_tokens=2, **FREE)
    hook.remove()
    assert lengths == [5, 1]  # the last token of the answer and the four that were said


def test_a_cache_goes_from_one_engine_to_the_other(phi, phi_graph):
    ids = prompt_ids(2, 6)
    onnx = OnnxDecoder(phi_graph.path, device="cpu")
    expected = decodeloop.generate(phi, ids, max_new_tokens=20, **FREE)
    for start, go_on in ((onnx.generate, lambda *a, **o: decodeloop.generate(phi, *a, **o)),
                         (lambda *a, **o: decodeloop.generate(phi, *a, **o), onnx.generate)):  # fmt: skip
        first, cache = start(ids, max_new_tokens=8, return_cache=True, **FREE)
        assert torch.equal(go_on(first, past_key_values=cache, max_new_tokens=12, **FREE), expected)
    flat = decodeloop.cache_to_tensors(onnx.generate(ids, max_new_tokens=8, return_cache=True, **FREE)[1])
    assert torch.equal(onnx.generate(first, past_key_values=flat, max_new_tokens=12, **FREE), expected)


def test_a_sliding_window_cache_is_continued(phi):
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=6)
    ids = prompt_ids(1, 9)
    first, cache = decodeloop.generate(model, ids, max_new_tokens=8, return_cache=True, **FREE)
    got = decodeloop.generate(model, first, past_key_values=cache, max_new_tokens=8, **FREE)
    assert torch.equal(got, decodeloop.generate(model, ids, max_new_tokens=16, **FREE))


def test_caches_that_do_not_fit_are_named(phi, llama, phi_graph):
    ids = prompt_ids(1, 6)
    tokens, cache = decodeloop.generate(llama, ids, max_new_tokens=3, return_cache=True, **FREE)
    onnx = OnnxDecoder(phi_graph.path, device="cpu")
    with pytest.raises(ValueError, match="past_key_values has 2 layers of .rows, heads, head size.*another model"):
        onnx.generate(tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="layer 0 has 2 heads of size 16; the configuration .phi. has 4 of size 8"):
        decodeloop.generate(phi, tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values has 1 rows and input_ids has 2"):
        decodeloop.generate(llama, tokens.expand(2, -1), past_key_values=cache)
    with pytest.raises(ValueError, match="holds 8 positions and input_ids has 6: expected the whole text so far"):
        decodeloop.generate(llama, ids, past_key_values=cache)
