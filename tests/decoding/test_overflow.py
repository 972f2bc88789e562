"""A model that overflows says so, on every engine: it never writes token 0 instead, and the next text is untouched."""

import contextlib
import copy

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, Sampler, TorchDecoder
from decodeloop.decoding.stopping import Watch

FREE = {"eos_token_id": None}


def engine(name, phi, phi_graph, phi_fused):
    if name == "static":
        return TorchDecoder(phi)
    return OnnxDecoder({"dynamo": phi_graph, "fused": phi_fused}[name].path, device="cpu")


@pytest.fixture(params=["torch", "static", "dynamo", "fused"])
def broken(request, phi, phi_graph, phi_fused):
    """``broken(value, at, row)``: generate of an engine whose logits are ``value`` in a row at step ``at``."""

    def make(value, at, row):
        passes = []

        def edit(logits):
            passes.append(1)
            if len(passes) == at + 1:
                logits[row, -1] = value
            return logits

        if request.param == "torch":
            model = copy.deepcopy(phi)
            model.lm_head.register_forward_hook(lambda module, given, logits: edit(logits))
            return lambda ids, **options: decodeloop.generate(model, ids, **options)
        decoder = engine(request.param, phi, phi_graph, phi_fused)
        forward = decoder.forward
        decoder.forward = lambda *given, **options: edit(forward(*given, **options))
        return decoder.generate

    return make


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_row_without_a_best_token_is_an_error_before_its_token_comes(broken, value, at):
    seen, ids = [], prompt_ids(2, 5)
    with pytest.raises(ValueError, match=rf"row 1 has no token to choose at step {at}, its best .* the model overflow"):
        broken(value, at, 1)(ids, max_new_tokens=7, on_token=seen.append, **FREE)
    assert len(seen) == at


def test_what_comes_after_a_rows_end_does_not_matter(broken, phi):
    ids, mask = left_padded([6, 9], seed=5)
    free = decodeloop.generate(phi, ids, attention_mask=mask, max_new_tokens=12, **FREE)
    end = int(free[0, 9 + 2])
    assert end not in free[1, 9:]
    options = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": end}
    assert torch.equal(broken(torch.nan, 5, 0)(ids, **options), decodeloop.generate(phi, ids, **options))


def test_lookup_says_so_too(broken):
    ids = prompt_ids(1, 5).repeat(1, 3)
    with pytest.raises(ValueError, match=r"row 0 has no token to choose at step \d+, its best score is nan"):
        broken(torch.nan, 2, 0)(ids, max_new_tokens=30, lookup=PromptLookup(ngram=1), **FREE)


def test_the_sampler_and_greedy_say_the_same(broken):
    said = []
    for sampler in (None, Sampler(do_sample=False), Sampler(seed=0)):
        with pytest.raises(ValueError, match="no token to choose") as error:
            broken(torch.nan, 1, 0)(prompt_ids(1, 4), max_new_tokens=4, sampler=sampler, **FREE)
        said.append(str(error.value))
    assert len(set(said)) == 1


def test_everything_banned_is_no_token_zero(phi, monkeypatch):
    monkeypatch.setattr(phi, "generation_config", GenerationConfig(suppress_tokens=list(range(97))))
    with pytest.raises(ValueError, match=r"step 0, its best score is -inf: either every token is banned .*suppress"):
        decodeloop.generate(phi, prompt_ids(1, 4))


def test_invalid_values_are_removed_where_the_checkpoint_says_so(phi, monkeypatch):
    model, ids = copy.deepcopy(phi), prompt_ids(1, 4)
    with torch.no_grad():
        model.lm_head.bias[5] = torch.nan
    model.generation_config = GenerationConfig(remove_invalid_values=True)
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert torch.equal(decodeloop.generate(model, ids, max_new_tokens=6), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_overflows_in_words(dtype):
    model = build(LlamaForCausalLM, LlamaConfig).to(dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(torch.finfo(dtype).max)
    for run in (lambda *a, **o: decodeloop.generate(model, *a, **o), TorchDecoder(model).generate):
        with pytest.raises(ValueError, match="the model overflowed, which a wider dtype cures"):
            run(prompt_ids(1, 4), max_new_tokens=4, **FREE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_text_that_broke_leaves_nothing_to_the_next_one(phi, value):
    """Its keys and values stand in the static buffers, behind a mask: what is masked is multiplied all the same."""
    model = copy.deepcopy(phi)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = value
        model.lm_head.weight = torch.nn.Parameter(phi.lm_head.weight.clone())  # no longer the embedding's
    decoder, healthy = TorchDecoder(model), TorchDecoder(phi)
    poison = torch.cat([prompt_ids(2, 30), torch.full((2, 3), 5), prompt_ids(2, 9)], dim=-1)
    poison[poison == 5], poison[:, 30:33] = 6, 5
    ids, mask = left_padded([8, 3], seed=2)
    ids[ids == 5] = 6
    options = {"attention_mask": mask, "max_new_tokens": 40} | FREE  # buffers of the same size
    want = healthy.generate(ids, **options)
    assert 5 not in want
    _, cache = healthy.generate(ids, return_cache=True, **options | {"max_new_tokens": 1})
    for past in (None, [tensor[:, :, :7] for tensor in decodeloop.cache_to_tensors(cache)]):
        with contextlib.suppress(ValueError):
            decoder.generate(poison, max_new_tokens=20, **FREE)
        assert torch.equal(decoder.generate(ids, past_key_values=past, **options), want)


@pytest.mark.parametrize("number", [float("nan"), 3.5])
def test_scores_of_two_dtypes_are_looked_at(number):
    """The first steps of a generation come in the model's dtype, those that a captured step has found in another."""
    watch = Watch(2, torch.device("cpu"))
    watch.post(torch.tensor([False, True]), torch.tensor([1e4, 2.0], dtype=torch.float16))
    assert not watch.over()
    watch.post(torch.tensor([False, True]), torch.tensor([1e30, number], dtype=torch.float64))
    assert not watch.over()  # a row that has ended has nothing to choose
    watch.post(torch.tensor([False, True]), torch.tensor([number, 1.0], dtype=torch.float64))
    if number == 3.5:
        assert not watch.over()
    else:
        with pytest.raises(ValueError, match="row 0 has no token to choose at step 2, its best score is nan"):
            watch.over()
