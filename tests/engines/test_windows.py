"""TorchDecoder on models that do not see all of their text: family x way of use, against transformers' ``generate``.

Tiny random models, every parameter drawn, whose window or chunk is of 8 tokens: shorter than most prompts.
"""

import copy
import functools

import pytest
import torch
from helpers import assert_greedy, left_padded, prompt_ids
from tiny_models import tiny_config, tiny_model
from transformers import CONFIG_MAPPING

import decodeloop
from decodeloop import PromptLookup, Sampler, TorchDecoder

WINDOW, NEW = 8, 12
OPTIONS = {"max_new_tokens": NEW, "eos_token_id": None}
MIXED = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
#: Model type and settings, by what differs: which layers have a window, and what else attention does.
FAMILIES = {
    "cohere2": MIXED,
    "gemma2": MIXED | {"attn_logit_softcapping": 2.0},
    "gemma3_text": MIXED,
    "gemma4_text": {},
    "gpt_neo": {},
    "gpt_oss": MIXED,
    "llama4_text": {},
    "mistral": {},
    "olmo3": MIXED,
    "phi3": {"sliding_window": WINDOW},
    "qwen2": MIXED | {"use_sliding_window": True, "sliding_window": WINDOW},
    "starcoder2": {"sliding_window": WINDOW},
}
PROMPTS = {"one token": [1], "one row": [21], "one padded row": [21, 9], "a padded batch": [25, 2, 11], "rows": [8, 8]}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return tiny_model(tiny_config(name, **FAMILIES[name]))


@pytest.fixture(params=PROMPTS)
def prompt(request):
    ids, mask = left_padded(PROMPTS[request.param], seed=3)
    return (ids[1:], mask[1:]) if request.param == "one padded row" else (ids, mask)


def expected(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, do_sample=False, **(OPTIONS | options))


def longer(mask, count):
    return torch.nn.functional.pad(mask, (0, count), value=1)


@pytest.fixture
def short_buffers(monkeypatch):
    """Buffers begin with room for a few tokens, so that they grow while a short text is written."""
    monkeypatch.setattr("decodeloop.caches.buffer_pool.AHEAD", 3)
    monkeypatch.setattr("decodeloop.caches.buffer_pool.BUCKET", 4)


def test_the_window_of_each_family_matters(name, model):
    """The same weights with a wider one write something else: so a mask that forgets the window fails below."""
    setting = {"gpt_neo": "window_size", "llama4_text": "attention_chunk_size"}.get(name, "sliding_window")
    assert getattr(model.config, setting) == WINDOW
    wide = tiny_model(tiny_config(name, **FAMILIES[name] | {setting: 64}))
    ids = prompt_ids(1, 21)
    assert not torch.equal(expected(wide, ids), expected(model, ids))


def test_prompts_are_continued_on_the_same_buffers(model, prompt):
    """A second time too: what the first text hid is seen again."""
    ids, mask = prompt
    decoder, want = TorchDecoder(model), expected(model, ids, mask)
    for _ in range(2):
        assert torch.equal(decoder.generate(ids, attention_mask=mask, **OPTIONS), want)


@pytest.mark.usefixtures("short_buffers")
def test_buffers_grow_while_a_window_moves_on(model):
    ids, mask = left_padded([9, 4], seed=3)
    decoder = TorchDecoder(model)
    got = decoder.generate(ids, attention_mask=mask, **OPTIONS | {"max_new_tokens": 40})
    assert torch.equal(got, expected(model, ids, mask, max_new_tokens=40))
    assert len(decoder.steps.kept) > 1


@pytest.mark.parametrize("unread", [1, 10])
@pytest.mark.parametrize("form", ["cache", "tensors"])
@pytest.mark.parametrize(("source", "target"), [("static", "static"), ("static", "torch"), ("torch", "static")])
def test_a_cache_is_handed_on(model, source, target, form, unread):
    """Of which a layer with a window has the last tokens only, also as flat tensors, and on a padded batch."""
    engines = {"static": TorchDecoder(model).generate, "torch": functools.partial(decodeloop.generate, model)}
    ids, mask = left_padded([12, 2, 17], seed=3)
    first, past = engines[source](ids, attention_mask=mask, return_cache=True, **OPTIONS)
    text = torch.cat([first, prompt_ids(3, unread - 1, seed=9)], dim=1)
    mask = longer(mask, text.shape[1] - mask.shape[1])
    if form == "tensors":
        past = decodeloop.cache_to_tensors(past)
        if all(tensor.shape[2] == WINDOW - 1 for tensor in past):
            with pytest.raises(ValueError, match="every layer has a sliding window and holds all the 7 tokens it can"):
                engines[target](text, attention_mask=mask, past_key_values=past, **OPTIONS)
            return
    got = engines[target](text, attention_mask=mask, past_key_values=past, **OPTIONS)
    assert torch.equal(got, expected(model, text, mask))


@pytest.mark.usefixtures("short_buffers")
def test_a_short_window_is_loaded_into_buffers_that_grow(model):
    ids = prompt_ids(2, 19)
    _, past = decodeloop.generate(model, ids[:, :15], return_cache=True, max_new_tokens=1, eos_token_id=None)
    got = TorchDecoder(model).generate(ids, past_key_values=past, max_new_tokens=30, eos_token_id=None)
    assert torch.equal(got, expected(model, ids, max_new_tokens=30))


class HalfRight(PromptLookup):
    """Guesses two tokens that are right and two that are wrong."""

    def answer(self, tokens):
        self.tokens_to_come = tokens
        return self

    def guess(self, text, most):
        right = self.tokens_to_come[len(text) : len(text) + 4].clone()
        right[2:] = (right[2:] + 1) % 97
        return right[:most]


