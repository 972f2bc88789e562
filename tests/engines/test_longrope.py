"""Rotary frequencies that change with the length of the text: the tokens of ``generate``, or a refusal in one line.

``generate`` without a cache is the reference: with one, some versions of transformers go wrong at the change.
"""

import contextlib

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, TorchDecoder

FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 4.0, 8.0, 16.0]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32} | FACTORS
FREE = {"eos_token_id": None}
BEYOND = r"rotary frequencies are others beyond 32 positions, and this needs \d+: "


@pytest.fixture(scope="module")
def phi3():
    options = {"original_max_position_embeddings": 32, "sliding_window": None, "rope_parameters": LONGROPE}
    return build(Phi3ForCausalLM, Phi3Config, **options)


def expected(model, ids, new, mask=None):
    return model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, use_cache=False, **FREE)


@pytest.mark.parametrize(("length", "new"), [(20, 12), (20, 13), (20, 40), (31, 5), (32, 5), (33, 5), (50, 20)])
def test_the_text_is_read_again_where_its_frequencies_change(phi3, length, new):
    ids = prompt_ids(1, length)
    got = decodeloop.generate(phi3, ids, max_new_tokens=new, **FREE)
    assert torch.equal(got, expected(phi3, ids, new))


def test_a_batch_changes_together(phi3):
    ids, mask = left_padded([25, 9, 17])
    got = decodeloop.generate(phi3, ids, attention_mask=mask, max_new_tokens=30, **FREE)
    assert torch.equal(got, expected(phi3, ids, 30, mask))


@pytest.mark.parametrize(("cached", "total"), [(20, 25), (20, 45), (40, 45)])
def test_a_cache_is_continued_across_the_change(phi3, cached, total):
    ids = prompt_ids(1, total)
    _, cache = decodeloop.generate(phi3, ids[:, :cached], max_new_tokens=1, return_cache=True, **FREE)
    got = decodeloop.generate(phi3, ids, past_key_values=cache, max_new_tokens=20, **FREE)
    assert torch.equal(got, expected(phi3, ids, 20))


@pytest.mark.parametrize("engine", ["static", "dynamo", "fused"])
def test_a_step_with_one_set_is_right_as_far_as_that_goes_and_refuses_more(phi3, export_once, engine):
    if engine == "static":
        decoder = TorchDecoder(phi3)
    else:
        report = None
        with contextlib.suppress(ValueError):  # transformers 5.17's change of frequencies cannot be traced
            report = export_once(f"phi3-{engine}", phi3, exporter=engine)
        if report is None:
            pytest.skip("the export refuses it")
        decoder = OnnxDecoder(report.path, device="cpu")
    for ids, mask in (left_padded([20]), left_padded([20, 6])):
        want = expected(phi3, ids, 12, mask)
        assert torch.equal(decoder.generate(ids, attention_mask=mask, max_new_tokens=12, **FREE), want)
        with pytest.raises(ValueError, match=BEYOND + r".* has one set. Shorten it, or use decodeloop.generate"):
            decoder.stream(ids, attention_mask=mask, max_new_tokens=13)
    with pytest.raises(ValueError, match=BEYOND):
        decodeloop.verify(phi3, decoder, ids, max_new_tokens=13)
    assert decodeloop.verify(phi3, decoder, ids, attention_mask=mask, max_new_tokens=12, **FREE).agrees


def test_lookup_does_not_read_across_the_change(phi3):
    ids = prompt_ids(1, 5).repeat(1, 4)
    got = decodeloop.generate(phi3, ids, max_new_tokens=12, lookup=PromptLookup(ngram=1), **FREE)
    assert torch.equal(got, expected(phi3, ids, 12))
    with pytest.raises(ValueError, match=BEYOND + "lookup reads across that"):
        decodeloop.stream(phi3, ids, max_new_tokens=13, lookup=PromptLookup())


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_model_that_reads_nothing_again_is_continued_as_generate_does(kind):
    """Llama keeps the keys that it has made; dynamic NTK changes only beyond all positions that the model has."""
    rope = {"longrope": LONGROPE, "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}[kind]
    model = build(LlamaForCausalLM, LlamaConfig, rope_parameters=rope, max_position_embeddings=64)
    ids = prompt_ids(1, 20)
    got = decodeloop.generate(model, ids, max_new_tokens=44, **FREE)
    assert torch.equal(got, model.generate(ids, max_new_tokens=44, do_sample=False, **FREE))
    with pytest.raises(ValueError, match="need 65 positions, and the model has 64"):
        decodeloop.generate(model, ids, max_new_tokens=45)
