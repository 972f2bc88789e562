"""When a row is done: end-of-sequence tokens, stop strings and time; what fills it afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import MaxTimeCriteria, PreTrainedTokenizerBase, StoppingCriteria, StopStringCriteria

from decodeloop.checks import check_count, check_dense, is_count, shown
from decodeloop.decoding.engine import Engine
from decodeloop.decoding.greedy import no_token

#: An id, several, ``"model"`` for the model's own, or none.
TokenIds = int | Sequence[int] | Literal["model"] | None
PadToken = int | Literal["model"] | None


@dataclass(frozen=True)
class Stopping:
    """What ends a row, checked once.

    Attributes
    ----------
    eos_token_ids : list of int
        May be empty: then only the criteria and the length end a row.
    pad_token_id : int
        Fills a row that ended before the others.
    criteria : tuple of transformers StoppingCriteria
        Stop strings, and the time.
    """

    eos_token_ids: list[int]
    pad_token_id: int
    criteria: tuple[StoppingCriteria, ...] = ()

    @property
    def possible(self) -> bool:
        """Whether anything but the length can end a row."""
        return bool(self.eos_token_ids or self.criteria)

    def done(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which rows of ``[batch, length]`` end with their last token: bool ``[batch]``."""
        last = tokens[:, -1]
        ended = torch.zeros_like(last, dtype=torch.bool)
        for token in self.eos_token_ids:  # not as a tensor: that would be sent to the GPU at each step
            ended |= last == token
        for criterion in self.criteria:
            ended |= criterion(tokens, None)
        return ended


def stopping(
    engine: Engine,
    eos_token_id: TokenIds,
    pad_token_id: PadToken,
    stop_strings: Any = None,
    tokenizer: Any = None,
) -> Stopping:
    """Check the user's stop conditions against an engine's vocabulary; what is not given is the checkpoint's.

    Raises
    ------
    ValueError
        If an id is outside the vocabulary, or stop strings come without a tokenizer.
    """
    ends, settings = end_tokens(engine, eos_token_id), engine.generation_config
    criteria: list[StoppingCriteria] = []
    if stop_strings is not None:
        criteria.append(_stop_strings(stop_strings, tokenizer))
    elif settings is not None and settings.stop_strings:
        criteria.append(_stop_strings(settings.stop_strings, tokenizer, f"{engine.name}'s generation_config: "))
    if settings is not None and settings.max_time is not None:
        criteria.append(MaxTimeCriteria(settings.max_time))
    return Stopping(ends, _pad_token(engine, pad_token_id, ends), tuple(criteria))


def end_tokens(engine: Engine, eos_token_id: TokenIds) -> list[int]:
    """The ids that end a row. The checkpoint's own count where they are tokens at all: another can never come.

    Raises
    ------
    ValueError
        If an id that was given is outside the vocabulary, or the engine has none of its own and none is given.
    """
    if isinstance(eos_token_id, str):
        if eos_token_id != "model":
            raise ValueError(f'eos_token_id={eos_token_id!r}: expected "model", an int, a list of ints, or None.')
        if engine.generation_config is None:
            raise ValueError(
                f"{engine.name} does not say which token ends a text: give eos_token_id (None never stops)."
            )
        return [int(token) for token in _listed(engine.generation_config.eos_token_id) if _known(engine, token)]
    return [_check_token(engine, token, "eos_token_id") for token in _listed(eos_token_id, "eos_token_id")]


def _pad_token(engine: Engine, pad_token_id: PadToken, ends: list[int]) -> int:
    if isinstance(pad_token_id, str):
        if pad_token_id != "model":
            raise ValueError(f'pad_token_id={pad_token_id!r}: expected "model", an int, or None.')
        own: Any = engine.generation_config and engine.generation_config.pad_token_id
        pad_token_id = own if _known(engine, own) else None
    if pad_token_id is None:
        return ends[0] if ends else 0
    return _check_token(engine, pad_token_id, "pad_token_id")


def _listed(ids: Any, name: str = "ids") -> list[Any]:
    """One id, several, or none, as a list; tensors and arrays too."""
    if isinstance(ids, torch.Tensor):
        check_dense(name, ids)
    if isinstance(ids, torch.Tensor | np.ndarray):
        ids = ids.tolist()
    if ids is None:
        return []
    return list(ids) if isinstance(ids, Iterable) else [ids]


def _known(engine: Engine, token: Any) -> bool:
    """Whether an id of a checkpoint's configuration is in the vocabulary: published ones have -1, and larger ones."""
    return is_count(token, 0, None if engine.vocab_size is None else engine.vocab_size - 1)


def _check_token(engine: Engine, token: Any, name: str) -> int:
    if engine.vocab_size is None:
        return check_count(name, token)
    return check_count(name, token, 0, engine.vocab_size - 1, what="an id", note="the model's vocabulary")


def _stop_strings(given: Any, tokenizer: Any, whose: str = "") -> StopStringCriteria:
    strings = [given] if isinstance(given, str) else _listed(given, "stop_strings")
    if not strings or not all(isinstance(string, str) and string for string in strings):
        raise ValueError(f"{whose}stop_strings={shown(given)}: expected a string or several, none of them empty.")
    if tokenizer is None:
        raise ValueError(
            f"{whose}stop_strings={shown(given)}: give the tokenizer too, tokenizer=..., to know their tokens."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer={shown(tokenizer)}: expected the model's tokenizer, of transformers.")
    return StopStringCriteria(tokenizer, strings)


class Watch:
    """Whether all rows have ended, and whether each had a token to choose, without making a GPU wait for the host.

    What a step gave is copied to the host when it is there, on a stream of its own, for which the next step does not
    wait; it is looked at one step later, while that one runs.
    """

    def __init__(self, batch: int, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self.seen = torch.zeros(batch, dtype=torch.bool, pin_memory=self.on_gpu)
        self.best: torch.Tensor | None = None
        self.ended, self.step = [False] * batch, -1

    def post(self, ended: torch.Tensor, best: torch.Tensor | None) -> None:
        """Which rows have ended as of now, bool ``[batch]``, and the scores of the tokens that they were given.

        No scores: somebody has looked at them already.
        """
        self.step += 1
        self.posted = ended, best  # kept until they are copied
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            self.seen.copy_(ended, non_blocking=True)
            if best is not None:
                if self.best is None or self.best.dtype != best.dtype:  # a captured step's come in one of their own
                    self.best = torch.empty(best.shape, dtype=best.dtype, pin_memory=self.on_gpu)
                self.best.copy_(best, non_blocking=True)

    def over(self) -> bool:
        """Whether all rows had ended when it was posted last.

        Raises
        ------
        ValueError
            If a row that had not ended was given a token whose score is not finite.
        """
        if self.step < 0:
            return False
        if self.stream is not None:
            self.stream.synchronize()
        before, self.ended = self.ended, self.seen.tolist()
        if self.best is not None:
            for row, score in enumerate(self.best.tolist()):
                if not (before[row] or math.isfinite(score)):
                    raise no_token(row, self.step, score)
        return all(self.ended)
