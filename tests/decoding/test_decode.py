"""What the loops can besides: stop strings, lengths, streamers, continuing from a cache, prompt lookup."""

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import MistralConfig, MistralForCausalLM, TextIteratorStreamer, TextStreamer

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, Sampler

FREE = {"eos_token_id": None}


@pytest.fixture(scope="module")
def bundled():
    return decodeloop.load(device="cpu")


@pytest.fixture
def run(decoder):
    return decoder


# Lengths and stop strings


def test_max_length_counts_the_prompt(phi, run):
    ids = prompt_ids(2, 7)
    assert torch.equal(run(ids, max_length=12), phi.generate(ids, max_length=12, do_sample=False))
    assert torch.equal(run(ids, max_length=7), ids)
    with pytest.raises(ValueError, match="max_length=6: expected an int of 7 or more, the length of the prompt"):
        run(ids, max_length=6)


@pytest.mark.parametrize("stop", ["True", ["nothing like it", " range"], "break\n"])
def test_stop_strings_end_a_text_where_generate_ends_it(bundled, stop):
    prompt = 'def print_prime(n):\n   """\n   Print all primes between 1 and n\n   """'
    ids = bundled.tokenizer(prompt, return_tensors="pt").input_ids
    options = {"stop_strings": stop, "tokenizer": bundled.tokenizer, "max_new_tokens": 70}
    got = decodeloop.generate(bundled.model, ids, **options)
    assert torch.equal(got, bundled.model.generate(ids, do_sample=False, **options))
    assert got.shape[1] < ids.shape[1] + 70


def test_stop_strings_end_each_row_by_itself(bundled):
    prompts = ['def add(a, b):\n    """Return the sum of a and b."""', 'def is_even(n):\n    """Check if n is even."""']
    inputs = bundled.tokenizer(prompts, return_tensors="pt", padding=True)
    options = {"stop_strings": ["+", "%"], "tokenizer": bundled.tokenizer}
    got = decodeloop.generate(bundled.model, **inputs, **options)
    assert torch.equal(got, bundled.model.generate(**inputs, do_sample=False, max_new_tokens=100, **options))
    lengths = [int((row != bundled.tokenizer.pad_token_id).sum()) for row in got[:, inputs.input_ids.shape[1] :]]
    assert lengths[0] != lengths[1]
    for row, length in zip(got[:, inputs.input_ids.shape[1] :], lengths, strict=True):
        assert any(stop in bundled.tokenizer.decode(row[length - 1]) for stop in "+%")


def test_bad_stop_strings_are_named(phi, bundled):
    with pytest.raises(ValueError, match="stop_strings='x': give the tokenizer too"):
        decodeloop.generate(phi, prompt_ids(1, 2), stop_strings="x")
    for bad in ([], "", ["a", ""], [3]):
        with pytest.raises(ValueError, match="expected a string or several, none of them empty"):
            decodeloop.generate(bundled.model, prompt_ids(1, 2), stop_strings=bad, tokenizer=bundled.tokenizer)


# Streaming


