"""The rule by which a guess is taken: the tokens have the model's distribution, whatever the draft's is."""

import torch

from decodeloop import Sampler
from decodeloop.decoding.prompt import Prompt
from decodeloop.decoding.speculate import Guess, accept, propose

VOCABULARY, TRIALS = 6, 4000
TEXT = torch.zeros(1, 1, dtype=torch.int64)
MODEL = torch.tensor([[2.0, 1.0, 0.0, 0.0, -1.0, -2.0], [0.0, 0.0, 2.0, 1.0, -1.0, 0.5]])
DRAFT = torch.tensor([[0.0, 2.0, 0.0, -1.0, 1.0, -2.0]])


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return float((((counts - expected) ** 2) / expected)[expected > 0].sum())


def drawn(sampler, guess_of):
    """How often each token came first, and second where the guess was taken."""
    choose = sampler.start(Prompt(TEXT, torch.ones_like(TEXT)))
    first, second = torch.zeros(2, VOCABULARY)
    for _ in range(TRIALS):
        new = accept(choose, TEXT, guess_of(choose), MODEL[None])[0]
        first[new[0]] += 1
        if len(new) == 2:
            second[new[1]] += 1
    return first, second


def by_draft(choose):
    token, probabilities = propose(choose, TEXT, DRAFT)
    return Guess(token[None], probabilities)


def test_what_a_draft_guesses_does_not_change_the_distribution():
    """Chi-square with 5 degrees of freedom: 25.7 is exceeded once in 10,000 times."""
    first, second = drawn(Sampler(seed=0), by_draft)
    assert chi_square(first, MODEL[0].softmax(-1)) < 25.7
    assert chi_square(second, MODEL[1].softmax(-1)) < 25.7
    assert chi_square(first, DRAFT[0].softmax(-1)) > 500
    rate = torch.minimum(MODEL[0].softmax(-1), DRAFT[0].softmax(-1)).sum()
    assert abs(second.sum() / TRIALS - rate) < 0.03


def test_a_guess_from_the_text_does_not_either():
    for token in (0, 4):
        first, second = drawn(Sampler(seed=1), lambda choose, token=token: Guess(torch.tensor([[token]])))
        assert chi_square(first, MODEL[0].softmax(-1)) < 25.7
        assert chi_square(second, MODEL[1].softmax(-1)) < 25.7


def test_the_distribution_is_the_one_that_the_sampler_makes():
    """Top-k leaves two tokens to the model and two to the draft, of which one is the same."""
    first, _ = drawn(Sampler(seed=2, top_k=2, temperature=0.7), by_draft)
    kept = torch.where(torch.arange(VOCABULARY) < 2, MODEL[0] / 0.7, -torch.inf).softmax(-1)
    assert first[kept == 0].sum() == 0
    assert chi_square(first, kept) < 15.2  # one degree of freedom


def test_what_is_not_left_to_chance_is_taken_or_not():
    for sampler in (Sampler(do_sample=False), Sampler(forced_tokens={0: 0}, seed=0)):
        choose = sampler.start(Prompt(TEXT, torch.ones_like(TEXT)))
        assert accept(choose, TEXT, Guess(torch.tensor([[0]])), MODEL[None])[0, 0] == 0
        assert accept(choose, TEXT, Guess(torch.tensor([[3]])), MODEL[None]).tolist() == [[0]]
