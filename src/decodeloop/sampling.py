"""How the next token is chosen: transformers' logits processors do the arithmetic, one uniform number decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from decodeloop.prompt import Prompt

#: ``choose(tokens so far [batch, length], logits [batch, vocabulary]) -> next tokens [batch]``
Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def greedy(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The most probable next token: ``[batch, vocabulary] -> [batch]``."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Sampler:
    """Draws the next token from the model's distribution, reshaped.

    Processors apply in the order transformers' ``generate`` applies them: repetition penalty, temperature, top-k,
    top-p, min-p. One uniform number per row then picks a token by the inverse of the cumulative distribution. The
    number comes from a generator on the CPU, so a seed gives the same tokens on a CPU, on a GPU and through ONNX, as
    long as the logits agree.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; above 0. Below 1 sharpens the distribution, above 1 flattens it.
    top_k : int
        Keep the k most probable tokens; 0 keeps all.
    top_p : float
        Keep the smallest set of tokens whose probability reaches top_p, in (0, 1].
    min_p : float
        Keep tokens at least min_p times as probable as the most probable one, in [0, 1].
    repetition_penalty : float
        Above 1 makes tokens of the prompt and the answer so far less likely (Keskar et al., 2019, arXiv:1909.05858).
    seed : int, optional
        The same seed gives the same tokens. Default: torch's global generator, so ``torch.manual_seed`` counts.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "temperature": (self.temperature > 0, "a number above 0; for the most probable token use greedy decoding"),
            "top_k": (self.top_k >= 0 and int(self.top_k) == self.top_k, "an int of 0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "a number above 0, up to 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "a number from 0 (off) to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "a number above 0; 1 is off"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}.")

    def start(self, prompt: Prompt) -> Choose:
        """A fresh chooser for one generation: the generator is seeded here."""
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        processors = self._processors()
        # padding is not text: for the repetition penalty it repeats a token that the row already has
        text = torch.where(prompt.attention_mask == 1, prompt.input_ids, prompt.input_ids[:, -1:])

        def choose(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            tokens = torch.cat([text.to(tokens.device), tokens[:, text.shape[1] :]], dim=-1)
            scores = processors(tokens, logits.float())
            cumulative = scores.double().softmax(-1).cumsum(-1)
            uniform = torch.rand(len(scores), 1, dtype=torch.float64, generator=generator).to(scores.device)
            # the first token whose cumulative probability exceeds the number: never one of probability 0
            drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
            return drawn.squeeze(-1).clamp(max=scores.shape[-1] - 1)

        return choose

    def _processors(self) -> LogitsProcessorList:
        processors = LogitsProcessorList()
        if self.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            processors.append(TopKLogitsWarper(int(self.top_k)))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(float(self.top_p)))
        if self.min_p > 0:
            processors.append(MinPLogitsWarper(float(self.min_p)))
        return processors
