"""Going on from the cache of an earlier call, of the same loop or another."""

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import DynamicCache, EncoderDecoderCache, MistralConfig, MistralForCausalLM, StaticCache

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


def flat(model, ids, length):
    """Flat tensors of the first ``length`` tokens."""
    _, cache = decodeloop.generate(model, ids[:, : length + 1], max_new_tokens=1, return_cache=True, **FREE)
    return [tensor[:, :, :length] for tensor in decodeloop.cache_to_tensors(cache)]


def filled_static(model, ids, length, capacity):
    return decodeloop.tensors_to_static(flat(model, ids, length), model.config, capacity)


GOOD = {
    "DynamicCache()": lambda phi, ids: DynamicCache(),
    "DynamicCache(config)": lambda phi, ids: DynamicCache(config=phi.config),
    "StaticCache, empty": lambda phi, ids: StaticCache(config=phi.config, max_cache_len=40),
    "StaticCache, filled": lambda phi, ids: filled_static(phi, ids, 5, 40),
    "StaticCache, just large enough": lambda phi, ids: filled_static(phi, ids, 5, 9 + 8 - 1),
    "tensors of no length": lambda phi, ids: decodeloop.empty_tensors(phi.config, len(ids)),
    "one token": lambda phi, ids: flat(phi, ids, 1),
    "all but one token": lambda phi, ids: flat(phi, ids, 8),
    "a tuple": lambda phi, ids: tuple(flat(phi, ids, 4)),
    "in double precision": lambda phi, ids: [tensor.double() for tensor in flat(phi, ids, 4)],
    "a cache without a configuration": lambda phi, ids: decodeloop.tensors_to_cache(flat(phi, ids, 4)),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("form", GOOD)
def test_a_past_of_any_form_gives_the_tokens_of_the_whole_text(phi, decoder, form, rows):
    ids = prompt_ids(rows, 9)
    expected = phi.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    got, cache = decoder(ids, past_key_values=GOOD[form](phi, ids), max_new_tokens=8, return_cache=True, **FREE)
    assert torch.equal(got, expected)
    assert int(cache.get_seq_length()) == 16


def test_an_empty_cache_is_filled_in_place(phi):
    ids, past = prompt_ids(2, 9), DynamicCache()
    _, cache = decodeloop.generate(phi, ids, past_key_values=past, max_new_tokens=4, return_cache=True, **FREE)
    assert cache is past
    assert past.get_seq_length() == 12


def wide(tensors, **sizes):
    """Tensors of another shape: of so many rows, heads, tokens."""
    shape = [sizes.get(name) for name in ("rows", "heads", "length", "size")]
    return [torch.zeros([new or old for new, old in zip(shape, tensor.shape, strict=True)]) for tensor in tensors]


BAD = {
    "other rows": lambda past: wide(past, rows=3),
    "one row": lambda past: wide(past, rows=1),
    "other heads": lambda past: wide(past, heads=2),
    "other head size": lambda past: wide(past, size=16),
    "as long as the text": lambda past: wide(past, length=9),
    "longer than the text": lambda past: wide(past, length=200),
    "values shorter than keys": lambda past: [past[0], past[1][:, :, :2], *past[2:]],
    "a layer shorter than another": lambda past: [*past[:2], *(tensor[:, :, :2] for tensor in past[2:])],
    "a layer more": lambda past: [*past, *past[:2]],
    "a layer less": lambda past: past[:2],
    "an odd number": lambda past: past[:3],
    "none": lambda past: [],
    "three dimensions": lambda past: [tensor[0] for tensor in past],
    "pairs": lambda past: [(past[0], past[1]), (past[2], past[3])],
    "arrays": lambda past: [tensor.numpy() for tensor in past],
    "a number": lambda past: 3,
    "two caches": lambda past: EncoderDecoderCache(DynamicCache(), DynamicCache()),
}
AS_CACHES = [name for name in BAD if name.startswith(("other", "one row", "as long", "longer", "a layer"))]


@pytest.mark.parametrize("form", [*BAD, *(f"{name}, a cache" for name in AS_CACHES)])
def test_a_past_that_does_not_fit_is_refused(phi, decoder, form):
    ids = prompt_ids(2, 9)
    past = BAD[form.removesuffix(", a cache")](flat(phi, ids, 5))
    if form.endswith(", a cache"):
        past, tensors = DynamicCache(), past
        for layer, keys, values in zip(range(9), tensors[::2], tensors[1::2], strict=False):
            past.update(keys, values, layer)
    with pytest.raises(ValueError, match="past_key_values|layer|tensors|heads|not one cache") as error:
        decoder(ids, past_key_values=past, max_new_tokens=4, **FREE)
    assert "\n" not in str(error.value)
    expected = phi.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(decoder(ids, max_new_tokens=4, **FREE), expected)  # the decoder is none the worse for it


def test_a_static_cache_that_is_too_small_is_refused(phi):
    ids = prompt_ids(2, 9)
    for past in (StaticCache(config=phi.config, max_cache_len=10), filled_static(phi, ids, 5, 15)):
        with pytest.raises(ValueError, match=r"past_key_values has room for 1. positions, and this needs 16"):
            decodeloop.generate(phi, ids, past_key_values=past, max_new_tokens=8, **FREE)


def test_a_cache_that_has_dropped_tokens_goes_to_no_engine_that_needs_them(decoder):
    """A sliding window's last tokens are no text for an engine that keeps all of it."""
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=4, head_dim=32, sliding_window=6)
    ids = prompt_ids(1, 12)
    _, cache = decodeloop.generate(model, ids, max_new_tokens=1, return_cache=True, **FREE)
    text = torch.cat([ids, prompt_ids(1, 2)], dim=-1)
    with pytest.raises(ValueError, match=r"a sliding window kept the last 5|layer 0 of past_key_values holds 5"):
        decoder(text, past_key_values=cache, max_new_tokens=4, **FREE)


def test_caches_that_do_not_fit_are_named(phi, llama, phi_graph):
    ids = prompt_ids(1, 6)
    tokens, cache = decodeloop.generate(llama, ids, max_new_tokens=3, return_cache=True, **FREE)
    onnx = OnnxDecoder(phi_graph.path, device="cpu")
    wrong = r"past_key_values has 4 tensors.* of shape \[1, 2, 8, 16\] where \[1, 4, 8, 32\].*another model"
    with pytest.raises(ValueError, match=wrong):
        onnx.generate(tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="layer 0 has 2 heads of size 16; the configuration .phi. has 4 of size 32"):
        decodeloop.generate(phi, tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values has 1 rows and input_ids has 2"):
        decodeloop.generate(llama, tokens.expand(2, -1), past_key_values=cache)
    with pytest.raises(ValueError, match="holds 8 positions and input_ids has 6: expected the whole text so far"):
        decodeloop.generate(llama, ids, past_key_values=cache)
