"""How the next token is chosen: transformers' logits processors do the arithmetic, one uniform number decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from decodeloop.checks import is_count, is_real, shown
from decodeloop.decoding.greedy import no_token
from decodeloop.decoding.prompt import Prompt

_PADDING = 2**31 - 1  # stands for padding: no vocabulary has such a token


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
                _is_sequence(words) and all(_is_sequence(w) and len(w) and all(map(is_count, w)) for w in words),
                "a list of lists of token ids, such as [[12], [7, 9]], none of them empty",
            ),
            "forced_tokens": (
                isinstance(self.forced_tokens, Mapping)
                and all(map(is_count, [*self.forced_tokens.keys(), *self.forced_tokens.values()])),
                f"a mapping from step to token id, {ids}; dict(enumerate(ids)) forces a beginning",
            ),
            "min_new_tokens": (is_count(self.min_new_tokens), "an int of 0 (off) or more"),
            "processors": (
                _is_sequence(self.processors) and all(map(callable, self.processors)),
                "a list of transformers LogitsProcessors, functions of (input_ids, scores)",
            ),
            "do_sample": (isinstance(self.do_sample, bool), "True or False"),
            "seed": (
                all(is_count(seed) and seed < 2**64 for seed in _seeds(self.seed)),
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


class Chooser:
    """Chooses the tokens of one generation, made by :meth:`Sampler.start`: call it once a step.

    ``choose(tokens so far [batch, length], logits [batch, vocabulary])`` gives the next tokens ``[batch]``.
    """

    best = None  # unlike Greedy's, its scores are looked at as soon as there are any

    def __init__(self, sampler: Sampler, prompt: Prompt, eos_token_ids: Sequence[int]) -> None:
        rows, self.prompt_length = prompt.input_ids.shape
        seed, seeds = sampler.seed, _seeds(sampler.seed)
        if _is_sequence(seed) and len(seeds) != rows:
            raise ValueError(
                f"seed={shown(seed)} has {len(seeds)} seeds and the prompt {rows} rows: expected "
                "one per row, or one int."
            )
        self.generators = [torch.Generator().manual_seed(int(s)) for s in seeds]
        self.sampler = sampler
        text = prompt.input_ids.masked_fill(prompt.attention_mask == 0, _PADDING)
        # one column more, in every batch: some versions do not ban a sequence that begins with a text's first token
        self.text = torch.nn.functional.pad(text, (1, 0), value=_PADDING)
        # Any: they are annotated as taking a LongTensor, which no operation of PyTorch is annotated to return
        self.processors: Any = _processors(sampler, self.text, list(eos_token_ids))
        self.warpers: Any = _warpers(sampler) if sampler.do_sample else LogitsProcessorList()

    def __call__(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        certain, probabilities = self._decide(tokens, logits)
        return self.draw(probabilities) if certain is None else certain

    def probabilities(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the next token is drawn from, float64 ``[batch, vocabulary]``: one 1 where nothing is left to chance."""
        certain, probabilities = self._decide(tokens, logits)
        if certain is None:
            return probabilities
        return torch.nn.functional.one_hot(certain, logits.shape[-1]).double()

    def draw(self, weights: torch.Tensor) -> torch.Tensor:
        """One token for each row of weights, float64 ``[batch, vocabulary]``, which need not add up to 1."""
        cumulative = weights.cumsum(-1)
        uniform = self.uniform(len(weights)).to(weights.device)
        # the first token whose cumulative weight exceeds the number: never one of weight 0
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return drawn.squeeze(-1).clamp(max=weights.shape[-1] - 1)

    def uniform(self, count: int) -> torch.Tensor:
        """So many numbers from 0 to 1, float64 ``[count, 1]``; one for each row where each has a seed of its own."""
        if len(self.generators) > 1:
            return torch.cat([torch.rand(1, 1, dtype=torch.float64, generator=g) for g in self.generators])
        generator = self.generators[0] if self.generators else None
        return torch.rand(count, 1, dtype=torch.float64, generator=generator)

    def scores(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The logits after all processors, float32 ``[batch, vocabulary]``; -inf for what may not come.

        Forced tokens are not in it: they are no matter of scores.
        """
        scores = logits.float()
        if self.processors:
            vocabulary = scores.shape[-1]
            text = torch.cat([self.text, tokens[:, self.prompt_length :]], dim=-1).clamp(max=vocabulary)
            scores = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf)  # a column for padding
            scores = self.processors(text, scores)[:, :vocabulary]
        for processor in self.sampler.processors:
            scores = _checked(processor, processor(tokens, scores), scores)
        return self.warpers(tokens, scores)

    def _decide(self, tokens: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The tokens, where nothing is left to chance, else None; and the probabilities to draw from."""
        step = tokens.shape[1] - self.prompt_length
        if step == 0:
            _check_vocabulary(self.sampler, logits.shape[-1])
        if step in self.sampler.forced_tokens:
            return tokens.new_full((len(tokens),), self.sampler.forced_tokens[step]), logits
        scores = self.scores(tokens, logits)
        best = scores.amax(-1)
        if not bool(best.isfinite().all()):
            row = int((~best.isfinite()).nonzero()[0])
            raise no_token(row, step, best[row].item())
        if not self.sampler.do_sample:
            return scores.argmax(-1), logits
        return None, scores.double().softmax(-1)


def _checked(processor: Any, got: Any, given: torch.Tensor) -> torch.Tensor:
    """What a processor of the user's made of scores, which must be such scores again."""
    expected = f"scores as it was given, {list(given.shape)} of {given.dtype} on {given.device}"
    if not isinstance(got, torch.Tensor):
        raise ValueError(f"{_name(processor)} returned {shown(got)}: expected {expected}.")
    if (got.shape, got.dtype, got.device) != (given.shape, given.dtype, given.device):
        raise ValueError(
            f"{_name(processor)} returned {list(got.shape)} of {got.dtype} on {got.device}: expected {expected}."
        )
    return got


def _name(processor: Any) -> str:
    return f"the processor {getattr(processor, '__name__', type(processor).__name__)}"


def _processors(sampler: Sampler, text: torch.Tensor, eos_token_ids: list[int]) -> LogitsProcessorList:
    """What looks at the text so far, and holds for greedy decoding too."""
    processors = LogitsProcessorList()
    if sampler.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampler.repetition_penalty)))
    if sampler.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(int(sampler.no_repeat_ngram_size)))
    words = [[int(token) for token in word] for word in sampler.bad_words_ids]
    words = [word for word in words if word not in [[token] for token in eos_token_ids]]
    if words:
        processors.append(NoBadWordsLogitsProcessor(words))
    if sampler.min_new_tokens and eos_token_ids:
        ends = torch.tensor(eos_token_ids, device=text.device)
        processors.append(MinNewTokensLengthLogitsProcessor(text.shape[1], int(sampler.min_new_tokens), ends))
    return processors


