"""One decoder, every way of use: engine x way of use x kind of architecture, against transformers' ``generate``.

Every engine is right, or says in one line that it does not do this; nothing between.
"""

import contextlib
import gc
import threading
import weakref
from collections import Counter

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, StaticCache

import decodeloop
from decodeloop import DraftModel, OnnxDecoder, PromptLookup, TorchDecoder

ENGINES = ["torch", "static", "dynamo", "fused"]
NEW = 8
OPTIONS = {"max_new_tokens": NEW, "eos_token_id": None}


def gpt2():
    return build(GPT2LMHeadModel, GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=512)


def mistral():
    return build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, head_dim=16, sliding_window=6)


@pytest.fixture(scope="module", params=["phi", "llama", "gpt2", "mistral"])
def name(request):
    """Rotated in part; grouped heads; learned positions; a sliding window."""
    return request.param


@pytest.fixture(scope="module")
def model(name, request):
    return {"gpt2": gpt2, "mistral": mistral}.get(name, lambda: request.getfixturevalue(name))()


@pytest.fixture(scope="module")
def make(name, model, export_once):
    """``make(engine)``: a decoder of the model, a new one each time."""

    def make_one(engine):
        if engine == "torch":
            return Torch(model)
        if engine == "static":
            return TorchDecoder(model)
        path = export_once(f"{name}-{engine}", model, exporter=engine, logits="all").path
        return OnnxDecoder(path, device="cpu")

    return make_one


class Torch:
    """The function ``generate`` as a decoder."""

    def __init__(self, model):
        self.model = model

    def generate(self, ids, **options):
        return decodeloop.generate(self.model, ids, **options)


