"""Prompt lookup: guess the next tokens from what the text already says, and check all guesses in one pass.

Source: Apoorv Saxena, "Prompt Lookup Decoding" (2023); the check is that of speculative decoding (Leviathan et al.,
2023, arXiv:2211.17192), which for greedy decoding is: a guess counts if it is the most likely token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from decodeloop.checks import check_count


@dataclass
class PromptLookup:
    """Guesses tokens from the text so far, and counts how well it does.

    The last ``ngram`` tokens are looked for earlier in the text, then the last ``ngram - 1``, and so on; what followed
    the latest place where they stand is the guess. The tokens are exactly those of greedy decoding; where text repeats
    itself, there are fewer passes.

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
    passes: int = field(default=0, init=False)
    proposed: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.tokens = check_count("tokens", self.tokens, 1)
        self.ngram = check_count("ngram", self.ngram, 1)

    @property
    def acceptance(self) -> float:
        """Share of the guesses that were right; NaN where none was made."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written for each pass of the model: 1 without lookup. NaN before the first generation."""
        return self.written / self.passes if self.passes else float("nan")

    def start(self) -> None:
        """Forget the counts of the generation before."""
        self.passes = self.proposed = self.accepted = self.written = 0

    def count(self, proposed: int, accepted: int, written: int) -> None:
        """Add a pass and what came of it."""
        self.passes += 1
        self.proposed += proposed
        self.accepted += accepted
        self.written += written

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
