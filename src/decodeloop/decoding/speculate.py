"""How guesses are made and checked, so that the text is the one that the model would have written by itself.

Greedily, a guess is right if it is the most likely token. Drawn tokens keep their distribution by the rule of
speculative sampling (Leviathan et al., 2023, arXiv:2211.17192; Chen et al., 2023, arXiv:2302.01318): a guess drawn with
probability ``q``, to which the model gives ``p``, is taken with probability ``min(1, p / q)``; where it is not, the
token is drawn from what ``p`` has more than ``q``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decodeloop.decoding.chooser import Chooser
from decodeloop.decoding.greedy import Greedy


@dataclass(frozen=True)
class Guess:
    """Tokens that may come next.

    Attributes
    ----------
    tokens : torch.Tensor
        int64 ``[1, guessed]``; may be empty.
    probabilities : torch.Tensor or None
        What each was drawn from, float64 ``[guessed, vocabulary]``; None where nothing was left to chance.
    """

    tokens: torch.Tensor
    probabilities: torch.Tensor | None = None


def propose(
    choose: Greedy | Chooser, text: torch.Tensor, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The next token ``[1]`` by another model's logits ``[1, vocabulary]``, and what it was drawn from, if it was."""
    if isinstance(choose, Greedy):
        return choose(text, logits), None
    probabilities = choose.probabilities(text, logits)
    return choose.draw(probabilities), probabilities


def accept(choose: Greedy | Chooser, text: torch.Tensor, guess: Guess, logits: torch.Tensor) -> torch.Tensor:
    """The tokens that come next: the guess as far as it is taken, and one of the model's own ``[1, taken + 1]``.

    Parameters
    ----------
    choose : Greedy or Chooser
    text : torch.Tensor
        int64 ``[1, length]``.
    guess : Guess
    logits : torch.Tensor
        The model's, of the text's last token and of the guess, ``[1, guessed + 1, vocabulary]``.
    """
    if isinstance(choose, Greedy):
        chosen = choose.along(text, guess.tokens, logits)
        return chosen[:, : 1 + _leading(chosen[0, :-1] == guess.tokens[0])]
    after = torch.cat([text, guess.tokens], dim=-1)
    ends = range(text.shape[1], after.shape[1] + 1)
    wanted = torch.cat([choose.probabilities(after[:, :end], logits[:, i]) for i, end in enumerate(ends)])
    given = guess.probabilities
    if given is None:
        given = torch.nn.functional.one_hot(guess.tokens[0], logits.shape[-1]).double()
    count = guess.tokens.shape[1]
    places, luck = torch.arange(count, device=text.device), choose.uniform(count)[:, 0].to(text.device)
    p, q = (each[places, guess.tokens[0]] for each in (wanted, given))
    taken = _leading(luck * q < p)
    left = wanted[taken]
    if taken < count:
        left = (left - given[taken]).clamp(min=0)
    return torch.cat([guess.tokens[:, :taken], choose.draw(left[None])[None]], dim=-1)


def _leading(right: torch.Tensor) -> int:
    """How many are true before the first that is not."""
    return int(right.int().cumprod(-1).sum())
