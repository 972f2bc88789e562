"""Checks of arguments, for all floors: imports nothing of the package."""

from __future__ import annotations

import operator
from numbers import Integral
from typing import Any


def is_count(value: Any, at_least: int = 0, at_most: int | None = None) -> bool:
    """Whether a value is a whole number in a range: Python's integers and NumPy's are, booleans are not."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and value >= at_least and (at_most is None or value <= at_most)


def check_count(name: str, value: Any, at_least: int = 0, at_most: int | None = None, *, note: str = "") -> int:
    """A whole number that a user gave, as a plain ``int``.

    Parameters
    ----------
    name : str
        The argument's, for the message.
    value : Any
        What was given.
    at_least, at_most : int
        The range, both ends included; None is no limit.
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
    expected = f"an int of {at_least} or more" if at_most is None else f"an int from {at_least} to {at_most}"
    raise ValueError(f"{name}={value!r}: expected {expected}{note and f', {note}'}.")
