"""Checks of arguments, for all floors, and how a message shows what was given: imports nothing of the package."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch


def shown(value: Any) -> str:
    """A value as a message shows it: in one line, and cut where it is long.

    Examples
    --------
    >>> shown("x"), shown(torch.ones(2, 3)), len(shown(list(range(100))))
    ("'x'", 'Tensor [2, 3] of torch.float32', 80)
    """
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim:
        return f"{type(value).__name__} {list(value.shape)} of {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_count(value: Any, at_least: int = 0, at_most: int | None = None) -> bool:
    """Whether a value is a whole number in a range: Python's integers and NumPy's are, booleans are not."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and value >= at_least and (at_most is None or value <= at_most)


def is_sequence(value: Any) -> bool:
    """Whether a value has elements in an order; text counts as one element."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_real(value: Any) -> bool:
    """Whether a value is a finite number: Python's and NumPy's are, booleans are not."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def check_count(
    name: str, value: Any, at_least: int = 0, at_most: int | None = None, *, what: str = "an int", note: str = ""
) -> int:
    """A whole number that a user gave, as a plain ``int``.

    Parameters
    ----------
    name : str
        The argument's, for the message.
    value : Any
        What was given.
    at_least, at_most : int
        The range, both ends included; None is no limit.
    what : str
        What such a number is called.
    note : str
        Ends the message: what the limit is, or why it is.

    Raises
    ------
    ValueError
        If :func:`is_count` says no.

    Examples
    --------
    >>> import numpy as np
    >>> check_count("batch", np.int64(3), at_least=1)
    3
    >>> check_count("length", 7, at_most=6, note="the tokens of the cache")
    Traceback (most recent call last):
        ...
    ValueError: length=7: expected an int from 0 to 6, the tokens of the cache.
    """
    if is_count(value, at_least, at_most):
        return operator.index(value)
    expected = f"{what} of {at_least} or more" if at_most is None else f"{what} from {at_least} to {at_most}"
    raise ValueError(f"{name}={shown(value)}: expected {expected}{note and f', {note}'}.")


def check_choice(name: str, value: Any, *choices: Any, note: str = "") -> Any:
    """One of a few numbers, strings, or None, True and False: the choice itself, where NumPy's or an equal was given.

    Raises
    ------
    ValueError
        If it is none of them. A tensor is not, whatever it holds, and 1 is not True.

    Examples
    --------
    >>> check_choice("bits", 8.5, 8, 4)
    Traceback (most recent call last):
        ...
    ValueError: bits=8.5: expected 8 or 4.
    """
    plain = bool(value) if isinstance(value, np.bool_) else operator.index(value) if is_count(value) else value
    for choice in choices:
        if type(plain) is type(choice) and plain == choice:
            return choice
    expected = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
    raise ValueError(f"{name}={shown(value)}: expected {expected}{note and f', {note}'}.")


def given_path(name: str, value: Any) -> Path:
    """A path that a user gave.

    Raises
    ------
    ValueError
        If it is none: neither a string nor a path, empty, or with a null character.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError(f"{name}={shown(value)}: expected the path of a file.")
    return Path(text)


def check_sequence(name: str, value: Any, what: str, kind: type | tuple[type, ...] = object) -> Sequence[Any]:
    """A list or a tuple, and the like, of items of a kind; a string is none.

    Raises
    ------
    ValueError
        If it is none, or an item is of another kind.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{name}={shown(value)}: expected {what}.")
    for index, item in enumerate(value):
        if not isinstance(item, kind):
            raise ValueError(f"{name}[{index}]={shown(item)}: expected {what}.")
    return value


def check_dense(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose numbers can be read.

    Raises
    ------
    ValueError
        If it has none (device meta), or keeps them in another layout (sparse).
    """
    if tensor.is_meta or tensor.layout != torch.strided:
        what = "is on the device meta, without numbers" if tensor.is_meta else f"has the layout {tensor.layout}"
        raise ValueError(f"{name} {what}: expected a dense tensor on the CPU or on a GPU.")
    return tensor