def test_guesses_change_no_token(model):
    """Guesses are read several at once across the window's edge, and taken back, also right after a past."""
    ids, mask = left_padded([3, 20])
    decoder, first = TorchDecoder(model), {"max_new_tokens": 1, "eos_token_id": None, "return_cache": True}
    for row in (0, 1):
        text, seen = ids[row : row + 1], mask[row : row + 1]
        want = expected(model, text, seen, max_new_tokens=20)
        past = decodeloop.generate(model, text[:, :-1], attention_mask=seen[:, :-1], **first)[1]
        for given in (None, past):
            lookup = HalfRight().answer(want[0])
            options = {"max_new_tokens": 20, "eos_token_id": None, "past_key_values": given, "lookup": lookup}
            assert torch.equal(decoder.generate(text, attention_mask=seen, **options), want)
            assert lookup.proposed > lookup.accepted > 0


def test_an_engine_that_runs_ahead_takes_its_last_step_back(model):
    ids = prompt_ids(1, 18)
    want = expected(model, ids)
    decoder = TorchDecoder(model)
    decoder.runs_async = True  # as on a GPU
    first, cache = decoder.generate(ids, return_cache=True, **OPTIONS | {"eos_token_id": int(want[0, 20])})
    assert torch.equal(first, want[:, : first.shape[1]])
    text = torch.cat([first, ids[:, :1]], dim=1)
    for engine in (decoder.generate, functools.partial(decodeloop.generate, model)):
        assert torch.equal(engine(text, past_key_values=copy.deepcopy(cache), **OPTIONS), expected(model, text))


def test_a_seed_samples_the_same_as_on_a_growing_cache(model):
    ids, mask = left_padded([15, 3])
    options = {**OPTIONS, "attention_mask": mask, "sampler": Sampler(temperature=0.8, top_k=20, seed=4)}
    assert torch.equal(TorchDecoder(model).generate(ids, **options), decodeloop.generate(model, ids, **options))


def test_logits_and_perplexity_are_the_models(model):
    ids, mask = left_padded([19, 4])
    decoder = TorchDecoder(model)
    report = decodeloop.verify(model, decoder, ids, attention_mask=mask, max_new_tokens=NEW)
    assert report.agrees
    want = decodeloop.perplexity(model, ids, attention_mask=mask)
    assert decodeloop.perplexity(decoder, ids, attention_mask=mask) == pytest.approx(want, rel=1e-4)


def test_a_compiled_step_writes_the_same(model, monkeypatch):
    compiled, graphs = torch.compile, []

    def backend(graph, inputs):  # torch's own needs a C++ compiler
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(compiled, backend=backend))
    ids, mask = left_padded([14, 2])
    options = {"attention_mask": mask, **OPTIONS}
    assert torch.equal(TorchDecoder(model, compile=True).generate(ids, **options), expected(model, ids, mask))
    assert graphs


def test_a_past_that_lacks_what_the_window_sees_is_refused():
    model = tiny_model(tiny_config("gemma3_text", **MIXED))
    ids = prompt_ids(1, 15)
    past = decodeloop.generate(model, ids, return_cache=True, **OPTIONS | {"max_new_tokens": 1})[1]
    tensors = decodeloop.cache_to_tensors(past)
    short = [tensors[0][:, :, 1:], tensors[1][:, :, 1:], *tensors[2:]]
    with pytest.raises(ValueError, match="is of 15 positions, of which a layer with a sliding window kept the last 6"):
        TorchDecoder(model).generate(torch.cat([ids, ids], dim=1), past_key_values=short)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bloom", "takes no position ids"),
        ("deepseek_v32", "keeps a StaticIndexedLayer"),
        ("inkling_text", "takes no mask for each kind of its attention layers"),
        ("recurrent_gemma", "keeps a state in its modules, not in its cache"),
    ],
)
def test_what_cannot_be_a_step_that_stays_the_same_is_refused_in_one_line(model_type, reason):
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    with pytest.raises(ValueError, match=rf"^\w+ {reason}, and a step .*: use decodeloop.generate\(model, ...\)\.$"):
        TorchDecoder(tiny_model(tiny_config(model_type)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore:no CUDA graph")  # of a family whose experts are looked up on the CPU
def test_a_captured_step_moves_its_windows_on(model):
    on_gpu = copy.deepcopy(model).cuda()
    decoder = TorchDecoder(on_gpu)
    for lengths in ([9], [25, 2, 11], [21]):
        ids, mask = (tensor.cuda() for tensor in left_padded(lengths))
        first, cache = decoder.generate(ids, attention_mask=mask, return_cache=True, **OPTIONS)
        text = torch.cat([first, ids[:, :2]], dim=1)
        again = decoder.generate(text, attention_mask=longer(mask, NEW + 2), past_key_values=cache, **OPTIONS)
        assert torch.equal(first, expected(on_gpu, ids, mask))
        assert torch.equal(again, expected(on_gpu, text, longer(mask, NEW + 2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore:no CUDA graph")
@pytest.mark.parametrize(
    "name", ["gemma2", "gemma3_text", "gpt_neo", "gpt_oss", "llama4_text", "mistral"], indirect=True
)
def test_a_compiled_step_on_a_gpu_chooses_the_best_token(model):
    """One family for each way in which attention differs: its kernel caps, has sinks, and reads a window alone."""
    on_gpu = copy.deepcopy(model).cuda()
    decoder = TorchDecoder(on_gpu, compile=True)
    for lengths in ([21], [25, 2, 11]):
        ids, mask = (tensor.cuda() for tensor in left_padded(lengths))
        got = decoder.generate(ids, attention_mask=mask, **OPTIONS)
        assert_greedy(on_gpu, got, ids.shape[1], mask)
