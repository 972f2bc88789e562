"""Tokens to text: no character in part, no part of a stop string, and nothing lost."""

import pytest
import torch

import decodeloop

TEXT = "# naïve → 日本 🎉👩‍💻 END of it"


@pytest.fixture(scope="module")
def tokenizer(bundled):
    return bundled.tokenizer


def test_pieces_are_whole_characters_and_together_the_text(tokenizer):
    tokens = tokenizer(TEXT).input_ids
    assert "\N{REPLACEMENT CHARACTER}" in "".join(tokenizer.decode(token) for token in tokens)
    for given in (tokens, torch.tensor(tokens)[:, None]):
        pieces = list(decodeloop.text_pieces(tokenizer, given))
        assert "".join(pieces) == TEXT
        assert all(pieces)
        assert len(pieces) > 10
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_a_text_that_is_cut_within_a_character_says_so_at_its_end(tokenizer):
    tokens = tokenizer("a 🎉").input_ids
    assert list(decodeloop.text_pieces(tokenizer, tokens[:-1]))[-1].endswith("\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("stop", ["END", " END of", "日本 🎉", "T", "# n"])
def test_a_text_ends_before_a_stop_string_and_no_more_tokens_are_asked_for(tokenizer, stop):
    text, asked = TEXT.replace("it", "THE"), []
    tokens = tokenizer(text).input_ids

    def noted():
        for token in tokens:
            asked.append(token)
            yield token

    pieces = list(decodeloop.text_pieces(tokenizer, noted(), ["never", stop]))
    assert "".join(pieces) == text[: text.index(stop)]
    assert stop in tokenizer.decode(asked)
    assert stop not in tokenizer.decode(asked[:-1])


def test_what_only_looks_like_a_stop_string_is_given_after_all(tokenizer):
    tokens = tokenizer("a EN b END").input_ids
    assert "".join(decodeloop.text_pieces(tokenizer, tokens, "END")) == "a EN b "
    assert "".join(decodeloop.text_pieces(tokenizer, tokens[:-1], "END!")).startswith("a EN b ")
    assert "".join(decodeloop.text_pieces(tokenizer, tokens, "END!")) == "a EN b END"


def test_a_stream_ends_at_the_token_at_which_generate_ends(bundled):
    ids = bundled.tokenizer("def add(a, b):", return_tensors="pt").input_ids
    ended = decodeloop.generate(bundled, ids, max_new_tokens=40, stop_strings="return")[0, ids.shape[1] :]
    tokens = decodeloop.stream(bundled, ids, max_new_tokens=40)
    text = "".join(decodeloop.text_pieces(bundled.tokenizer, tokens, "return"))
    assert text == bundled.tokenizer.decode(ended).partition("return")[0]


def test_what_cannot_be_used_is_said(tokenizer):
    with pytest.raises(ValueError, match="tokenizer=None: expected the model's tokenizer"):
        decodeloop.text_pieces(None, [3])
    for stop in ("a", ""), [3], 3:
        with pytest.raises(ValueError, match="stop_strings.*: expected a string or several"):
            decodeloop.text_pieces(tokenizer, [3], stop)
    with pytest.raises(ValueError, match="a step has 2 tokens: expected one"):
        list(decodeloop.text_pieces(tokenizer, torch.tensor([[3, 4]])))