def _warpers(sampler: Sampler) -> LogitsProcessorList:
    """What reshapes a distribution to draw from."""
    warpers = LogitsProcessorList()
    if sampler.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(sampler.temperature)))
    if sampler.top_k:
        warpers.append(TopKLogitsWarper(int(sampler.top_k)))
    if sampler.top_p < 1:
        warpers.append(TopPLogitsWarper(float(sampler.top_p)))
    if sampler.min_p > 0:
        warpers.append(MinPLogitsWarper(float(sampler.min_p)))
    if sampler.typical_p < 1:
        warpers.append(TypicalLogitsWarper(float(sampler.typical_p)))
    return warpers


def _check_vocabulary(sampler: Sampler, size: int) -> None:
    named = {
        "bad_words_ids": [token for word in sampler.bad_words_ids for token in word],
        "forced_tokens": list(sampler.forced_tokens.values()),
    }
    for name, tokens in named.items():
        if tokens and max(tokens) >= size:
            raise ValueError(
                f"{name} holds token id {max(tokens)}: expected 0 to {size - 1}, the model's vocabulary. "
                "Was the text tokenised with another model's tokenizer?"
            )


def _seeds(seed: int | Sequence[int] | None) -> Sequence[int]:
    """One for each row, or one for all of them; none where torch's global generator draws."""
    if seed is None:
        return []
    return seed if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
