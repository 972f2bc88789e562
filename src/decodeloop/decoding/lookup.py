"""Who guesses the next tokens: what all guessers have in common, and prompt lookup, which needs no second model.

Source: Apoorv Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from decodeloop.checks import check_count
from decodeloop.decoding.chooser import Chooser
from decodeloop.decoding.engine import Engine
from decodeloop.decoding.greedy import Greedy
from decodeloop.decoding.prompt import Prompt
from decodeloop.decoding.speculate import Guess

#: Called with a text ``[1, length]`` and a limit: what may come next, at most so many tokens.
Guessing = Callable[[torch.Tensor, int], Guess]


@dataclass
class Guesser:
    """Guesses tokens, and counts how well it does. What it counted is of the last generation."""

    passes: int = field(default=0, init=False)
    proposed: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    written: int = field(default=0, init=False)

    @property
    def acceptance(self) -> float:
        """Share of the guesses that were right; NaN where none was made."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written for each pass of the model: 1 without guesses. NaN before the first generation."""
        return self.written / self.passes if self.passes else float("nan")

    def check(self, engine: Engine, prompt: Prompt, max_new_tokens: int) -> None:
        """Refuse a generation of ``engine`` for which it cannot guess, before anything is run.

        Raises
        ------
        ValueError
        """

    def start(self, prompt: Prompt, max_new_tokens: int, choose: Greedy | Chooser) -> Guessing:
        """Forget the counts of the generation before; what guesses in this one, whose tokens ``choose`` chooses."""
        self.passes = self.proposed = self.accepted = self.written = 0
        return self.guessing(prompt, max_new_tokens, choose)

    def guessing(self, prompt: Prompt, max_new_tokens: int, choose: Greedy | Chooser) -> Guessing:
        """What guesses in one generation."""
        raise NotImplementedError

    def count(self, proposed: int, accepted: int, written: int) -> None:
        """Add a pass and what came of it."""
        self.passes += 1
        self.proposed += proposed
        self.accepted += accepted
        self.written += written


@dataclass
class PromptLookup(Guesser):
    """Guesses tokens from the text so far, and counts how well it does.

    The last ``ngram`` tokens are looked for earlier in the text, then the last ``ngram - 1``, and so on; what followed
    the latest place where they stand is the guess. Greedily, the tokens are exactly those without it; with a sampler,
    they are drawn from the same distribution. Where text repeats itself, there are fewer passes.

    Parameters
    ----------
    tokens : int
        At most so many tokens are guessed for a pass; 1 or more.
    ngram : int
        Longest run of tokens to look for; 1 or more.

    Attributes
    ----------
    passes : int
        Passes of the model in the last generation, the prefill included.
    proposed, accepted : int
        Tokens guessed, and guessed right.
    written : int
        Tokens that the generation gave.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    tokens: int = 10
    ngram: int = 3

    def __post_init__(self) -> None:
        self.tokens = check_count("tokens", self.tokens, 1)
        self.ngram = check_count("ngram", self.ngram, 1)

    def guessing(self, prompt: Prompt, max_new_tokens: int, choose: Greedy | Chooser) -> Guessing:
        """What guesses in one generation: all that it needs is the text."""
        return lambda text, limit: Guess(self.guess(text[0], limit)[None])

    def guess(self, text: torch.Tensor, limit: int) -> torch.Tensor:
        """What may come after ``text`` ``[length]``: ``[at most limit]``, empty where nothing repeats."""
        count = min(self.tokens, limit)
        for size in range(min(self.ngram, len(text) - 1), 0, -1):
            if count < 1:
                break
            windows = text[:-1].unfold(0, size, 1)  # all runs of this length but the last one
            found = (windows == text[-size:]).all(-1).nonzero().flatten()
            if len(found):
                start = int(found[-1]) + size
                return text[start : start + count]
        return text[:0]
