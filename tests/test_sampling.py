"""The sampler's arithmetic: frequencies, filters, seeds, ranges."""

import pytest
import torch

from decodeloop import Sampler
from decodeloop.prompt import check_prompt

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -5.0]])


def draw(sampler, count=20000, logits=LOGITS, tokens=(3,)):
    """``count`` rows of the same logits, drawn at once: how often each token came."""
    ids = torch.tensor([tokens]).expand(count, -1)
    choose = sampler.start(check_prompt(ids))
    return torch.bincount(choose(ids, logits.expand(count, -1)), minlength=logits.shape[1]) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    expected = (LOGITS / temperature).softmax(-1)[0]
    assert torch.allclose(draw(Sampler(temperature=temperature, seed=0)), expected, atol=0.012)


def test_filters_leave_out_what_they_should():
    assert draw(Sampler(top_k=2, seed=0)).nonzero().flatten().tolist() == [0, 1]
    assert draw(Sampler(top_p=0.5, seed=0)).nonzero().flatten().tolist() == [0]
    assert draw(Sampler(min_p=0.2, seed=0)).nonzero().flatten().tolist() == [0, 1]


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert draw(Sampler(seed=0), logits=logits).nonzero().flatten().tolist() == [1, 3]


def test_repetition_penalty_lowers_what_was_said():
    free, penalised = draw(Sampler(seed=0), tokens=(0,)), draw(Sampler(repetition_penalty=2.0, seed=0), tokens=(0,))
    assert penalised[0] < free[0] - 0.1


def test_repetition_penalty_does_not_count_padding():
    ids, mask = torch.tensor([[0, 3]]), torch.tensor([[0, 1]])
    scores = Sampler(repetition_penalty=100.0, top_k=1, seed=0).start(check_prompt(ids, mask))(ids, LOGITS)
    assert scores.tolist() == [0]  # token 0 is the padding, and still the most probable


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    ids = torch.full((50, 1), 3)
    first, again, other = (
        Sampler(seed=seed).start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_without_a_seed_torch_decides():
    ids = torch.full((50, 1), 3)
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(Sampler().start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist())
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
    ],
)
def test_parameters_out_of_range_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: expected".replace("(", r"\(")):
        Sampler(**options)
