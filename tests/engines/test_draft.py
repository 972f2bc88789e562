"""A draft model guesses: the same tokens greedily, the same distribution with a sampler, and what is refused."""

import itertools

import pytest
import torch
from helpers import build, prompt_ids
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

import decodeloop
from decodeloop import DraftModel, OnnxDecoder, PromptLookup, Sampler, TorchDecoder

FREE = {"eos_token_id": None}


@pytest.fixture(scope="module")
def near(phi):
    """The model with other noise in its weights: often right, often wrong."""
    other = PhiForCausalLM(phi.config).eval()
    generator = torch.Generator().manual_seed(1)
    noisy = {n: w + 0.3 * w.std() * torch.randn(w.shape, generator=generator) for n, w in phi.state_dict().items()}
    other.load_state_dict(noisy)
    return other


@pytest.fixture(params=["torch", "static", "dynamo", "fused"])
def draft(request, near, export_once):
    """The noisy model on each engine; graphs give the logits of the last position only."""
    if request.param == "torch":
        return near
    if request.param == "static":
        return TorchDecoder(near)
    path = export_once(f"near-{request.param}", near, exporter=request.param, logits="last").path
    return OnnxDecoder(path, device="cpu")


@pytest.mark.parametrize("tokens", [1, 4])
def test_tokens_are_the_greedy_ones_whatever_guesses(phi, decoder, draft, tokens):
    lookup = DraftModel(draft, tokens=tokens)
    for length in (1, 9):  # the draft starts anew
        ids = prompt_ids(1, length, seed=length)
        got = decoder(ids, lookup=lookup, max_new_tokens=30, **FREE)
        assert torch.equal(got, phi.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None))
        assert lookup.written == 30
        assert lookup.passes == lookup.written - lookup.accepted
        assert 0 < lookup.acceptance < 1


def test_a_text_ends_where_it_would_and_leaves_a_clean_cache(phi, decoder, near):
    ids, lookup = prompt_ids(1, 9), DraftModel(near, tokens=4)
    free = decoder(ids, max_new_tokens=30, **FREE)
    for place in (9, 10, 11, 12):
        options = {"eos_token_id": int(free[0, place]), "max_new_tokens": 30}
        got, cache = decoder(ids, lookup=lookup, return_cache=True, **options)
        assert torch.equal(got, decoder(ids, **options))
        assert cache.get_seq_length() == got.shape[1] - 1


def test_a_draft_with_a_sliding_window(phi):
    """It forgets what has left the window, and still takes back what it guessed wrong."""
    window = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=6)
    ids, lookup = prompt_ids(1, 11), DraftModel(window, tokens=5)
    for model in (phi, window):
        got = decodeloop.generate(model, ids, lookup=lookup, max_new_tokens=30, **FREE)
        assert torch.equal(got, model.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None))
    assert lookup.acceptance == 1


def test_the_checkpoints_settings_hold_for_guesses_too(phi, decoder, near):
    ids, lookup = prompt_ids(1, 9), DraftModel(near, tokens=4)
    phi.generation_config.no_repeat_ngram_size = 2
    try:
        want = phi.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None)
        got = decodeloop.generate(phi, ids, lookup=lookup, max_new_tokens=30, **FREE)
    finally:
        phi.generation_config.no_repeat_ngram_size = None
    assert torch.equal(got, want)
    assert lookup.acceptance > 0


@pytest.mark.parametrize("guesser", ["draft", "lookup"])
def test_a_seed_gives_the_same_tokens_on_every_engine(phi, decoder, draft, guesser):
    ids = prompt_ids(1, 6).repeat(1, 3)
    lookup = PromptLookup(tokens=4, ngram=1) if guesser == "lookup" else DraftModel(draft, tokens=4)
    options = {"sampler": Sampler(seed=3, temperature=0.8), "max_new_tokens": 20, "lookup": lookup} | FREE
    assert torch.equal(decoder(ids, **options), decodeloop.generate(phi, ids, **options))
    assert lookup.written == 20


@pytest.mark.parametrize("guesser", ["draft", "lookup"])
def test_drawn_tokens_have_the_models_distribution(guesser):
    """The third and the fourth token, by chi-square with 15 degrees of freedom: 44.3 is exceeded once in 10,000."""
    shape = {"vocab_size": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_hidden_layers": 1}
    model = build(LlamaForCausalLM, LlamaConfig, **shape)
    other = build(LlamaForCausalLM, LlamaConfig, **(shape | {"initializer_range": 0.2}))
    lookup = PromptLookup(tokens=3, ngram=1) if guesser == "lookup" else DraftModel(other, tokens=3)
    ids, trials, counts = torch.tensor([[3, 1, 3, 0, 1]]), 1500, torch.zeros(4, 4)
    torch.manual_seed(0)
    for _ in range(trials):
        got = decodeloop.generate(model, ids, sampler=Sampler(), lookup=lookup, max_new_tokens=4, **FREE)
        counts[got[0, -2], got[0, -1]] += 1
    texts = torch.cat([ids.expand(256, -1), torch.tensor(list(itertools.product(range(4), repeat=4)))], dim=1)
    with torch.no_grad():
        logs = model(texts).logits.double().log_softmax(-1)[:, ids.shape[1] - 1 : -1]
    exact = logs.gather(2, texts[:, ids.shape[1] :, None]).sum((1, 2)).exp().view(4, 4, 4, 4).sum((0, 1)) * trials
    assert float(((counts - exact) ** 2 / exact).sum()) < 44.3


def test_a_generation_that_another_one_overtook_does_not_go_on(phi, near):
    draft = DraftModel(near)
    first = decodeloop.stream(phi, prompt_ids(1, 5), lookup=draft, **FREE)
    for _ in range(3):
        next(first)
    decodeloop.generate(phi, prompt_ids(1, 5), lookup=draft, max_new_tokens=9, **FREE)
    with pytest.raises(RuntimeError, match="has started another generation"):
        list(first)


def test_a_draft_that_cannot_guess_is_refused_before_the_first_token(phi, phi_fused):
    ids = prompt_ids(1, 5)
    larger = build(PhiForCausalLM, PhiConfig, vocab_size=98)
    with pytest.raises(ValueError, match="vocabulary of 98 tokens and PhiForCausalLM one of 97: expected the same"):
        decodeloop.stream(phi, ids, lookup=DraftModel(larger))
    shorter = build(PhiForCausalLM, PhiConfig, max_position_embeddings=16)
    with pytest.raises(ValueError, match="may grow to 17 tokens, and the draft PhiForCausalLM has 16 positions"):
        decodeloop.stream(phi, ids, lookup=DraftModel(shorter), max_new_tokens=12)
    states = build(Lfm2ForCausalLM, Lfm2Config, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    with pytest.raises(ValueError, match="lookup rewinds the cache of Lfm2ForCausalLM.*leave lookup out"):
        decodeloop.stream(phi, ids, lookup=DraftModel(states))
    decoder = OnnxDecoder(phi_fused.path, device="cpu")
    with pytest.raises(ValueError, match="the draft is the decoder of model.onnx that it should guess for"):
        decoder.stream(ids, lookup=DraftModel(decoder))
    with pytest.raises(ValueError, match="str: expected a transformers model"):
        DraftModel("model.onnx")
    with pytest.raises(ValueError, match="tokens=0: expected an int of 1 or more"):
        DraftModel(phi, tokens=0)
