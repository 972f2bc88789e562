"""Prompt lookup: the greedy tokens in fewer passes."""

import pytest
import torch
from helpers import build, prompt_ids
from transformers import Lfm2Config, Lfm2ForCausalLM, MistralConfig, MistralForCausalLM, StaticCache

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, Sampler

FREE = {"eos_token_id": None}


@pytest.mark.parametrize("length", [1, 5, 40])
def test_lookup_gives_exactly_the_greedy_tokens(phi, decoder, length):
    ids = prompt_ids(1, length, seed=length)
    repeated = torch.cat([ids, ids, ids], dim=-1)
    for prompt in (ids, repeated):
        lookup = PromptLookup(tokens=6, ngram=2)
        got = decoder(prompt, lookup=lookup, max_new_tokens=40)
        assert torch.equal(got, phi.generate(prompt, max_new_tokens=40, do_sample=False))
        assert lookup.written == got.shape[1] - prompt.shape[1]
        assert lookup.passes == lookup.written - lookup.accepted


def test_lookup_needs_fewer_passes_where_text_repeats(bundled):
    code = 'def add(a, b):\n    """Return the sum of a and b."""\n    return a + b\n'
    ids = bundled.tokenizer(code * 3, return_tensors="pt").input_ids
    lookup, passes = PromptLookup(), []
    hook = bundled.model.register_forward_hook(lambda *args: passes.append(1))
    got = decodeloop.generate(bundled.model, ids, lookup=lookup, max_new_tokens=40, **FREE)
    hook.remove()
    assert torch.equal(got, decodeloop.generate(bundled.model, ids, max_new_tokens=40, **FREE))
    assert len(passes) == lookup.passes < 40
    assert lookup.acceptance > 0
    assert lookup.tokens_per_pass == 40 / lookup.passes


def test_lookup_stops_at_the_end_and_keeps_a_clean_cache(phi, decoder):
    ids = torch.cat([prompt_ids(1, 10)] * 2, dim=-1)
    free = decoder(ids, max_new_tokens=30, **FREE)
    end = int(free[0, 20 + 7])
    lookup = PromptLookup(tokens=8, ngram=1)
    got, cache = decoder(ids, max_new_tokens=30, eos_token_id=end, lookup=lookup, return_cache=True)
    assert torch.equal(got, decoder(ids, max_new_tokens=30, eos_token_id=end))
    assert cache.get_seq_length() == got.shape[1] - 1
    more = torch.cat([got, prompt_ids(1, 3)], dim=-1)
    assert torch.equal(
        decoder(more, past_key_values=cache, max_new_tokens=10, **FREE), decoder(more, max_new_tokens=10, **FREE)
    )


def test_lookup_on_a_sliding_window(phi):
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=6)
    ids = torch.cat([prompt_ids(1, 7)] * 3, dim=-1)
    got = decodeloop.generate(model, ids, lookup=PromptLookup(ngram=1), max_new_tokens=40)
    assert torch.equal(got, model.generate(ids, max_new_tokens=40, do_sample=False))


def test_lookup_goes_on_from_a_sliding_window():
    """It has dropped tokens, and needs none of them back: only guesses are rewound."""
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=6)
    ids = prompt_ids(1, 7).repeat(1, 3)
    first, cache = decodeloop.generate(model, ids, max_new_tokens=6, return_cache=True, **FREE)
    text = torch.cat([first, ids[:, :7]], dim=-1)
    options = {"max_new_tokens": 20, "past_key_values": cache, "return_cache": True} | FREE
    got, cache = decodeloop.generate(model, text, lookup=PromptLookup(tokens=4, ngram=1), **options)
    assert torch.equal(got, model.generate(text, max_new_tokens=20, do_sample=False, eos_token_id=None))
    more = decodeloop.generate(model, got, max_new_tokens=9, past_key_values=cache, **FREE)
    assert torch.equal(more, model.generate(text, max_new_tokens=29, do_sample=False, eos_token_id=None))


def test_a_cache_that_cannot_be_rewound_is_refused_before_the_first_token(phi):
    model = build(Lfm2ForCausalLM, Lfm2Config, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    ids = prompt_ids(1, 7).repeat(1, 3)
    with pytest.raises(ValueError, match="lookup rewinds the cache of Lfm2ForCausalLM.*leave lookup out"):
        decodeloop.stream(model, ids, lookup=PromptLookup())
    got = decodeloop.generate(model, ids, max_new_tokens=9, **FREE)
    assert torch.equal(got, model.generate(ids, max_new_tokens=9, do_sample=False, eos_token_id=None))
    with pytest.raises(ValueError, match="a StaticLayer cannot be rewound: leave lookup out"):
        decodeloop.stream(
            phi, ids, past_key_values=StaticCache(config=phi.config, max_cache_len=90), lookup=PromptLookup()
        )


def test_lookup_refuses_what_it_cannot_do(decoder, llama_graph):
    sampler = Sampler(processors=[lambda ids, scores: scores])
    with pytest.raises(ValueError, match=r"give lookup or Sampler\(processors=...\), not both"):
        decoder(prompt_ids(1, 3), lookup=PromptLookup(), sampler=sampler)
    with pytest.raises(ValueError, match=r"lookup=\[\]: expected a decodeloop.PromptLookup or DraftModel, or None"):
        decoder(prompt_ids(1, 3), lookup=[])
    with pytest.raises(ValueError, match="lookup with a batch of 2 rows"):
        decoder(prompt_ids(2, 3), lookup=PromptLookup())
    with pytest.raises(ValueError, match="tokens=0: expected an int of 1 or more"):
        PromptLookup(tokens=0)
    ids = torch.cat([prompt_ids(1, 5)] * 2, dim=-1)
    with pytest.raises(ValueError, match='export it with logits="all"'):
        OnnxDecoder(llama_graph.path, device="cpu").generate(ids, lookup=PromptLookup(ngram=1), **FREE)


def test_guesses_come_from_the_latest_match():
    text = torch.tensor([1, 2, 3, 9, 1, 2, 4, 8, 1, 2])
    assert PromptLookup(tokens=2, ngram=2).guess(text, 10).tolist() == [4, 8]
    assert PromptLookup(tokens=9, ngram=2).guess(text, 3).tolist() == [4, 8, 1]
    assert PromptLookup().guess(torch.tensor([1, 2, 3]), 10).tolist() == []
    assert PromptLookup().guess(torch.tensor([7, 7]), 10).tolist() == [7]
