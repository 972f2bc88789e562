"""Models that keep a state, every way of use: engine x way of use x kind of state, against transformers' ``generate``.

A convolution's window beside attention (LFM2), linear attention in some layers (Qwen 3.5), state space and attention in
one layer (Falcon-H1), and nothing but a state (Mamba).
"""

import copy

import numpy as np
import pytest
import torch
from helpers import left_padded, prompt_ids
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    GenerationConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, Sampler, TorchDecoder

NEW = 8
OPTIONS = {"max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0}
ENGINES = ["torch", "static", "dynamo"]
SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 512}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
SPACE = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
KINDS = {
    "lfm2": (Lfm2ForCausalLM, Lfm2Config, {**SHAPE, **ATTENTION, "layer_types": ["conv", "full_attention"]}),
    "qwen3.5": (Qwen3_5ForCausalLM, Qwen3_5TextConfig, {**SHAPE, **ATTENTION, **DELTA, "head_dim": 16}),
    "falcon-h1": (FalconH1ForCausalLM, FalconH1Config, {**SHAPE, **ATTENTION, **SPACE}),
    "mamba": (MambaForCausalLM, MambaConfig, {"vocab_size": 97, "hidden_size": 32, "state_size": 8}),
}
STATES = {
    "lfm2": ["past_states.0.conv", "past_key_values.1.key", "past_key_values.1.value"],
    "qwen3.5": ["past_states.0.conv", "past_states.0.recurrent", "past_key_values.1.key", "past_key_values.1.value"],
    "falcon-h1": [
        f"past_{group}.{layer}.{name}"
        for layer in (0, 1)
        for group, name in (("key_values", "key"), ("key_values", "value"), ("states", "conv"), ("states", "recurrent"))
    ],
    "mamba": [f"past_states.{layer}.{name}" for layer in (0, 1) for name in ("conv", "recurrent")],
}


