"""Greedy decoding: the most probable token, after what the checkpoint's generation_config does to the scores.

transformers' own function makes the processors, so that what they do and in which order is what ``generate`` does, in
whichever version is installed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedConfig,
    SynthIDTextWatermarkingConfig,
)

from decodeloop.decoding.engine import Engine, Look
from decodeloop.decoding.prompt import Prompt


class Greedy:
    """Chooses the tokens of one generation as ``model.generate(..., do_sample=False)`` does: call it once a step.

    Attributes
    ----------
    best : torch.Tensor
        The scores of the tokens that were chosen last ``[batch]``, which nobody has looked at: where one is not
        finite, there was no token to choose (see :func:`no_token`).
    """

    best: torch.Tensor

    def __init__(self, processors: LogitsProcessorList) -> None:
        self.processors: Any = processors  # annotated as taking a LongTensor, which no operation is annotated to return

    def scores(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The logits ``[batch, vocabulary]`` of what follows ``tokens`` ``[batch, length]``, processed."""
        return self.processors(tokens, logits.float()) if self.processors else logits

    def __call__(self, tokens: torch.Tensor, logits: torch.Tensor, likeliest: Look | None = None) -> torch.Tensor:
        """The next tokens ``[batch]``; ``likeliest`` tells what an engine has found by the logits already."""
        found = None if self.processors or likeliest is None else likeliest()
        self.best, chosen = self.scores(tokens, logits).max(-1) if found is None else found
        return chosen

    def along(self, text: torch.Tensor, guess: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What is chosen after a text and after each token of a guess: ``[1, guessed + 1]``, and so ``best``.

        Parameters
        ----------
        text, guess : torch.Tensor
            int64 ``[1, length]`` and ``[1, guessed]``.
        logits : torch.Tensor
            Of the text's last token and of the guess, ``[1, guessed + 1, vocabulary]``.
        """
        after = torch.cat([text, guess], dim=-1)
        places = range(text.shape[1], after.shape[1] + 1)
        if self.processors:
            each = [self.scores(after[:, :end], logits[:, i]) for i, end in enumerate(places)]
            logits = torch.stack(each, dim=1)
        self.best, chosen = logits.max(-1)
        return chosen


def greedy(engine: Engine, prompt: Prompt, max_new_tokens: int, eos_token_ids: list[int]) -> Greedy:
    """The chooser of one generation, which does what the engine's generation_config says.

    Raises
    ------
    ValueError
        If the configuration asks for something else than the most probable token, one after the other.
    """
    settings = engine.generation_config
    if settings is None:
        return Greedy(LogitsProcessorList())
    check_settings(settings, engine)
    settings, length = copy.deepcopy(settings), prompt.input_ids.shape[1]
    settings.do_sample, settings.max_length = False, length + max_new_tokens
    ends = torch.tensor(eos_token_ids, device=prompt.input_ids.device) if eos_token_ids else None
    settings._eos_token_tensor = ends
    if ends is None:  # transformers' has nothing to make likelier then, and fails
        settings.exponential_decay_length_penalty = None
    maker: Any = _Maker(engine.config or PreTrainedConfig.from_dict({"vocab_size": engine.vocab_size}))
    processors = maker._get_logits_processor(
        settings,
        length,
        encoder_input_ids=prompt.input_ids,
        device=prompt.input_ids.device,
        model_kwargs={"attention_mask": prompt.attention_mask},
    )
    return Greedy(processors)


class _Maker(GenerationMixin):
    """As much of a model as transformers' function needs that makes the processors of a configuration."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config


def check_settings(settings: GenerationConfig, engine: Engine) -> None:
    """Refuse a configuration by which ``generate(..., do_sample=False)`` is no greedy decoding, or fails.

    Raises
    ------
    ValueError
        Naming the setting.
    """
    top_k = 50 if settings.top_k is None else settings.top_k
    asked = {  # by getattr: some are about to leave transformers
        "num_beams": (settings.num_beams or 1) > 1,
        "num_return_sequences": (settings.num_return_sequences or 1) > 1,
        "penalty_alpha": (getattr(settings, "penalty_alpha", None) or 0) > 0 and top_k > 1,
        "dola_layers": getattr(settings, "dola_layers", None) is not None,
        "constraints": getattr(settings, "constraints", None) is not None,
        "force_words_ids": getattr(settings, "force_words_ids", None) is not None,
        "guidance_scale": settings.guidance_scale not in (None, 1),
        "token_healing": bool(settings.token_healing),
        "is_assistant": bool(settings.is_assistant),
        "watermarking_config": isinstance(settings.watermarking_config, SynthIDTextWatermarkingConfig),
        "cache_implementation": settings.cache_implementation == "quantized",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ValueError(
                f"the generation_config of {engine.name} has {name}={getattr(settings, name)!r}, which is more than "
                f"greedy decoding: set model.generation_config.{name} = None, or give a sampler, with which none of "
                "its settings count: Sampler(do_sample=False) takes the most probable token."
            )
    words = settings.bad_words_ids or []
    biased = settings.sequence_bias or {}
    named = {
        "bad_words_ids": [token for word in words for token in word],
        "sequence_bias": [t for sequence in biased for t in (sequence[0] if isinstance(biased, list) else sequence)],
        "forced_bos_token_id": _ids(settings.forced_bos_token_id),
        "forced_eos_token_id": _ids(settings.forced_eos_token_id),
    }
    for name, tokens in named.items():
        if engine.vocab_size is not None and max(tokens, default=0) >= engine.vocab_size:
            raise ValueError(
                f"the generation_config of {engine.name} names token id {max(tokens)} in {name}: expected 0 to "
                f"{engine.vocab_size - 1}, the model's vocabulary. Correct model.generation_config.{name}."
            )


def _ids(given: Any) -> list[int]:
    return [] if given is None else list(given) if isinstance(given, Iterable) else [given]


def no_token(row: int, step: int, best: float) -> ValueError:
    """The error for a row of which no token can be chosen, since its best score is not finite."""
    return ValueError(
        f"row {row} has no token to choose at step {step}, its best score is {best}: either every token is banned "
        "(by the sampler or the model's generation_config: bad_words_ids, no_repeat_ngram_size, min_new_tokens, "
        "suppress_tokens, processors), or the model overflowed, which a wider dtype cures."
    )
