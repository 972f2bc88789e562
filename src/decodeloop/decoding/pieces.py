"""Tokens to text while they come: whole characters alone, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from decodeloop.checks import check_count, check_dense, check_sequence, shown


def text_pieces(
    tokenizer: Any, tokens: Iterable[torch.Tensor | int], stop_strings: str | Sequence[str] = ()
) -> Iterator[str]:
    """The text of a stream of tokens, in pieces that can be shown at once: put together, they are the text.

    A token may hold a part of a character's bytes, or the beginning of a stop string. Such an end is held back until
    more tokens tell what it is. Special tokens are left out.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        The model's.
    tokens : iterable of int, or of int tensors ``[1]``
        Such as :func:`decodeloop.stream` gives for one row.
    stop_strings : str or sequence of str
        Texts before which the text ends, wherever they begin. No further token is asked for then. The ``stop_strings``
        of :func:`decodeloop.generate` end a row at the same token, which they leave in the text.

    Returns
    -------
    iterator of str
        None of the pieces is empty.

    Raises
    ------
    ValueError
        If the tokenizer cannot decode, a stop string is empty, or a step is no token id, or has several rows.

    Examples
    --------
    >>> import decodeloop
    >>> tokenizer = decodeloop.load(device="cpu").tokenizer
    >>> tokens = tokenizer("# 日本 END of it").input_ids
    >>> list(decodeloop.text_pieces(tokenizer, tokens, stop_strings="END"))
    ['#', ' ', '日', '本', ' ']
    """
    if not callable(getattr(tokenizer, "decode", None)):
        raise ValueError(f"tokenizer={shown(tokenizer)}: expected the model's tokenizer, of transformers.")
    stops = [stop_strings] if isinstance(stop_strings, str) else check_sequence("stop_strings", stop_strings, _EXPECTED)
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"stop_strings={shown(stop_strings)}: expected {_EXPECTED}.")
    if not isinstance(tokens, Iterable):
        raise ValueError(f"tokens={shown(tokens)}: expected token ids, as decodeloop.stream gives them.")
    return _pieces(tokenizer, tokens, stops)


_EXPECTED = "a string or several, none of them empty"


def _pieces(tokenizer: Any, tokens: Iterable[torch.Tensor | int], stops: Sequence[str]) -> Iterator[str]:
    seen: list[int] = []
    text, given = "", 0
    for token in tokens:
        seen.append(_one(token))
        text = tokenizer.decode(seen, skip_special_tokens=True)
        found = [place for stop in stops if (place := text.find(stop)) >= 0]
        if found:
            text = text[: min(found)]
            break
        ready = _ready(text, stops)
        if len(ready) > given:
            yield ready[given:]
            given = len(ready)
    if len(text) > given:
        yield text[given:]


def _ready(text: str, stops: Sequence[str]) -> str:
    """The text without an end that later tokens may change: a character in part, or the beginning of a stop string."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    begun = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: len(text) - max(begun, default=0)]


def _one(token: torch.Tensor | int) -> int:
    if isinstance(token, torch.Tensor) and token.numel() != 1:
        raise ValueError(f"a step has {token.numel()} tokens: expected one. Take row i of each step: tokens[i].")
    plain = check_dense("tokens", token).item() if isinstance(token, torch.Tensor) else token
    return check_count("a token", plain, 0, 2**31 - 1, what="an id")
