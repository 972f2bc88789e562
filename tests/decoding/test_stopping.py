"""When a text ends: at an end token, at a length, at a string; each row by itself, and what is written after."""

import numpy as np
import pytest
import torch
from helpers import left_padded, prompt_ids

import decodeloop


def test_rows_stop_by_themselves_and_are_padded_after(phi, decoder):
    ids, mask = left_padded([6, 9, 3], seed=5)
    free = decoder(ids, attention_mask=mask, max_new_tokens=20, eos_token_id=None)
    ends = [int(free[0, 9 + 4]), int(free[1, 9 + 11])]  # two tokens that come at different steps
    options = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": ends}
    expected, got = phi.generate(ids, do_sample=False, **options), decoder(ids, **options)
    assert torch.equal(got, expected)
    first = next(i for i in range(9, 29) if int(free[0, i]) in ends)
    assert got[0, first] == free[0, first]  # the end token itself is kept
    assert (got[0, first + 1 :] == 0).all()  # then the model's padding


def test_an_end_token_is_the_last_and_none_never_stops(decoder):
    ids = prompt_ids(1, 5)
    free = decoder(ids, max_new_tokens=15, eos_token_id=None)
    assert free.shape == (1, 20)
    end = int(free[0, 8])
    first = free[0].tolist().index(end, 5)
    assert decoder(ids, max_new_tokens=15, eos_token_id=end).tolist() == free[:, : first + 1].tolist()
    sooner = int(free[0, 6])
    assert decoder(ids, max_new_tokens=15, eos_token_id=[end, sooner]).tolist() == free[:, :7].tolist()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, lambda x: np.array([x]), lambda x: np.array(x),
                                  lambda x: [np.int64(x)], lambda x: torch.tensor(x), lambda x: (x,)])  # fmt: skip
def test_ids_of_any_integer_kind_are_ids(phi, kind):
    ids = prompt_ids(1, 5)
    end = int(decodeloop.generate(phi, ids, max_new_tokens=6, eos_token_id=None)[0, 7])
    expected = decodeloop.generate(phi, ids, max_new_tokens=6, eos_token_id=end)
    got = decodeloop.generate(phi, ids, max_new_tokens=np.int64(6), eos_token_id=kind(end), pad_token_id=np.int16(3))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    "given", [2.0, np.float32(2), [2.0], np.array([2.0]), torch.tensor([2.0]), True, [[2]], {"a": 1}]
)
def test_what_is_no_id_is_named(decoder, given):
    with pytest.raises(ValueError, match="eos_token_id=.*: expected an id from 0 to 96, the model's vocabulary"):
        decoder(prompt_ids(1, 4), eos_token_id=given)


def test_the_models_own_end_token_is_the_default(phi, decoder):
    ids = prompt_ids(1, 5, seed=63)
    free = decoder(ids, max_new_tokens=60, eos_token_id=None)[0].tolist()
    own = phi.generation_config.eos_token_id
    assert own in free[6:-1]  # it comes, neither at once nor at the very end
    assert decoder(ids, max_new_tokens=60)[0].tolist() == free[: free.index(own, 5) + 1]


def test_padding_falls_back_to_the_first_end_token(phi, monkeypatch):
    monkeypatch.setattr(phi.generation_config, "pad_token_id", None)
    ids = prompt_ids(2, 4)
    free = decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=None)
    end = int(free[0, 4])
    got = decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=[end, 96])
    assert got[0, 4:].tolist() == [end] * (got.shape[1] - 4)
    assert got.shape[1] > 5
    got = decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=end, pad_token_id=7)
    assert got[0, 4:].tolist() == [end] + [7] * (got.shape[1] - 5)


def test_max_length_counts_the_prompt(phi, decoder):
    ids = prompt_ids(2, 7)
    assert torch.equal(decoder(ids, max_length=12), phi.generate(ids, max_length=12, do_sample=False))
    assert torch.equal(decoder(ids, max_length=7), ids)
    with pytest.raises(ValueError, match="max_length=6: expected an int of 7 or more, the length of the prompt"):
        decoder(ids, max_length=6)


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
