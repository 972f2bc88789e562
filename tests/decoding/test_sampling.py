"""Drawing: frequencies are the softmax's, a seed gives the same tokens again, what cannot be drawn is named."""

import pytest
import torch
from helpers import left_padded, prompt_ids

import decodeloop
from decodeloop import Sampler
from decodeloop.decoding.prompt import check_prompt

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])


def draw(sampler, count=20000, logits=LOGITS, tokens=(3,)):
    """``count`` rows of the same logits, drawn at once: how often each token came."""
    ids = torch.tensor([tokens]).expand(count, -1)
    choose = sampler.start(check_prompt(ids))
    return torch.bincount(choose(ids, logits.expand(count, -1)), minlength=logits.shape[1])


def p_value(counts, expected):
    """Pearson's chi-square test: how often frequencies drawn from ``expected`` stray at least so far."""
    counts, expected = counts[expected > 0], expected[expected > 0] * counts.sum()
    assert expected.min() >= 5  # the statistic's distribution is an approximation that needs it
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2), statistic / 2))


# A sampler that is right fails one time in ten thousand; the seed is fixed, so it either always does or never.
LEVEL = 1e-4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    counts = draw(Sampler(temperature=temperature, seed=0), count=100_000)
    assert p_value(counts, (LOGITS / temperature).softmax(-1)[0]) > LEVEL
    assert p_value(counts, (LOGITS / (temperature * 1.05)).softmax(-1)[0]) < LEVEL  # the test can tell 5 %


def test_frequencies_follow_the_softmax_with_one_seed_per_row():
    counts = draw(Sampler(seed=range(20000)))
    assert p_value(counts, LOGITS.softmax(-1)[0]) > LEVEL


def test_what_filters_leave_over_keeps_its_proportions():
    for options, kept in (({"top_k": 2}, 2), ({"top_p": 0.5}, 1), ({"min_p": 0.2}, 2), ({"top_p": 0.95}, 3)):
        counts = draw(Sampler(**options, seed=0))
        assert counts.nonzero().flatten().tolist() == list(range(kept))
        assert kept == 1 or p_value(counts[:kept], LOGITS[0, :kept].softmax(-1)) > LEVEL


def test_typical_can_leave_out_the_most_probable_token():
    logits = torch.tensor([[3.0, 1.5, 1.5, 1.5, 1.5, 1.5]])  # a token that tells little, among many that tell more
    assert 0 not in draw(Sampler(typical_p=0.2, seed=0), logits=logits).nonzero()


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert draw(Sampler(seed=0), logits=logits).nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_the_edges_of_the_uniform_number_fall_on_tokens_that_can_come(monkeypatch, number, expected):
    monkeypatch.setattr(torch, "rand", lambda *size, dtype, generator: torch.full(size, number, dtype=dtype))
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert Sampler().start(check_prompt(torch.tensor([[3]])))(torch.tensor([[3]]), logits).tolist() == [expected]


def test_repetition_penalty_lowers_what_was_said():
    free, penalised = draw(Sampler(seed=0), tokens=(0,)), draw(Sampler(repetition_penalty=2.0, seed=0), tokens=(0,))
    assert penalised[0] < 0.9 * free[0]


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    ids = torch.full((50, 1), 3)
    first, again, other = (
        Sampler(seed=seed).start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_rows_draw_different_numbers_from_one_seed():
    ids = torch.full((50, 1), 3)
    assert len(set(Sampler(seed=1).start(check_prompt(ids))(ids, torch.zeros(50, 1000)).tolist())) > 40


def test_without_a_seed_torch_decides():
    ids = torch.full((50, 1), 3)
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(Sampler().start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist())
    assert draws[0] == draws[1]


def test_a_row_with_its_own_seed_gets_what_it_gets_alone(decoder):
    ids, mask = left_padded([9, 4, 7])
    options = {"max_new_tokens": 20, "eos_token_id": None}
    shape = {"temperature": 0.9, "top_k": 30, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}
    together = decoder(ids, attention_mask=mask, sampler=Sampler(**shape, seed=[3, 2**40, 3]), **options)
    for row, (length, seed) in enumerate([(9, 3), (4, 2**40), (7, 3)]):
        for alone in (seed, [seed]):
            got = decoder(ids[row : row + 1, -length:], sampler=Sampler(**shape, seed=alone), **options)
            assert got[0, length:].tolist() == together[row, 9:].tolist()


def test_the_same_seed_gives_the_same_tokens_on_pytorch_and_onnx(phi, phi_graph):
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    ids, mask = left_padded([9, 4])
    options = {"attention_mask": mask, "max_new_tokens": 25, "eos_token_id": None}
    for sampler in (
        Sampler(seed=[5, 6], typical_p=0.9, min_p=0.02),
        Sampler(seed=5, top_p=0.95, bad_words_ids=[[5], [9, 11]], no_repeat_ngram_size=3),
        Sampler(do_sample=False, repetition_penalty=1.3, forced_tokens={2: 17}),
    ):
        expected = decodeloop.generate(phi, ids, sampler=sampler, **options)
        assert torch.equal(onnx.generate(ids, sampler=sampler, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"typical_p": 0.0},
        {"typical_p": 1.5},
        {"repetition_penalty": 0},
        {"no_repeat_ngram_size": -2},
        {"min_new_tokens": -1},
        {"min_new_tokens": True},
        {"bad_words_ids": [5, 6]},
        {"bad_words_ids": [[5], []]},
        {"bad_words_ids": [[-1]]},
        {"forced_tokens": [5, 6]},
        {"forced_tokens": {0: -1}},
        {"forced_tokens": {"first": 3}},
        {"do_sample": None},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": [1, None]},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match="expected") as error:
        Sampler(**options)
    assert str(error.value).startswith(f"{name}={value!r}: expected ")


def test_seeds_for_another_batch_are_named():
    with pytest.raises(ValueError, match=r"seed=\[1, 2\] has 2 seeds and the prompt 3 rows: expected one per row, or"):
        Sampler(seed=[1, 2]).start(check_prompt(prompt_ids(3, 4)))


@pytest.mark.parametrize("options", [{"bad_words_ids": [[3], [4, 97]]}, {"forced_tokens": {5: 97}}], ids=str)
def test_token_ids_that_the_model_does_not_have_are_named(decoder, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} holds token id 97: expected 0 to 96, the model's vocabulary"):
        decoder(prompt_ids(1, 4), sampler=Sampler(**options))


@pytest.mark.parametrize("do_sample", [True, False])
def test_a_row_without_a_token_to_choose_is_named(do_sample):
    ids = torch.tensor([[4], [3]])
    banned = Sampler(bad_words_ids=[[3, token] for token in range(5)], do_sample=do_sample)
    with pytest.raises(
        ValueError, match="row 1 has no token to choose at step 0, its best score is -inf: either every"
    ):
        banned.start(check_prompt(ids))(ids, LOGITS.expand(2, -1))
    with pytest.raises(ValueError, match="row 0 has no token to choose at step 0, its best score is nan"):
        Sampler(do_sample=do_sample).start(check_prompt(ids))(ids, LOGITS.expand(2, -1) * torch.nan)
