"""Buffers of fixed capacity, in buckets: which ones serve a request, and when larger ones are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from decodeloop.checks import check_count

T = TypeVar("T")
BUCKET = 64  # capacities are multiples of it: attention costs by capacity, and each one is captured anew
AHEAD = 256  # room for so many new tokens at first: a long answer makes the buffers grow when it comes to it
KEPT = 4  # so many sets of buffers are kept for the next request of the same size


def check_capacity(capacity: int | None, length: int) -> None:
    """Refuse a capacity that is none, or in which a prompt of ``length`` positions does not fit.

    Raises
    ------
    ValueError
    """
    if capacity is None:
        return
    if length > check_count("capacity", capacity, 1, note="or None"):
        raise ValueError(
            f"capacity={capacity} is smaller than the prompt, which has {length} positions: give a capacity of at "
            "least that, or leave it out, and the buffers grow as they are needed."
        )


def no_room(device: Any, asked: int) -> MemoryError:
    """The error for a cache of ``asked`` bytes that a device has no room for."""
    return MemoryError(
        f"no room on {device} for a cache of {asked:,} bytes ({asked / 2**30:.1f} GiB): ask for fewer rows, a shorter "
        "prompt, or fewer new tokens."
    )


class BufferPool(Generic[T]):
    """The sets of buffers of a decoder, by batch and capacity; the latest ones are kept.

    Parameters
    ----------
    min_capacity : int, optional
        The capacity that the user asked for: no set has less, and a prompt must fit.
    max_capacity : int, optional
        The model's positions: no set has more, for which a graph may have no rotation.
    """

    def __init__(self, min_capacity: int | None, max_capacity: int | None) -> None:
        check_capacity(min_capacity, 0)
        self.min_capacity, self.max_capacity = min_capacity, max_capacity
        self.kept: dict[tuple[int, int], T] = {}

    def start(self, make: Callable[[int, int], T], batch: int, length: int, capacity: int) -> T:
        """A set for a prompt of ``length`` positions, which will become at most ``capacity``.

        ``make(batch, capacity)`` allocates one. It is not kept: a method of the pool's owner would keep that alive.

        Raises
        ------
        ValueError
            If the user's capacity is smaller than the prompt.
        MemoryError
            If there is no room. What was kept is let go of first.
        """
        check_capacity(self.min_capacity, length)
        needed = min(capacity, length + AHEAD)
        return self._take(make, batch, needed, max(needed, self.min_capacity or 0))

    def grow(self, make: Callable[[int, int], T], batch: int, needed: int, before: int) -> T:
        """A set for ``needed`` positions, after one of ``before`` has become too small: twice as large if it may be."""
        return self._take(make, batch, needed, max(needed, 2 * before))

    def _take(self, make: Callable[[int, int], T], batch: int, needed: int, wanted: int) -> T:
        rounded = -(-wanted // BUCKET) * BUCKET
        capacity = max(needed, min(rounded, self.max_capacity or rounded))
        fitting = [size for kept_batch, size in self.kept if kept_batch == batch and capacity <= size <= 2 * capacity]
        key = batch, min(fitting, default=capacity)
        if key not in self.kept:
            while len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            try:
                self.kept[key] = make(*key)
            except MemoryError:
                self.kept.clear()  # a decoder that could not serve this request still serves a smaller one
                raise
        self.kept[key] = self.kept.pop(key)  # the latest one stands last
        return self.kept[key]
