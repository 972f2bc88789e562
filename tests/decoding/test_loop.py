"""Both loops, PyTorch and ONNX Runtime, against transformers' generate."""

import pytest
import torch
from helpers import left_padded, prompt_ids

import decodeloop
from decodeloop import Sampler


def reference(model, ids, **options):
    options = {"do_sample": False, "max_new_tokens": 30} | options
    return model.generate(ids, **options)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 300])
def test_tokens_are_those_of_generate(phi, decoder, length):
    ids = prompt_ids(1, length, seed=length)
    assert torch.equal(decoder(ids, max_new_tokens=30), reference(phi, ids))


@pytest.mark.parametrize("lengths", [[4, 4], [9, 2], [1, 30, 12, 7, 5]])
def test_left_padded_batches_are_those_of_generate(phi, decoder, lengths):
    ids, mask = left_padded(lengths)
    assert torch.equal(decoder(ids, attention_mask=mask, max_new_tokens=30), reference(phi, ids, attention_mask=mask))


def test_a_batch_gives_each_row_what_it_gets_alone(decoder):
    ids, mask = left_padded([12, 3, 7])
    together = decoder(ids, attention_mask=mask, max_new_tokens=25, eos_token_id=None)
    for row in range(3):
        alone = decoder(ids[row : row + 1, 12 - int(mask[row].sum()) :], max_new_tokens=25, eos_token_id=None)
        assert together[row, 12:].tolist() == alone[0, -25:].tolist()


def test_rows_stop_by_themselves_and_are_padded_after(phi, decoder):
    ids, mask = left_padded([6, 9, 3], seed=5)
    free = decoder(ids, attention_mask=mask, max_new_tokens=20, eos_token_id=None)
    ends = [int(free[0, 9 + 4]), int(free[1, 9 + 11])]  # two tokens that come at different steps
    got = decoder(ids, attention_mask=mask, max_new_tokens=20, eos_token_id=ends)
    assert torch.equal(got, reference(phi, ids, attention_mask=mask, max_new_tokens=20, eos_token_id=ends))
    first = next(i for i in range(9, 29) if int(free[0, i]) in ends)
    assert got[0, first] == free[0, first]  # the end token itself is kept
    assert (got[0, first + 1 :] == 0).all()  # then the model's padding


def test_the_models_own_end_token_is_the_default_and_none_never_stops(phi, decoder, monkeypatch):
    ids = prompt_ids(1, 5)
    free = decoder(ids, max_new_tokens=15, eos_token_id=None)
    assert free.shape == (1, 20)
    end = int(free[0, 8])
    first = free[0].tolist().index(end, 5)
    assert decoder(ids, max_new_tokens=15, eos_token_id=end).tolist() == free[:, : first + 1].tolist()
    assert decoder(ids, max_new_tokens=15, eos_token_id=[end, 1]).shape[1] <= first + 1


def test_padding_falls_back_to_the_first_end_token(phi, monkeypatch):
    monkeypatch.setattr(phi.generation_config, "pad_token_id", None)
    ids = prompt_ids(2, 4)
    free = decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=None)
    end = int(free[0, 4])
    got = decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=[end, 96])
    assert set(got[0, 5:].tolist()) <= {end}
    assert decodeloop.generate(phi, ids, max_new_tokens=10, eos_token_id=end, pad_token_id=7)[0, 5] == 7


def test_no_new_tokens_returns_the_prompt(decoder):
    ids = prompt_ids(2, 4)
    assert torch.equal(decoder(ids, max_new_tokens=0), ids)


def test_no_pass_is_wasted_after_the_last_token(phi):
    passes = []
    hook = phi.register_forward_hook(lambda *args: passes.append(1))
    decodeloop.generate(phi, prompt_ids(1, 5), max_new_tokens=7, eos_token_id=None)
    hook.remove()
    assert len(passes) == 7


def test_each_pass_after_the_first_reads_one_token(phi):
    lengths = []
    hook = phi.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decodeloop.generate(phi, prompt_ids(1, 5), max_new_tokens=4, eos_token_id=None)
    hook.remove()
    assert lengths == [5, 1, 1, 1]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_token_id": 97}, "eos_token_id=97: expected an id from 0 to 96"),
        ({"eos_token_id": [2, -1]}, "eos_token_id=-1"),
        ({"eos_token_id": "end"}, "eos_token_id='end': expected \"model\""),
        ({"pad_token_id": 1000}, "pad_token_id=1000"),
        ({"max_new_tokens": 509}, "need 513 positions, and the model has 512"),
    ],
)
def test_bad_options_are_named(decoder, options, message):
    with pytest.raises(ValueError, match=message):
        decoder(prompt_ids(1, 4), **options)


def test_a_token_outside_the_vocabulary_is_named(decoder):
    with pytest.raises(ValueError, match="token id 97, outside 0 to 96"):
        decoder(torch.tensor([[3, 97]]))


def test_a_seed_gives_the_same_tokens_on_both_engines(phi, phi_graph):
    ids, mask = left_padded([8, 3])
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    options = {"attention_mask": mask, "max_new_tokens": 25, "eos_token_id": None}
    for sampler in (Sampler(seed=1), Sampler(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, seed=2),
                    Sampler(repetition_penalty=1.3, seed=3)):  # fmt: skip
        first = decodeloop.generate(phi, ids, sampler=sampler, **options)
        assert torch.equal(first, decodeloop.generate(phi, ids, sampler=sampler, **options))
        assert torch.equal(first, onnx.generate(ids, sampler=sampler, **options))
    greedy = decodeloop.generate(phi, ids, **options)
    assert not torch.equal(first, greedy)
