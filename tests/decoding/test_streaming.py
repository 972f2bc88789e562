"""Tokens as they come: streams, callbacks, transformers' streamers, the progress bar."""

import pytest
import torch
from helpers import prompt_ids
from transformers import TextIteratorStreamer, TextStreamer

import decodeloop


def test_on_token_sees_every_step(decoder):
    seen = []
    tokens = decoder(prompt_ids(2, 3), max_new_tokens=6, eos_token_id=None, on_token=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), tokens[:, 3:])


def test_stream_yields_the_tokens_of_generate(phi, phi_graph):
    ids = prompt_ids(1, 6)
    expected = decodeloop.generate(phi, ids, max_new_tokens=9, eos_token_id=None)[0, 6:].tolist()
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    for stream in (decodeloop.stream(phi, ids, max_new_tokens=9, eos_token_id=None),
                   onnx.stream(ids, max_new_tokens=9, eos_token_id=None)):  # fmt: skip
        assert [int(token) for token in stream] == expected


def test_a_closed_stream_leaves_the_decoder_usable(phi_graph):
    ids = prompt_ids(1, 6)
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    whole = onnx.generate(ids, max_new_tokens=9)
    stream = onnx.stream(ids, max_new_tokens=9)
    next(stream), next(stream)
    stream.close()
    assert torch.equal(onnx.generate(ids, max_new_tokens=9), whole)


def test_a_stream_that_was_overtaken_says_so(phi_graph):
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    stream = onnx.stream(prompt_ids(1, 6), eos_token_id=None)
    next(stream)
    onnx.generate(prompt_ids(1, 3), max_new_tokens=1)
    with pytest.raises(RuntimeError, match="started another generation"):
        next(stream)


def test_stream_checks_its_arguments_before_the_first_token(phi):
    with pytest.raises(ValueError, match="max_new_tokens=-3"):
        decodeloop.stream(phi, prompt_ids(1, 2), max_new_tokens=-3)


def test_transformers_streamers_get_the_text(bundled, capsys):
    ids = bundled.tokenizer('def add(a, b):\n    """Return the sum of a and b."""', return_tensors="pt").input_ids
    tokens = decodeloop.generate(bundled.model, ids, streamer=TextStreamer(bundled.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == bundled.tokenizer.decode(tokens[0, ids.shape[1] :]).strip()
    streamer = TextIteratorStreamer(bundled.tokenizer, skip_prompt=True)
    decodeloop.generate(bundled.model, ids, streamer=streamer)
    assert "".join(streamer) == bundled.tokenizer.decode(tokens[0, ids.shape[1] :])


def test_a_progress_bar_is_silent_where_nobody_watches(decoder, capsys):
    decoder(prompt_ids(1, 3), max_new_tokens=5, progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
