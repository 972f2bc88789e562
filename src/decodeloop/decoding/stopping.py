"""When a row is done: end-of-sequence tokens and stop strings; what fills it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StopStringCriteria

from decodeloop.checks import check_count
from decodeloop.decoding.engine import Engine

#: An id, several, ``"model"`` for the model's own, or none.
TokenIds = int | Sequence[int] | Literal["model"] | None
PadToken = int | Literal["model"] | None


@dataclass(frozen=True)
class Stopping:
    """What ends a row, checked once.

    Attributes
    ----------
    eos_token_ids : list of int
        May be empty: then only stop strings and the length end a row.
    pad_token_id : int
        Fills a row that ended before the others.
    stop_strings : transformers StopStringCriteria or None
    """

    eos_token_ids: list[int]
    pad_token_id: int
    stop_strings: StopStringCriteria | None = None

    @property
    def possible(self) -> bool:
        """Whether anything but the length can end a row."""
        return bool(self.eos_token_ids) or self.stop_strings is not None

    def done(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which rows of ``[batch, length]`` end with their last token: bool ``[batch]``."""
        last = tokens[:, -1]
        ended = torch.zeros_like(last, dtype=torch.bool)
        for token in self.eos_token_ids:  # not as a tensor: that would be sent to the GPU at each step
            ended |= last == token
        if self.stop_strings is not None:
            ended |= self.stop_strings(tokens, None)
        return ended


def stopping(
    engine: Engine,
    eos_token_id: TokenIds,
    pad_token_id: PadToken,
    stop_strings: Any = None,
    tokenizer: Any = None,
) -> Stopping:
    """Check the user's stop conditions against an engine's vocabulary and special tokens.

    Raises
    ------
    ValueError
        If an id is outside the vocabulary, or stop strings come without a tokenizer.
    """
    ends = _end_tokens(engine, eos_token_id)
    return Stopping(ends, _pad_token(engine, pad_token_id, ends), _stop_strings(stop_strings, tokenizer))


def _end_tokens(engine: Engine, eos_token_id: TokenIds) -> list[int]:
    if isinstance(eos_token_id, str):
        if eos_token_id != "model":
            raise ValueError(f'eos_token_id={eos_token_id!r}: expected "model", an int, a list of ints, or None.')
        eos_token_id = engine.eos_token_id
        if eos_token_id is None and engine.config is None:
            raise ValueError(
                f"{engine.name} does not say which token ends a text: give eos_token_id (None never stops)."
            )
    if eos_token_id is None:
        return []
    if isinstance(eos_token_id, torch.Tensor):
        eos_token_id = eos_token_id.tolist()
    ids = list(eos_token_id) if isinstance(eos_token_id, Iterable) else [eos_token_id]
    return [_check_token(engine, token, "eos_token_id") for token in ids]


def _pad_token(engine: Engine, pad_token_id: PadToken, ends: list[int]) -> int:
    if isinstance(pad_token_id, str):
        if pad_token_id != "model":
            raise ValueError(f'pad_token_id={pad_token_id!r}: expected "model", an int, or None.')
        pad_token_id = engine.pad_token_id
    if pad_token_id is None:
        return ends[0] if ends else 0
    return _check_token(engine, pad_token_id, "pad_token_id")


def _check_token(engine: Engine, token: Any, name: str) -> int:
    if engine.vocab_size is None:
        return check_count(name, token)
    return check_count(name, token, 0, engine.vocab_size - 1, what="an id", note="the model's vocabulary")


def _stop_strings(stop_strings: Any, tokenizer: Any) -> StopStringCriteria | None:
    if stop_strings is None:
        return None
    strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
    if not strings or not all(isinstance(string, str) and string for string in strings):
        raise ValueError(f"stop_strings={stop_strings!r}: expected a string or several, none of them empty.")
    if tokenizer is None:
        raise ValueError(f"stop_strings={stop_strings!r}: give the tokenizer too, tokenizer=..., to know their tokens.")
    return StopStringCriteria(tokenizer, strings)


class Watch:
    """Whether all rows have ended, seen without making a GPU wait for the host.

    The answer is copied to the host when it is there; it is looked at one step later, while the next one runs.
    """

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.seen = torch.zeros((), dtype=torch.bool, pin_memory=on_gpu)
        self.event = torch.cuda.Event() if on_gpu else None
        self.posted = False

    def post(self, ended: torch.Tensor) -> None:
        """Which rows have ended, bool ``[batch]``, as of now."""
        self.seen.copy_(ended.all(), non_blocking=True)
        self.posted = True
        if self.event is not None:
            self.event.record()

    def over(self) -> bool:
        """Whether they all had when it was posted last."""
        if self.posted and self.event is not None:
            self.event.synchronize()
        return self.posted and bool(self.seen)
