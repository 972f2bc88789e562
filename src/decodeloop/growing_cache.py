"""A cache that each step makes one longer: two sets of buffers, past and present by turns."""

from __future__ import annotations

import math

import torch

from decodeloop.prompt import Prompt
from decodeloop.runner import Runner
from decodeloop.steps import check_capacity, no_room


class GrowingCache:
    """Steps of a graph whose ``present`` is its ``past`` with the new positions behind.

    The buffers are flat: a step binds the front part of one set as its past, and of the other, one step longer, as its
    present. Then the two change places.
    """

    def __init__(self, runner: Runner, vocab_size: int, capacity: int | None) -> None:
        self.runner, self.vocab_size, self.least = runner, vocab_size, capacity
        self.shapes = cache_shapes(runner)
        self.positions = 0  # of all rows together
        self.past, self.present = {}, {}

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of the prompt's rows."""
        self.prompt, self.rows, self.length = prompt, len(prompt.input_ids), 0
        check_capacity(self.least, prompt.input_ids.shape[1])
        capacity = max(capacity, self.least or 0)
        if self.rows * capacity > self.positions:
            self.past = self.present = {}  # let go of the old buffers before asking for new ones
            self.positions, asked = 0, self.rows * capacity
            self.past, self.present = self._allocate(asked), self._allocate(asked)
            self.positions = asked

    def load(self, tensors: list[torch.Tensor]) -> None:
        """Fill the cache with flat tensors, copied."""
        self.length = check_tensors(tensors, self.shapes, self.rows)
        for name, tensor in zip(self.shapes, tensors, strict=True):
            self._view(self.past, name).copy_(tensor)

    def read(self, tokens: torch.Tensor, every: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        runner, new = self.runner, tokens.shape[1]
        past = {name: self._view(self.past, name) for name in self.shapes}
        self.length += new
        present = {present_name(name): self._view(self.present, name) for name in self.shapes}
        given = {
            "input_ids": tokens,
            "attention_mask": self.prompt.mask(self.length),
            "position_ids": self.prompt.positions(self.length, new),
        }
        given = {name: given[name].to(runner.dtype(name)).contiguous() for name in given if name in runner.inputs}
        logits = empty_logits(runner, self.rows, new, self.vocab_size)
        runner.run(runner.bind(given | past, {"logits": logits} | present))
        self.past, self.present, self.feeds = self.present, self.past, given | past
        return logits

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: each head's text lies in one piece, so the rest has to be moved."""
        if count:
            kept = [tensor[:, :, : self.length - count] for tensor in self.tensors()]
            self.length -= count
            for name, tensor in zip(self.shapes, kept, strict=True):
                self._view(self.present, name).copy_(tensor)
            self.past, self.present = self.present, self.past

    def tensors(self) -> list[torch.Tensor]:
        """Views of the filled part, flat, each ``[batch, heads, length, head size]``."""
        return [self._view(self.past, name) for name in self.shapes]

    def _allocate(self, positions: int) -> dict[str, torch.Tensor]:
        return allocate(self.runner, {n: (positions * heads * size,) for n, (heads, size) in self.shapes.items()})

    def _view(self, buffers: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        heads, size = self.shapes[name]
        return buffers[name][: self.rows * heads * self.length * size].view(self.rows, heads, self.length, size)


def cache_shapes(runner: Runner) -> dict[str, tuple[int, int]]:
    """Name of each cache input to its (heads, head size), in the order of the graph.

    Raises
    ------
    ValueError
        If the graph leaves them open, so that no buffer can be made.
    """
    shapes = {n: (i.shape[1], i.shape[3]) for n, i in runner.inputs.items() if n.startswith("past_key_values.")}
    for name, shape in shapes.items():
        if not all(isinstance(size, int) for size in shape):
            raise ValueError(
                f"{name} has shape {runner.inputs[name].shape}: expected [batch, heads, length, head size] with "
                "numbers for heads and head size. Run that graph with the program that it was made for."
            )
    return shapes


def allocate(runner: Runner, shapes: dict[str, tuple[int, ...]], zeros: bool = False) -> dict[str, torch.Tensor]:
    """A buffer for each cache input.

    Raises
    ------
    MemoryError
        If there is no room for them: how many bytes were asked for.
    """
    make = torch.zeros if zeros else torch.empty
    try:
        return {name: make(shape, dtype=runner.dtype(name), device=runner.device) for name, shape in shapes.items()}
    except RuntimeError as error:  # torch's for the GPU is one; the CPU's has no type of its own
        asked = sum(math.prod(shape) * runner.dtype(name).itemsize for name, shape in shapes.items())
        raise no_room(runner.device, asked) from error


def present_name(name: str) -> str:
    """The output that belongs to a cache input: ``past_key_values.0.key`` gives ``present.0.key``."""
    return name.replace("past_key_values.", "present.")


def empty_logits(runner: Runner, rows: int, new: int, vocab_size: int) -> torch.Tensor:
    """What a step's logits are written to: ``[rows, new, vocabulary]``, or one position where the graph gives one."""
    positions = 1 if runner.outputs["logits"].shape[1] == 1 else new
    return torch.empty(rows, positions, vocab_size, dtype=runner.dtype("logits"), device=runner.device)


def check_tensors(tensors: list[torch.Tensor], shapes: dict[str, tuple[int, int]], rows: int) -> int:
    """The length of flat tensors that fit a graph's cache.

    Raises
    ------
    ValueError
        If they do not: another number of layers, heads or rows, or another head size.
    """
    expected = [(rows, heads, size) for heads, size in shapes.values()]
    got = [(t.shape[0], t.shape[1], t.shape[3]) for t in tensors]
    lengths = sorted({t.shape[2] for t in tensors})
    if got != expected or len(lengths) != 1:
        raise ValueError(
            f"past_key_values has {len(got) // 2} layers of (rows, heads, head size) {got[:1]} and lengths {lengths}; "
            f"this graph expects {len(expected) // 2} layers of {expected[:1]}, all of one length. Is it the cache of "
            "another model?"
        )
    return lengths[0]
