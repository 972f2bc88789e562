"""How the next token is to be chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch

from decodeloop.checks import is_count, is_real, is_sequence, shown
from decodeloop.decoding.chooser import Chooser, seeds_of
from decodeloop.decoding.prompt import Prompt


@dataclass(frozen=True)
class Sampler:
    """Draws the next token from the model's distribution, reshaped.

    Processors apply in the order in which transformers' ``generate`` applies them: repetition penalty, n-grams, bad
    words, end-of-sequence tokens that come too early, forced tokens; then, where tokens are drawn, temperature, top-k,
    top-p, min-p, typical. One uniform number per row then picks a token by the inverse of the cumulative distribution.
    The number comes from a generator on the CPU, so a seed gives the same tokens on a CPU, on a GPU and through ONNX,
    as long as the logits agree. Padding counts for nothing: a row of a batch is treated as it is by itself.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; above 0. Below 1 sharpens the distribution, above 1 flattens it.
    top_k : int
        Keep the k most probable tokens; 0 keeps all (Fan et al., 2018, arXiv:1805.04833).
    top_p : float
        Keep the smallest set of tokens whose probability reaches top_p, in (0, 1] (Holtzman et al., 2020,
        arXiv:1904.09751).
    min_p : float
        Keep tokens at least min_p times as probable as the most probable one, in [0, 1] (Nguyen et al., 2024,
        arXiv:2407.01082).
    repetition_penalty : float
        Above 1 makes tokens of the prompt and the answer so far less likely (Keskar et al., 2019, arXiv:1909.05858).
    seed : int or sequence of int, optional
        The same seed gives the same tokens. One int: the rows of a batch draw different numbers, in turn, from one
        generator. A sequence: one seed per row, and a row gets the tokens that it gets alone with its seed. Default:
        torch's global generator, so ``torch.manual_seed`` counts. Where a model is spread over several processes, the
        first one's gives a seed to all of them, once for each generation: they have to draw the same tokens.
    typical_p : float
        Keep the tokens whose information is closest to the distribution's entropy, until their probability reaches
        typical_p, in (0, 1] (Meister et al., 2023, arXiv:2202.00666).
    no_repeat_ngram_size : int
        No sequence of so many tokens comes twice, the prompt included; 0 is off (Paulus et al., 2018,
        arXiv:1705.04304).
    bad_words_ids : sequence of sequences of int
        Sequences of token ids that the answer may not complete. As in transformers, a sequence that is nothing but an
        end-of-sequence token has no effect: to go on regardless, decode with ``eos_token_id=None``.
    forced_tokens : mapping of int to int
        Step, counted from 0, to the token that comes there whatever the model says and whatever is banned.
        ``dict(enumerate(ids))`` makes the answer begin with ``ids``.
    min_new_tokens : int
        No end-of-sequence token among the first so many.
    processors : sequence of transformers LogitsProcessor
        Further rules, such as a grammar's: each is called once a step as ``processor(input_ids, scores)``, with the
        text so far ``[batch, length]``, padding included, and scores ``[batch, vocabulary]``, and returns scores. They
        come after penalties and bans, before temperature. One that keeps a state serves one generation.
    do_sample : bool
        False takes the most probable token instead of drawing one. Penalties, bans and forced tokens apply;
        temperature, top-k, top-p, min-p, typical and the seed do not, as in ``generate``.

    Raises
    ------
    ValueError
        If a parameter is out of its range. What only the model can tell is checked at the first step.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | Sequence[int] | None = None
    _: KW_ONLY
    typical_p: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    forced_tokens: Mapping[int, int] = field(default_factory=dict)
    min_new_tokens: int = 0
    processors: Sequence[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = ()
    do_sample: bool = True

    def __post_init__(self) -> None:
        ids, words = "an int of 0 or more for each", self.bad_words_ids
        checks = {
            "temperature": (
                is_real(self.temperature) and self.temperature > 0,
                "a number above 0; for the most probable token use greedy decoding",
            ),
            "top_k": (is_count(self.top_k), "an int of 0 (off) or more"),
            "top_p": (is_real(self.top_p) and 0 < self.top_p <= 1, "a number above 0, up to 1 (off)"),
            "min_p": (is_real(self.min_p) and 0 <= self.min_p <= 1, "a number from 0 (off) to 1"),
            "repetition_penalty": (
                is_real(self.repetition_penalty) and self.repetition_penalty > 0,
                "a number above 0; 1 is off",
            ),
            "typical_p": (is_real(self.typical_p) and 0 < self.typical_p <= 1, "a number above 0, up to 1 (off)"),
            "no_repeat_ngram_size": (is_count(self.no_repeat_ngram_size), "an int of 0 (off) or more"),
            "bad_words_ids": (
                is_sequence(words) and all(is_sequence(w) and len(w) and all(map(is_count, w)) for w in words),
                "a list of lists of token ids, such as [[12], [7, 9]], none of them empty",
            ),
            "forced_tokens": (
                isinstance(self.forced_tokens, Mapping)
                and all(map(is_count, [*self.forced_tokens.keys(), *self.forced_tokens.values()])),
                f"a mapping from step to token id, {ids}; dict(enumerate(ids)) forces a beginning",
            ),
            "min_new_tokens": (is_count(self.min_new_tokens), "an int of 0 (off) or more"),
            "processors": (
                is_sequence(self.processors) and all(map(callable, self.processors)),
                "a list of transformers LogitsProcessors, functions of (input_ids, scores)",
            ),
            "do_sample": (isinstance(self.do_sample, bool), "True or False"),
            "seed": (
                all(is_count(seed) and seed < 2**64 for seed in seeds_of(self.seed)),
                "an int from 0 to 2**64 - 1, or one per row",
            ),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise ValueError(f"{name}={shown(getattr(self, name))}: expected {expected}.")

    def start(
        self,
        prompt: Prompt,
        eos_token_ids: Sequence[int] = (),
        shared_seed: Callable[[], int | None] = lambda: None,
    ) -> Chooser:
        """A fresh chooser for one generation: the generator is seeded here.

        Parameters
        ----------
        prompt : Prompt
        eos_token_ids : sequence of int
            What ends a row, for ``min_new_tokens``.
        shared_seed : callable
            Asked for a seed where this sampler has none; it may have none either.

        Raises
        ------
        ValueError
            If there are seeds for another number of rows than the prompt's.
        """
        seed = shared_seed() if self.seed is None and self.do_sample else None
        return Chooser(self if seed is None else replace(self, seed=seed), prompt, eos_token_ids)
