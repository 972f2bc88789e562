"""Both loops, PyTorch and ONNX Runtime, against transformers' generate."""

import copy

import pytest
import torch
from helpers import left_padded, prompt_ids

import decodeloop
from decodeloop import Sampler
from decodeloop.engines.torch_loop import TorchEngine


def reference(model, ids, **options):
    options = {"do_sample": False, "max_new_tokens": 30} | options
    return model.generate(ids, **options)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 300])
def test_tokens_are_those_of_generate(phi, decoder, length):
    ids = prompt_ids(1, length, seed=length)
    assert torch.equal(decoder(ids, max_new_tokens=30), reference(phi, ids))


@pytest.mark.parametrize("lengths", [[4, 4], [9, 2], [1, 30, 12, 7, 5]])
def test_left_padded_batches_are_those_of_generate(phi, decoder, lengths):
    ids, mask = left_padded(lengths)
    assert torch.equal(decoder(ids, attention_mask=mask, max_new_tokens=30), reference(phi, ids, attention_mask=mask))


def test_a_batch_gives_each_row_what_it_gets_alone(decoder):
    ids, mask = left_padded([12, 3, 7])
    together = decoder(ids, attention_mask=mask, max_new_tokens=25, eos_token_id=None)
    for row in range(3):
        alone = decoder(ids[row : row + 1, 12 - int(mask[row].sum()) :], max_new_tokens=25, eos_token_id=None)
        assert together[row, 12:].tolist() == alone[0, -25:].tolist()


def test_no_new_tokens_returns_the_prompt(decoder):
    ids = prompt_ids(2, 4)
    assert torch.equal(decoder(ids, max_new_tokens=0), ids)


def test_no_pass_is_wasted_after_the_last_token(phi):
    passes = []
    hook = phi.register_forward_hook(lambda *args: passes.append(1))
    decodeloop.generate(phi, prompt_ids(1, 5), max_new_tokens=7, eos_token_id=None)
    hook.remove()
    assert len(passes) == 7


def test_each_pass_after_the_first_reads_one_token(phi):
    lengths = []
    hook = phi.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decodeloop.generate(phi, prompt_ids(1, 5), max_new_tokens=4, eos_token_id=None)
    hook.remove()
    assert lengths == [5, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_token_id": 97}, "eos_token_id=97: expected an id from 0 to 96"),
        ({"eos_token_id": [2, -1]}, "eos_token_id=-1"),
        ({"eos_token_id": "end"}, "eos_token_id='end': expected \"model\""),
        ({"pad_token_id": 1000}, "pad_token_id=1000"),
        ({"max_new_tokens": 509}, "need 513 positions, and the model has 512"),
    ],
)
def test_bad_options_are_named(decoder, options, message):
    with pytest.raises(ValueError, match=message):
        decoder(prompt_ids(1, 4), **options)


def test_a_token_outside_the_vocabulary_is_named(decoder):
    with pytest.raises(ValueError, match="token id 97, outside 0 to 96"):
        decoder(torch.tensor([[3, 97]]))


def test_a_seed_gives_the_same_tokens_on_both_engines(phi, phi_graph):
    ids, mask = left_padded([8, 3])
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    options = {"attention_mask": mask, "max_new_tokens": 25, "eos_token_id": None}
    for sampler in (Sampler(seed=1), Sampler(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, seed=2),
                    Sampler(repetition_penalty=1.3, seed=3)):  # fmt: skip
        first = decodeloop.generate(phi, ids, sampler=sampler, **options)
        assert torch.equal(first, decodeloop.generate(phi, ids, sampler=sampler, **options))
        assert torch.equal(first, onnx.generate(ids, sampler=sampler, **options))
    greedy = decodeloop.generate(phi, ids, **options)
    assert not torch.equal(first, greedy)


@pytest.mark.parametrize("asked", ["greedy", "processors", "sampler", "lookup"])
def test_what_an_engine_has_found_is_taken_only_where_nothing_else_is_asked(llama, asked, monkeypatch):
    """A captured step looks for the likeliest token itself; here one that is always wrong tells who was asked."""
    model, ids = copy.deepcopy(llama), prompt_ids(1, 6)
    if asked == "processors":
        model.generation_config.repetition_penalty = 1.5
    sampler = decodeloop.Sampler(do_sample=False) if asked == "sampler" else None
    lookup = decodeloop.PromptLookup() if asked == "lookup" else None
    options = {"sampler": sampler, "lookup": lookup, "max_new_tokens": 5, "eos_token_id": None}
    own = decodeloop.generate(model, ids, **options)
    found = torch.ones(1, dtype=torch.float64), torch.tensor([7])
    monkeypatch.setattr(TorchEngine, "likeliest", lambda engine: found)
    expected = torch.cat([ids, torch.full((1, 5), 7)], dim=-1) if asked == "greedy" else own
    assert torch.equal(decodeloop.generate(model, ids, **options), expected)
