"""What a checkpoint's generation_config says: greedy decoding is ``model.generate``'s on every engine, or refused."""

import pytest
import torch
from helpers import left_padded, prompt_ids
from transformers import GenerationConfig, LogitsProcessorList, SynthIDTextWatermarkingConfig, WatermarkingConfig

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, Sampler, TorchDecoder

#: Each changes what is written; the first tokens of the plain answers are 36, 73 and 50.
SETTINGS = [
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 1},
    {"encoder_repetition_penalty": 3.0},
    {"encoder_no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(30, 90))},
    {"begin_suppress_tokens": list(range(20, 90))},
    {"forced_eos_token_id": 7},
    {"sequence_bias": [[[5], 9.0], [[11, 12], 30.0]]},
    {"sequence_bias": {(5,): 9.0}},
    {"bad_words_ids": [[token] for token in range(20, 90)]},
    {"watermarking_config": WatermarkingConfig(bias=8.0)},
    {"watermarking_config": {"bias": 8.0, "seeding_scheme": "selfhash"}},
    {"eos_token_id": list(range(40, 70))},
    {"eos_token_id": list(range(20, 90)), "min_new_tokens": 5},
    {"eos_token_id": list(range(20, 90)), "min_length": 12},
    {"eos_token_id": [4], "exponential_decay_length_penalty": (2, 3.0)},
    {"repetition_penalty": 1.4, "suppress_tokens": [36, 73], "no_repeat_ngram_size": 2, "renormalize_logits": True},
]
#: These do not.
WITHOUT_EFFECT = [
    {"do_sample": True, "temperature": 0.1, "top_k": 3, "top_p": 0.2, "min_p": 0.1, "typical_p": 0.3},
    {"max_length": 4},
    {"max_new_tokens": 2},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
    {"eos_token_id": None},
    {"eos_token_id": [50256, -1]},
    {"num_beams": 1, "num_return_sequences": 1, "penalty_alpha": 0.0, "guidance_scale": 1, "is_assistant": False},
    {"prompt_lookup_num_tokens": 3, "assistant_confidence_threshold": 0.4},
    {"cache_implementation": "static", "return_dict_in_generate": False},
    {"a_setting_of_tomorrow": 3},
]


@pytest.fixture(scope="module")
def graphs(phi_graph, phi_fused):
    return {
        name: OnnxDecoder(graph.path, device="cpu") for name, graph in (("dynamo", phi_graph), ("fused", phi_fused))
    }


@pytest.fixture(params=["torch", "static", "dynamo", "fused"])
def generate(request, phi, graphs, monkeypatch):
    """``generate(settings, ids, ...)``: an engine's tokens by a generation_config, which phi then has too."""
    engine = graphs.get(request.param) or (TorchDecoder(phi) if request.param == "static" else None)

    def run(settings, ids, **options):
        config = GenerationConfig(**({"pad_token_id": 0} | settings))
        monkeypatch.setattr(phi, "generation_config", config)
        if request.param in graphs:
            monkeypatch.setattr(engine, "generation_config", config)
        return engine.generate(ids, **options) if engine else decodeloop.generate(phi, ids, **options)

    return run


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_are_those_of_generate(phi, generate, settings):
    ids, mask = left_padded([7, 3, 5])
    options = {"attention_mask": mask, "max_new_tokens": 14}
    got = generate(settings, ids, **options)
    assert torch.equal(got, phi.generate(ids, do_sample=False, **options))
    assert not torch.equal(got, generate({}, ids, **options))


@pytest.mark.parametrize("settings", WITHOUT_EFFECT, ids=str)
def test_what_does_not_concern_greedy_decoding_has_no_effect(generate, settings):
    ids, mask = left_padded([7, 3])
    options = {"attention_mask": mask, "max_new_tokens": 8}
    assert torch.equal(generate(settings, ids, **options), generate({}, ids, **options))


def test_a_first_token_is_forced_where_generate_forces_it(phi, generate):
    for length in (1, 2):  # it counts the beginning-of-sequence token alone
        ids = prompt_ids(1, length)
        got = generate({"forced_bos_token_id": 9}, ids, max_new_tokens=5)
        assert torch.equal(got, phi.generate(ids, do_sample=False, max_new_tokens=5))
        assert (int(got[0, length]) == 9) == (length == 1)


@pytest.mark.parametrize("settings", [*SETTINGS, {}], ids=str)
def test_lookup_checks_guesses_by_the_settings(phi, generate, settings):
    ids = prompt_ids(1, 6).repeat(1, 3)
    got = generate(settings, ids, max_new_tokens=20, lookup=PromptLookup(tokens=4, ngram=1))
    assert torch.equal(got, phi.generate(ids, do_sample=False, max_new_tokens=20))


def test_a_cache_is_continued_by_the_settings(phi, generate):
    ids, settings = prompt_ids(2, 8), {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}
    first, cache = generate(settings, ids, max_new_tokens=5, return_cache=True)
    got = generate(settings, first, past_key_values=cache, max_new_tokens=9)
    assert torch.equal(got, phi.generate(ids, do_sample=False, max_new_tokens=14))


