"""verify: it agrees where decoders agree, and finds, places and judges the first difference."""

import copy
import math

import pytest
import torch
from helpers import left_padded, prompt_ids
from transformers import GenerationConfig

from decodeloop import OnnxDecoder, TorchDecoder, perplexity, verify


def edited(model, *edits):
    """A copy that lets the i-th edit change the last logits of its i-th pass, and then says what the model says."""
    model, left = copy.deepcopy(model), list(edits)

    def edit(module, args, output):
        if left:
            left.pop(0)(output.logits[0, -1])

    model.register_forward_hook(edit)
    return model


def second_above_best(by):
    def edit(logits):
        best, second = logits.topk(2).indices
        logits[second] = logits[best] + by

    return edit


def keep(logits):
    pass


def fill(value, tokens=slice(None)):
    def edit(logits):
        logits[tokens] = value

    return edit


def only(logits_by_token):
    """An edit that leaves nothing of what the model says: these logits, and 0 for every other token."""

    def edit(logits):
        logits.zero_()
        for token, logit in logits_by_token.items():
            logits[token] = logit

    return edit


def test_pytorch_and_onnx_agree(phi, phi_graph):
    ids, mask = left_padded([9, 4])
    report = verify(phi, phi_graph.path, [ids, prompt_ids(1, 3)], attention_mask=[mask, None], eos_token_id=None)
    assert report.same_tokens
    assert (report.tokens, report.agreed) == (60, 60)
    assert 0 < report.max_logit_diff < 1e-4
    assert len(report.logit_diffs) == len(report.kls) == 20
    assert str(report).startswith("60 of 60 tokens agree, logits within ")


def test_a_broken_decoder_is_found_and_is_no_near_tie(phi):
    broken = copy.deepcopy(phi)
    with torch.no_grad():
        broken.lm_head.bias[5] += 50  # it now always says 5
    report = verify(phi, broken, prompt_ids(1, 6), max_new_tokens=5, eos_token_id=None)
    assert not report.same_tokens
    assert (report.divergence.step, report.divergence.got) == (0, 5)
    assert report.divergence.margin > report.divergence.rounding
    assert "not a near tie" in str(report)
    assert report.max_logit_diff == pytest.approx(50, abs=1e-3)
    assert report.max_kl > 1


@pytest.mark.parametrize(("units", "near_tie"), [(1, True), (32, True), (33, False)])
def test_a_near_tie_is_told_from_a_bug(phi, units, near_tie):
    """32 units in the last place of the largest logit; the logits are given, so that no machine rounds them its way."""
    less = 16 - units * 16 * torch.finfo(torch.float32).eps
    reference = edited(phi, *[only({3: 16.0, 4: less})] * 2)  # when verify asks, and when generate does
    candidate = edited(phi, only({3: less, 4: 16.0}))
    report = verify(reference, candidate, prompt_ids(1, 6), max_new_tokens=1)
    assert (report.divergence.expected, report.divergence.got) == (3, 4)
    assert report.divergence.margin == 16 - less
    assert report.divergence.near_tie == report.agrees == near_tie
    assert str(report).endswith("(a near tie)" if near_tie else "(not a near tie)")


def test_near_ties_agree(phi):
    reference = edited(phi, second_above_best(-1e-6), keep, second_above_best(-1e-6))
    candidate = edited(phi, second_above_best(1e-6), keep, second_above_best(1e-6))
    report = verify(reference, candidate, prompt_ids(1, 6), max_new_tokens=5, eos_token_id=None)
    assert report.agrees
    assert not report.same_tokens
    assert [d.step for d in report.divergences] == [0, 2]
    assert report.divergence == report.divergences[0]
    assert str(report).endswith("(a near tie)")
    assert verify(phi, phi, prompt_ids(1, 6), max_new_tokens=2).agrees


def test_a_difference_after_a_near_tie_is_no_agreement(phi):
    reference = edited(phi, second_above_best(-1e-6))
    candidate = edited(phi, second_above_best(1e-6), keep, second_above_best(1.0))
    report = verify(reference, candidate, prompt_ids(1, 6), max_new_tokens=5, eos_token_id=None)
    assert report.divergence.near_tie
    assert not report.agrees
    assert (report.agreed, report.tokens) == (3, 5)
    assert "(a near tie); 1 of 2 are no near ties: step 2" in str(report)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("tokens", [slice(None), slice(3, 4)])
@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_what_is_not_a_number_agrees_with_nothing(phi, value, tokens, sides):
    reference, candidate = (edited(phi, keep, *[fill(value, tokens)] * broken) for broken in sides)
    ids = prompt_ids(1, 6)
    report = verify(reference, candidate, [ids, ids], max_new_tokens=4, eos_token_id=None)
    assert not report.agrees
    assert not report.same_tokens
    assert (report.agreed, report.tokens) == (7, 8)
    assert (report.divergence.prompt, report.divergence.step) == (0, 1)
    assert math.isnan(report.max_kl)
    assert "not a near tie" in str(report)


def test_tokens_that_both_rule_out_are_no_difference(phi):
    masked = fill(-math.inf, slice(3, 9))
    report = verify(edited(phi, masked), edited(phi, masked), prompt_ids(1, 6), max_new_tokens=2)
    assert report.same_tokens
    assert report.max_logit_diff == report.max_kl == 0
    apart = verify(edited(phi, masked), edited(phi, masked, second_above_best(1.0)), prompt_ids(1, 6))
    assert not apart.agrees


