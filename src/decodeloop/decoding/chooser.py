"""Chooses tokens as a sampler asks: transformers' logits processors do the arithmetic, one uniform number decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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

from decodeloop.checks import is_sequence, shown
from decodeloop.decoding.engine import Look
from decodeloop.decoding.greedy import no_token
from decodeloop.decoding.prompt import Prompt

if TYPE_CHECKING:
    from decodeloop.decoding.sampling import Sampler

_PADDING = 2**31 - 1  # stands for padding: no vocabulary has such a token


class Chooser:
    """Chooses the tokens of one generation, made by :meth:`decodeloop.Sampler.start`: call it once a step.

    ``choose(tokens so far [batch, length], logits [batch, vocabulary])`` gives the next tokens ``[batch]``. What an
    engine has found to be the likeliest is not asked.
    """

    best = None  # unlike Greedy's, its scores are looked at as soon as there are any

    def __init__(self, sampler: Sampler, prompt: Prompt, eos_token_ids: Sequence[int]) -> None:
        rows, self.prompt_length = prompt.input_ids.shape
        seed, seeds = sampler.seed, seeds_of(sampler.seed)
        if is_sequence(seed) and len(seeds) != rows:
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

    def __call__(self, tokens: torch.Tensor, logits: torch.Tensor, likeliest: Look | None = None) -> torch.Tensor:
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


def seeds_of(seed: int | Sequence[int] | None) -> Sequence[int]:
    """One for each row, or one for all of them; none where torch's global generator draws."""
    if seed is None:
        return []
    return seed if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