REFUSED = {
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "force_words_ids": [[3]],
    "constraints": [1],
    "guidance_scale": 1.5,
    "token_healing": True,
    "is_assistant": True,
    "cache_implementation": "quantized",
    "watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_greedy_is_refused_in_one_line_and_a_sampler_does_without(phi, generate, name):
    ids, settings = prompt_ids(1, 6), {name: REFUSED[name]}
    with pytest.raises(ValueError, match=rf"generation_config of .* has {name}=.*set .*{name} = None") as error:
        generate(settings, ids, max_new_tokens=4)
    assert "\n" not in str(error.value).replace(repr(REFUSED[name]), "")
    plain = generate({}, ids, max_new_tokens=4)
    assert torch.equal(generate(settings, ids, max_new_tokens=4, sampler=Sampler(do_sample=False)), plain)


def test_several_answers_of_greedy_decoding_are_refused(generate):
    with pytest.raises(ValueError, match="has num_return_sequences=3"):
        generate({"num_return_sequences": 3, "do_sample": True}, prompt_ids(1, 4))


@pytest.mark.parametrize(
    "settings",
    [
        {"bad_words_ids": [[3, 97]]},
        {"sequence_bias": [[[200], 1.0]]},
        {"forced_bos_token_id": 97},
        {"forced_eos_token_id": [3, 99]},
    ],
    ids=str,
)
def test_ids_outside_the_vocabulary_are_named(generate, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"names token id .* in {name}: expected 0 to 96, the model's vocabulary"):
        generate(settings, prompt_ids(1, 4))


def test_a_sampler_alone_says_how_tokens_are_chosen(phi, generate):
    ids, sampler = prompt_ids(2, 6), Sampler(seed=3, top_k=9)
    settings = {"repetition_penalty": 5.0, "suppress_tokens": list(range(30, 90))}
    plain = generate({}, ids, max_new_tokens=9, sampler=sampler)
    assert torch.equal(generate(settings, ids, max_new_tokens=9, sampler=sampler), plain)


@pytest.mark.parametrize("pad", [-1, 97, 50256])
def test_special_tokens_outside_the_vocabulary_are_none(generate, pad):
    ids = prompt_ids(2, 5)
    free = generate({}, ids, max_new_tokens=8)
    ends = [int(free[0, 6]), 50256, -1]
    got = generate({"eos_token_id": ends, "pad_token_id": pad}, ids, max_new_tokens=8)
    assert torch.equal(got, generate({"eos_token_id": ends[0], "pad_token_id": ends[0]}, ids, max_new_tokens=8))
    for given in ({"eos_token_id": 50256}, {"pad_token_id": -1}):  # what the user says is not let pass
        with pytest.raises(ValueError, match="expected an id from 0 to 96, the model's vocabulary"):
            generate({}, ids, **given)


def test_its_stop_strings_end_a_text_and_need_the_tokenizer(bundled, monkeypatch):
    ids = bundled.tokenizer('def add(a, b):\n    """Return the sum."""', return_tensors="pt").input_ids
    config = GenerationConfig(pad_token_id=0, stop_strings=["return"])
    monkeypatch.setattr(bundled.model, "generation_config", config)
    expected = bundled.model.generate(ids, do_sample=False, max_new_tokens=40, tokenizer=bundled.tokenizer)
    assert expected.shape[1] < ids.shape[1] + 40
    got = decodeloop.generate(bundled.model, ids, max_new_tokens=40, tokenizer=bundled.tokenizer)
    assert torch.equal(got, expected)
    assert torch.equal(decodeloop.generate(bundled, ids, max_new_tokens=40), expected)  # which has its tokenizer
    with pytest.raises(ValueError, match=r"generation_config: stop_strings=\['return'\]: give the tokenizer too"):
        decodeloop.generate(bundled.model, ids)


def test_its_time_ends_a_text(generate):
    ids = prompt_ids(2, 5)
    assert generate({"max_time": 0.0}, ids, max_new_tokens=30).shape == (2, 6)
    assert generate({"max_time": 600.0}, ids, max_new_tokens=30).shape == (2, 35)


def test_an_export_takes_all_settings_along(phi, monkeypatch, tmp_path):
    """By way of JSON, which has no tuples."""
    settings = {
        "repetition_penalty": 1.3,
        "suppress_tokens": [36, 73],
        "sequence_bias": {(5,): 2.0, (7, 9): -3.0},
        "exponential_decay_length_penalty": (3, 1.2),
        "watermarking_config": WatermarkingConfig(bias=1.5),
        "eos_token_id": [3, 4],
        "pad_token_id": 0,
        "temperature": 0.6,
    }
    monkeypatch.setattr(phi, "generation_config", GenerationConfig(**settings))
    report = decodeloop.export_onnx(phi, tmp_path / "model.onnx", exporter="fused")
    decoder, ids = OnnxDecoder(report.path, device="cpu"), prompt_ids(2, 6)
    expected = phi.generate(ids, do_sample=False, max_new_tokens=20)
    assert torch.equal(decoder.generate(ids, max_new_tokens=20), expected)
    monkeypatch.setattr(phi, "generation_config", GenerationConfig(pad_token_id=0, eos_token_id=3))
    assert not torch.equal(decoder.generate(ids, max_new_tokens=20), phi.generate(ids, max_new_tokens=20))


def test_users_processors_come_with_a_sampler(phi, generate):
    """A rule of one's own and the checkpoint's: the sampler says both."""
    ids = prompt_ids(1, 6)
    rules = LogitsProcessorList([lambda ids, scores: scores.masked_fill(torch.arange(97) % 2 == 1, -torch.inf)])
    sampler = Sampler(do_sample=False, repetition_penalty=1.4, processors=rules)
    got = generate({"repetition_penalty": 1.4}, ids, max_new_tokens=10, sampler=sampler)
    assert torch.equal(got, phi.generate(ids, do_sample=False, max_new_tokens=10, logits_processor=rules))