def test_nothing_is_compared_after_a_row_ended(phi, phi_graph):
    ids = prompt_ids(1, 6)
    first = int(OnnxDecoder(phi_graph.path, device="cpu").generate(ids, max_new_tokens=1, eos_token_id=None)[0, -1])
    assert verify(phi, phi_graph.path, ids, eos_token_id=first).tokens == 1


def test_a_graph_of_another_model_is_named(phi, llama_graph):
    with pytest.raises(ValueError, match="'phi', 2, 128.* and .'llama', 2, 32.: not the same model"):
        verify(phi, llama_graph.path, prompt_ids(1, 2))


def test_bad_arguments_are_named(phi, llama):
    with pytest.raises(ValueError, match="max_new_tokens=0: expected an int of 1 or more"):
        verify(phi, phi, prompt_ids(1, 2), max_new_tokens=0)
    with pytest.raises(ValueError, match="0 prompts and 0 attention masks: expected 1 or more"):
        verify(phi, phi, [])
    with pytest.raises(ValueError, match="2 prompts and 1 attention masks: expected .* as many"):
        verify(phi, phi, [prompt_ids(1, 2)] * 2, attention_mask=torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="int: expected a transformers model"):
        verify(phi, 3, prompt_ids(1, 2))


def test_perplexity_is_that_of_the_models_own_loss(llama, llama_graph, phi, phi_graph, phi_fused):
    ids = prompt_ids(1, 20)
    for model, graphs in ((llama, [llama_graph]), (phi, [phi_graph, phi_fused])):
        expected = float(model(ids, labels=ids).loss.detach().exp())
        for decoder in (model, *(graph.path for graph in graphs)):
            assert perplexity(decoder, ids) == pytest.approx(expected, rel=1e-4)


def test_perplexity_leaves_padding_out(phi, phi_fused):
    ids, mask = left_padded([20, 5])
    losses = [torch.tensor(perplexity(phi, row[None, -n:])).log() for row, n in zip(ids, (20, 5), strict=True)]
    expected = float(((19 * losses[0] + 4 * losses[1]) / 23).exp())
    for decoder in (phi, phi_fused.path):
        assert perplexity(decoder, ids, attention_mask=mask) == pytest.approx(expected, rel=1e-4)


def test_perplexity_needs_a_second_token(phi):
    with pytest.raises(ValueError, match="at least 2 tokens"):
        perplexity(phi, prompt_ids(3, 1))


def test_a_static_cache_is_compared_like_any_other_loop(phi):
    report = verify(phi, TorchDecoder(phi), prompt_ids(2, 9), max_new_tokens=12, eos_token_id=None)
    assert report.same_tokens
    assert report.tokens == 24


def test_one_decoder_is_not_compared_with_itself(phi_graph):
    decoder = OnnxDecoder(phi_graph.path, device="cpu")
    with pytest.raises(ValueError, match="are one OnnxDecoder, which has one cache"):
        verify(decoder, decoder, prompt_ids(1, 3))


def test_generate_itself_is_asked_too(phi):
    ids, mask = left_padded([9, 4])
    report = verify(phi, TorchDecoder(phi), ids, attention_mask=mask, max_new_tokens=6, eos_token_id=None)
    assert (report.generated, report.generate_divergences) == (12, [])
    assert report.agrees


def test_two_loops_that_are_wrong_alike_are_found(phi, monkeypatch):
    """Both say the same, and ``model.generate`` does not."""
    ids = prompt_ids(2, 7)
    right = phi.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    other = right.clone()
    other[1, 7 + 3] = (other[1, 7 + 3] + 1) % 97
    monkeypatch.setattr(phi, "generate", lambda *given, **options: other)
    report = verify(phi, TorchDecoder(phi), ids, max_new_tokens=6, eos_token_id=None)
    assert report.same_tokens
    assert not report.agrees
    (divergence,) = report.generate_divergences
    assert (divergence.row, divergence.step, divergence.expected, divergence.got) == (1, 3, right[1, 10], other[1, 10])
    assert report.generated == 6 + 4
    assert "; model.generate leaves the reference at step 3" in str(report)


def test_a_near_tie_with_generate_is_no_difference(phi):
    report = verify(edited(phi, keep, second_above_best(1e-6)), phi, prompt_ids(1, 6), max_new_tokens=4)
    assert report.generate_divergences[0].near_tie


def test_a_graph_as_reference_has_no_generate(phi, phi_graph):
    report = verify(OnnxDecoder(phi_graph.path, device="cpu"), phi, prompt_ids(1, 5), max_new_tokens=4)
    assert report.generated is None
    assert report.agrees


def test_both_choose_as_the_checkpoint_says(phi, monkeypatch):
    ids = prompt_ids(1, 6)
    settings = GenerationConfig(repetition_penalty=1.5, suppress_tokens=[36, 73], pad_token_id=0, stop_strings=["x"])
    monkeypatch.setattr(phi, "generation_config", settings)
    report = verify(phi, TorchDecoder(phi), ids, max_new_tokens=12)
    assert report.agrees
    assert (report.tokens, report.generated) == (12, 12)
    broken = copy.deepcopy(phi)
    with torch.no_grad():
        broken.lm_head.bias[36] += 100  # which is banned in both
    assert verify(phi, broken, ids, max_new_tokens=3).same_tokens