def test_transformers_streamers_get_the_text(bundled, capsys):
    ids = bundled.tokenizer('def add(a, b):\n    """Return the sum of a and b."""', return_tensors="pt").input_ids
    tokens = decodeloop.generate(bundled.model, ids, streamer=TextStreamer(bundled.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == bundled.tokenizer.decode(tokens[0, ids.shape[1] :]).strip()
    streamer = TextIteratorStreamer(bundled.tokenizer, skip_prompt=True)
    decodeloop.generate(bundled.model, ids, streamer=streamer)
    assert "".join(streamer) == bundled.tokenizer.decode(tokens[0, ids.shape[1] :])


def test_a_progress_bar_is_silent_where_nobody_watches(run, capsys):
    run(prompt_ids(1, 3), max_new_tokens=5, progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


# Continuing from a cache


@pytest.mark.parametrize("lengths", [[6], [6, 2, 5]])
def test_turns_give_the_tokens_of_one_long_call(phi, run, lengths):
    ids, mask = left_padded(lengths)
    first, cache = run(ids, attention_mask=mask, max_new_tokens=5, return_cache=True, **FREE)
    assert cache.get_seq_length() == first.shape[1] - 1
    said = prompt_ids(len(lengths), 4, seed=9)
    text = torch.cat([first, said], dim=-1)
    whole = torch.cat([mask, torch.ones(len(lengths), 9, dtype=torch.int64)], dim=-1)
    second, cache = run(text, attention_mask=whole, past_key_values=cache, max_new_tokens=12, return_cache=True, **FREE)
    expected = phi.generate(text, attention_mask=whole, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert second.tolist() == expected.tolist() or torch.equal(second[:, : expected.shape[1]], expected)
    third = torch.cat([second, said], dim=-1)
    mask = torch.cat([whole, torch.ones(len(lengths), 16, dtype=torch.int64)], dim=-1)
    assert torch.equal(
        run(third, attention_mask=mask, past_key_values=cache, max_new_tokens=8, **FREE),
        run(third, attention_mask=mask, max_new_tokens=8, **FREE),
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


def test_caches_that_do_not_fit_are_named(phi, llama, phi_graph):
    ids = prompt_ids(1, 6)
    tokens, cache = decodeloop.generate(llama, ids, max_new_tokens=3, return_cache=True, **FREE)
    onnx = OnnxDecoder(phi_graph.path, device="cpu")
    with pytest.raises(ValueError, match="past_key_values has 2 layers of .rows, heads, head size.*another model"):
        onnx.generate(tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="layer 0 has 2 heads of size 16; the configuration .phi. has 4 of size 8"):
        decodeloop.generate(phi, tokens, past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values has 1 rows and input_ids has 2"):
        decodeloop.generate(llama, tokens.expand(2, -1), past_key_values=cache)
    with pytest.raises(ValueError, match="holds 8 positions and input_ids has 6: expected the whole text so far"):
        decodeloop.generate(llama, ids, past_key_values=cache)


# Prompt lookup


@pytest.mark.parametrize("length", [1, 5, 40])
def test_lookup_gives_exactly_the_greedy_tokens(phi, run, length):
    ids = prompt_ids(1, length, seed=length)
    repeated = torch.cat([ids, ids, ids], dim=-1)
    for prompt in (ids, repeated):
        lookup = PromptLookup(tokens=6, ngram=2)
        got = run(prompt, lookup=lookup, max_new_tokens=40)
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


def test_lookup_stops_at_the_end_and_keeps_a_clean_cache(phi, run):
    ids = torch.cat([prompt_ids(1, 10)] * 2, dim=-1)
    free = run(ids, max_new_tokens=30, **FREE)
    end = int(free[0, 20 + 7])
    lookup = PromptLookup(tokens=8, ngram=1)
    got, cache = run(ids, max_new_tokens=30, eos_token_id=end, lookup=lookup, return_cache=True)
    assert torch.equal(got, run(ids, max_new_tokens=30, eos_token_id=end))
    assert cache.get_seq_length() == got.shape[1] - 1
    more = torch.cat([got, prompt_ids(1, 3)], dim=-1)
    assert torch.equal(
        run(more, past_key_values=cache, max_new_tokens=10, **FREE), run(more, max_new_tokens=10, **FREE)
    )


def test_lookup_on_a_sliding_window(phi):
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=6)
    ids = torch.cat([prompt_ids(1, 7)] * 3, dim=-1)
    got = decodeloop.generate(model, ids, lookup=PromptLookup(ngram=1), max_new_tokens=40)
    assert torch.equal(got, model.generate(ids, max_new_tokens=40, do_sample=False))


def test_lookup_refuses_what_it_cannot_do(run, llama_graph):
    with pytest.raises(ValueError, match="give lookup or sampler, not both"):
        run(prompt_ids(1, 3), lookup=PromptLookup(), sampler=Sampler())
    with pytest.raises(ValueError, match="lookup with a batch of 2 rows"):
        run(prompt_ids(2, 3), lookup=PromptLookup())
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