@pytest.fixture(scope="module", params=KINDS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    model_class, config_class, options = KINDS[name]
    torch.manual_seed(0)
    model = model_class(config_class(num_hidden_layers=2, pad_token_id=0, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # wide enough for text that does not repeat one token
            if parameter.ndim > 1:
                parameter.normal_(std=2 * parameter.shape[-1] ** -0.5)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


@pytest.fixture(scope="module")
def report(name, model, export_once):
    return export_once(f"state-{name}", model)


@pytest.fixture(scope="module")
def make(model, request):
    """``make(engine)``: a decoder of the model, a new one each time."""

    def make_one(engine):
        if engine == "torch":
            return Torch(model)
        if engine == "static":
            return TorchDecoder(model)
        return OnnxDecoder(request.getfixturevalue("report").path, device="cpu")

    return make_one


class Torch:
    """The function ``generate`` as a decoder."""

    def __init__(self, model):
        self.model = model

    def generate(self, ids, **options):
        return decodeloop.generate(self.model, ids, **options)


def expected(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, do_sample=False, **(OPTIONS | options))


PROMPTS = {"one row": [9], "one token": [1], "one padded row": [9, 4], "a batch": [7, 7], "a padded batch": [12, 2, 5]}


@pytest.fixture(params=PROMPTS)
def prompt(request):
    ids, mask = left_padded(PROMPTS[request.param], seed=3)
    return (ids[1:], mask[1:]) if request.param == "one padded row" else (ids, mask)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_is_continued_twice(model, make, engine, prompt):
    """The second time from the same buffers, whose states must be those of an empty text again."""
    ids, mask = prompt
    decoder, want = make(engine), expected(model, ids, mask)
    for _ in range(2):
        assert torch.equal(decoder.generate(ids, attention_mask=mask, **OPTIONS), want)


@pytest.mark.parametrize("unread", [1, 2, 5])
@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
def test_a_cache_is_handed_on(model, make, source, target, unread):
    """To the same engine and to each other one, on a padded batch. Some models read several tokens as a new text."""
    ids, mask = left_padded([12, 2, 5], seed=3)
    first, cache = make(source).generate(ids, attention_mask=mask, return_cache=True, **OPTIONS)
    text = torch.cat([first, prompt_ids(len(ids), unread - 1, seed=9)], dim=1)
    mask = torch.nn.functional.pad(mask, (0, text.shape[1] - mask.shape[1]), value=1)
    got = make(target).generate(text, attention_mask=mask, past_key_values=cache, **OPTIONS)
    assert torch.equal(got, expected(model, text, mask))


@pytest.mark.parametrize("engine", ENGINES)
def test_flat_tensors_are_taken_where_they_tell_their_length(name, model, make, engine):
    ids = prompt_ids(2, 6)
    first, cache = decodeloop.generate(model, ids, return_cache=True, **OPTIONS)
    tensors = decodeloop.cache_to_tensors(cache)
    if name == "mamba":
        with pytest.raises(ValueError, match="states of fixed size only, which do not tell how long their text is"):
            make(engine).generate(first, past_key_values=tensors, **OPTIONS)
    else:
        assert torch.equal(make(engine).generate(first, past_key_values=tensors, **OPTIONS), expected(model, first))


@pytest.mark.parametrize("engine", ENGINES)
def test_states_of_another_shape_are_refused(name, model, make, engine):
    ids = prompt_ids(2, 6)
    first, cache = decodeloop.generate(model, ids, return_cache=True, **OPTIONS)
    tensors, length = decodeloop.cache_to_tensors(cache), first.shape[1] - 1
    with pytest.raises(ValueError, match=f"{len(tensors) - 1} tensors; .* keeps {len(tensors)}: past_"):
        make(engine).generate(first, past_key_values=tensors[1:], **OPTIONS)
    one = decodeloop.tensors_to_cache([tensor[:1] for tensor in tensors], model.config, length=length)
    with pytest.raises(ValueError, match=r"has shape \[1, .* and 2 rows ask for \[2, "):
        make(engine).generate(first, past_key_values=one, **OPTIONS)


@pytest.mark.parametrize("engine", ENGINES)
def test_guessing_ahead_is_refused(make, engine):
    with pytest.raises(ValueError, match="lookup rewinds the cache .* leave lookup out"):
        make(engine).generate(prompt_ids(1, 6), lookup=PromptLookup())


@pytest.mark.parametrize("engine", ["static", "dynamo"])
def test_a_seed_samples_the_same_on_every_engine(model, make, engine):
    ids, mask = left_padded([5, 3])
    options = {**OPTIONS, "attention_mask": mask, "sampler": Sampler(temperature=0.8, top_k=20, seed=4)}
    assert torch.equal(make(engine).generate(ids, **options), decodeloop.generate(model, ids, **options))


@pytest.mark.parametrize("engine", ["static", "dynamo"])
def test_engines_agree_in_logits_and_perplexity(model, make, engine):
    ids, mask = left_padded([9, 4])
    decoder = make(engine)
    report = decodeloop.verify(model, decoder, ids, attention_mask=mask, max_new_tokens=NEW)
    assert report.agrees
    want = decodeloop.perplexity(model, ids, attention_mask=mask)
    assert decodeloop.perplexity(decoder, ids, attention_mask=mask) == pytest.approx(want, rel=1e-4)


def test_the_graph_names_what_it_keeps_and_says_how_it_reads(name, model, report):
    assert [given for given in report.inputs if given.startswith("past_")] == STATES[name]
    assert list(report.outputs)[1:] == [
        each.replace("past_states", "present_states").replace("past_key_values", "present") for each in STATES[name]
    ]
    assert report.prefill == "parallel"
    assert report.checked.compared


def test_a_recurrence_that_is_not_known_is_read_token_by_token(name, model, tmp_path, monkeypatch):
    """The same tokens, logits of all positions, and a padded batch that begins with columns of padding alone."""
    if name != "qwen3.5":
        pytest.skip("one is enough")
    monkeypatch.setattr("decodeloop.export.write.knows_recurrences", lambda model: False)
    report = decodeloop.export_onnx(model, tmp_path / "model.onnx")
    assert (report.prefill, report.inputs["input_ids"]) == ("sequential", ["batch", 1])
    decoder = OnnxDecoder(report.path, device="cpu")
    for lengths in ([9], [12, 2, 5]):
        ids, mask = left_padded(lengths)
        assert torch.equal(decoder.generate(ids, attention_mask=mask, **OPTIONS), expected(model, ids, mask))
    assert decodeloop.perplexity(decoder, ids, attention_mask=mask) == pytest.approx(
        decodeloop.perplexity(model, ids, attention_mask=mask), rel=1e-4
    )


def test_a_step_can_be_fed_again(report):
    ids = prompt_ids(1, 4)
    tokens, decoder, feeds = decodeloop.onnx_generate(report.path, ids, return_session=True, device="cpu", **OPTIONS)
    logits = decoder.session.run(["logits"], {name: np.asarray(tensor) for name, tensor in feeds.items()})[0]
    assert logits[0, -1].argmax() == tokens[0, -1]


def test_an_engine_that_runs_ahead_takes_its_last_step_back(model, make):
    """On a GPU a step is only queued, and the end of a text is seen one step later: the state must go back too."""
    ids = prompt_ids(1, 6)
    want = expected(model, ids)
    end = int(want[0, 9])
    options = OPTIONS | {"eos_token_id": end, "return_cache": True}
    decoder = make("dynamo")
    decoder.runs_async = True
    first, cache = decoder.generate(ids, **options)
    assert first.shape[1] < want.shape[1] or end not in want[0, 6:-1]
    assert torch.equal(first, want[:, : first.shape[1]])
    text = torch.cat([first, ids[:, :1]], dim=1)
    assert torch.equal(make("torch").generate(text, past_key_values=cache, **OPTIONS), expected(model, text))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_captured_step_replaces_its_states(model, compiled):
    on_gpu = copy.deepcopy(model).cuda()
    decoder = TorchDecoder(on_gpu, cuda_graph=True, compile=compiled)
    for lengths in ([9], [12, 2, 5]):
        ids, mask = (tensor.cuda() for tensor in left_padded(lengths))
        first, cache = decoder.generate(ids, attention_mask=mask, return_cache=True, **OPTIONS)
        text = torch.cat([first, ids[:, :2]], dim=1)
        longer = torch.nn.functional.pad(mask, (0, text.shape[1] - mask.shape[1]), value=1)
        again = decoder.generate(text, attention_mask=longer, past_key_values=cache, **OPTIONS)
        assert torch.equal(first, expected(on_gpu, ids, mask))
        assert torch.equal(again, expected(on_gpu, text, longer))


def test_a_smaller_batch_after_a_larger_one_and_a_larger_one_again(model, make):
    decoder = make("dynamo")
    for rows, length in ((1, 40), (3, 5), (2, 9), (4, 3)):
        ids = prompt_ids(rows, length)
        assert torch.equal(decoder.generate(ids, **OPTIONS), expected(model, ids))


def test_flat_tensors_go_there_and_back(name, model):
    ids = prompt_ids(2, 6)
    _, cache = decodeloop.generate(model, ids, return_cache=True, **OPTIONS)
    tensors = decodeloop.cache_to_tensors(cache)
    length = ids.shape[1] + NEW - 1
    back = decodeloop.tensors_to_cache(tensors, model.config, length=length)
    assert all(torch.equal(a, b) for a, b in zip(decodeloop.cache_to_tensors(back), tensors, strict=True))
    tensors[0].zero_()
    assert decodeloop.cache_to_tensors(back)[0].any()
    empty = decodeloop.empty_tensors(model.config, 2, length=length)
    assert [(t.shape, t.dtype) for t in empty] == [(t.shape, t.dtype) for t in tensors]
    assert decodeloop.string_type(cache, with_shape=True)


def test_a_state_is_not_rewound(model):
    _, cache = decodeloop.generate(model, prompt_ids(1, 6), return_cache=True, **OPTIONS)
    before = copy.deepcopy(cache)
    with pytest.raises(ValueError, match=r"cannot rewind to 3 tokens: layer 0 keeps a .* copy\.deepcopy\(cache\)"):
        decodeloop.crop_cache(cache, 3)
    for a, b in zip(*map(decodeloop.cache_to_tensors, (before, cache)), strict=True):
        assert torch.equal(a, b)
    assert decodeloop.crop_cache(cache, 6 + NEW - 1) is cache


def test_a_static_cache_and_a_fused_graph_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match='keeps states besides keys and values .* use exporter="dynamo"'):
        decodeloop.export_onnx(model, tmp_path / "model.onnx", exporter="fused")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="a static cache of it is not made from tensors: use tensors_to_cache"):
        decodeloop.tensors_to_static(decodeloop.empty_tensors(model.config), model.config, 8)