def expected(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(
        ids, attention_mask=mask, do_sample=False, **({"max_new_tokens": NEW, "eos_token_id": None} | options)
    )


def longer(mask, count):
    return torch.nn.functional.pad(mask, (0, count), value=1)


PROMPTS = {"one row": [9], "one padded row": [9, 4], "a batch": [7, 7], "a padded batch": [12, 2, 5]}


@pytest.fixture(params=PROMPTS)
def prompt(request):
    ids, mask = left_padded(PROMPTS[request.param], seed=3)
    return (ids[1:], mask[1:]) if request.param == "one padded row" else (ids, mask)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_is_continued(model, make, engine, prompt):
    ids, mask = prompt
    assert torch.equal(make(engine).generate(ids, attention_mask=mask, **OPTIONS), expected(model, ids, mask))


@pytest.mark.parametrize("unread", [1, 2, 5])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_cache_of_its_own_is_resumed(model, make, engine, prompt, unread):
    ids, mask = prompt
    decoder = make(engine)
    first, cache = decoder.generate(ids, attention_mask=mask, return_cache=True, **OPTIONS)
    text = torch.cat([first, prompt_ids(len(ids), unread - 1, seed=9)], dim=1)
    mask = longer(mask, text.shape[1] - mask.shape[1])
    want = expected(model, text, mask)
    assert torch.equal(decoder.generate(text, attention_mask=mask, past_key_values=cache, **OPTIONS), want)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_engines_cache_is_taken_over_or_refused(model, make, engine, prompt):
    """Longer than the window of the sliding model: what that forgot, a graph cannot do without."""
    ids, mask = prompt
    first, cache = decodeloop.generate(model, ids, attention_mask=mask, return_cache=True, **OPTIONS)
    mask = longer(mask, NEW)
    options = {"attention_mask": mask, "past_key_values": cache, **OPTIONS}
    if engine in ("dynamo", "fused") and isinstance(model, MistralForCausalLM):
        with pytest.raises(ValueError, match="a layer with a sliding window kept the last 5: expected all of them"):
            make(engine).generate(first, **options)
    else:
        assert torch.equal(make(engine).generate(first, **options), expected(model, first, mask))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_cache_is_one_to_begin_with(model, make, engine):
    ids = prompt_ids(1, 7)
    got = make(engine).generate(ids, past_key_values=DynamicCache(), **OPTIONS)
    assert torch.equal(got, expected(model, ids))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_static_cache_is_taken_over(model, make, engine):
    if isinstance(model, MistralForCausalLM):
        pytest.skip("its static layers forget as the sliding ones do: tested above")
    ids = prompt_ids(1, 7)
    cache = StaticCache(config=model.config, max_cache_len=64)
    model(ids[:, :5], past_key_values=cache, use_cache=True)
    tensors = decodeloop.cache_to_tensors(cache)
    assert torch.equal(make(engine).generate(ids, past_key_values=tensors, **OPTIONS), expected(model, ids))


@pytest.mark.parametrize("engine", ENGINES)
def test_guesses_change_no_token(model, make, engine):
    """Prompts that repeat themselves, unpadded and padded."""
    part = prompt_ids(1, 6, seed=5)
    ids = part.repeat(1, 4)
    mask = torch.ones_like(ids)
    for padding in (0, 3):
        padded, seen = (torch.nn.functional.pad(t, (padding, 0)) for t in (ids, mask))
        want = expected(model, padded, seen, max_new_tokens=20)
        lookup = PromptLookup(tokens=4, ngram=2)
        got = make(engine).generate(padded, attention_mask=seen, max_new_tokens=20, eos_token_id=None, lookup=lookup)
        assert torch.equal(got, want)
        assert lookup.written == 20


@pytest.mark.parametrize("engine", ENGINES)
def test_a_draft_changes_no_token(model, make, engine, prompt):
    """A draft that is mostly right, on the same kind of engine; from the beginning, and from a cache; one row only."""
    ids, mask = prompt
    draft = DraftModel(model if engine == "torch" else make(engine), tokens=3)
    if len(ids) > 1:
        with pytest.raises(ValueError, match=f"lookup with a batch of {len(ids)} rows: expected one row"):
            make(engine).generate(ids, attention_mask=mask, lookup=draft, **OPTIONS)
        return
    first, cache = make(engine).generate(ids, attention_mask=mask, lookup=draft, return_cache=True, **OPTIONS)
    assert torch.equal(first, expected(model, ids, mask))
    assert (draft.written, draft.passes, draft.acceptance) == (NEW, 3, 1)
    text = torch.cat([first, prompt_ids(1, 2, seed=9)], dim=1)
    want = expected(model, text, mask := longer(mask, NEW + 2))
    options = {"attention_mask": mask, "past_key_values": cache, "lookup": draft, **OPTIONS}
    assert torch.equal(make(engine).generate(text, **options), want)


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_is_read_in_chunks(model, make, engine, prompt, chunk):
    ids, mask = prompt
    options = {"attention_mask": mask, "prefill_chunk": chunk, "return_cache": True, **OPTIONS}
    first, cache = make(engine).generate(ids, **options)
    assert torch.equal(first, expected(model, ids, mask))
    text = torch.cat([first, prompt_ids(len(ids), 5, seed=9)], dim=1)
    options |= {"attention_mask": longer(mask, NEW + 5), "past_key_values": cache, "return_cache": False}
    assert torch.equal(make(engine).generate(text, **options), expected(model, text, longer(mask, NEW + 5)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cache_that_does_not_fit_is_refused(model, make, engine):
    ids = prompt_ids(2, 6)
    _, cache = decodeloop.generate(model, ids[:, :3], return_cache=True, max_new_tokens=1, eos_token_id=None)
    good = decodeloop.cache_to_tensors(cache)
    wrong = {
        "one row for two": [t[:1] for t in good],
        "one head": [t[:, :1] for t in good],
        "half a head": [t[..., :4] for t in good],
        "values shorter than keys": [good[0], good[1][:, :, :2], *good[2:]],
        "a layer too many": [*good, *good[:2]],
        "a layer too few": good[:2],
        "a tensor too few": good[:-1],
        "a layer shorter": [*good[:2], *(t[:, :, :2] for t in good[2:])],
    }
    decoder = make(engine)
    for what, tensors in wrong.items():
        with pytest.raises(ValueError, match=r"."):
            print(what, decoder.generate(ids, past_key_values=tensors, **OPTIONS))
    assert torch.equal(decoder.generate(ids, past_key_values=good, **OPTIONS), expected(model, ids))


@pytest.mark.parametrize("logits", ["all", "last"])
def test_perplexity_of_a_padded_batch_is_the_models(model, tmp_path, logits):
    ids, mask = left_padded([9, 5, 2], seed=4)
    graph = decodeloop.export_onnx(model, tmp_path / "model.onnx", exporter="fused", logits=logits).path
    want = decodeloop.perplexity(model, ids, attention_mask=mask)
    assert decodeloop.perplexity(OnnxDecoder(graph, device="cpu"), ids, attention_mask=mask) == pytest.approx(
        want, 1e-4
    )
    assert decodeloop.verify(model, OnnxDecoder(graph, device="cpu"), ids, attention_mask=mask).agrees


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_a_decoder_that_is_dropped_is_gone_at_once(make, engine):
    decoder = make(engine)
    decoder.generate(prompt_ids(1, 4), max_new_tokens=3)
    held = weakref.ref(decoder._session if engine in ("dynamo", "fused") else decoder)
    gc.disable()
    try:
        del decoder
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", ["dynamo", "fused"])
def test_a_closed_decoder_says_so(make, engine):
    with make(engine) as decoder:
        stream = decoder.stream(prompt_ids(1, 4), max_new_tokens=3)
        next(stream)
        held = weakref.ref(decoder._session)
    assert held() is None
    decoder.close()
    with pytest.raises(RuntimeError, match="closed: open the graph again"):
        decoder.generate(prompt_ids(1, 4))
    with pytest.raises(RuntimeError, match="was closed"):
        next(stream)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_threads_get_their_own_tokens_or_a_refusal(model, make, engine):
    prompts = [prompt_ids(1, 5 + i, seed=i) for i in range(3)]
    want = [expected(model, ids, max_new_tokens=20) for ids in prompts]
    decoder, outcomes = make(engine), Counter()

    def work(index):
        for _ in range(6):
            try:
                got = decoder.generate(prompts[index], max_new_tokens=20, eos_token_id=None)
                outcomes["right" if torch.equal(got, want[index]) else "WRONG"] += 1
            except RuntimeError as error:
                outcomes["refused" if "at work in another thread" in str(error) else str(error)] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes["right"] >= 1
    assert set(outcomes) <= {"right", "refused"}
    assert sum(outcomes.values()) == 18


@pytest.mark.parametrize("engine", ENGINES)
def test_one_generations_nans_do_not_reach_the_next(model, make, engine):
    decoder, ids = make(engine), prompt_ids(1, 6)
    _, cache = decodeloop.generate(model, ids[:, :4], return_cache=True, max_new_tokens=1, eos_token_id=None)
    tensors = [torch.full_like(tensor, torch.nan) for tensor in decodeloop.cache_to_tensors(cache)]
    with contextlib.suppress(ValueError, FloatingPointError):  # to say so is as good
        decoder.generate(ids, past_key_values=tensors, max_new_tokens=40, eos_token_id=None)
    assert torch.equal(decoder.generate(ids, **OPTIONS), expected(model, ids))
