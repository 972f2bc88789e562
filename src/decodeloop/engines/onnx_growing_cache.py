"""A cache that each step makes one longer: two sets of buffers, past and present by turns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from decodeloop.caches.buffer_pool import check_capacity
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.onnx_buffers import allocate, check_tensors, empty_logits, present_name
from decodeloop.engines.onnx_session import OnnxSession


class GrowingCache:
    """Steps of a graph whose ``present`` is its ``past`` with the new positions behind: a ``StepCache``.

    The buffers are flat: a step binds the front part of one set as its past, and of the other, one step longer, as its
    present. Then the two change places.
    """

    def __init__(
        self, session: OnnxSession, shapes: dict[str, tuple[int, int]], vocab_size: int, capacity: int | None
    ) -> None:
        self.session, self.vocab_size, self.min_capacity = session, vocab_size, capacity
        self.shapes = shapes
        self.positions = self.length = 0  # positions: room of all rows together
        self.past: dict[str, torch.Tensor] = {}
        self.present: dict[str, torch.Tensor] = {}
        self.fed: dict[str, torch.Tensor] = {}

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of the prompt's rows."""
        self.batch, self.length = len(prompt.input_ids), 0
        check_capacity(self.min_capacity, prompt.input_ids.shape[1])
        capacity = max(capacity, self.min_capacity or 0)
        self.fed, self.seen = {}, 0
        if self.batch * capacity > self.positions:
            self.past = self.present = {}  # let go of the old buffers before asking for new ones
            self.positions, asked = 0, self.batch * capacity
            self.past, self.present = self._allocate(asked), self._allocate(asked)
            self.positions = asked
        self.mask, self.position_ids = prompt.mask(capacity), prompt.positions(capacity, capacity)

    def load(self, tensors: Sequence[torch.Tensor]) -> None:
        """Fill the cache with flat tensors, copied."""
        self.length = check_tensors(tensors, self.shapes, self.batch)
        for view, tensor in zip(self.tensors(), tensors, strict=True):
            view.copy_(tensor)

    def forward(self, tokens: torch.Tensor, all_logits: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        session, new, room = self.session, tokens.shape[1], self.mask.shape[1] - self.length
        if new > room:  # what is bound by address is not checked again
            raise ValueError(f"{new} tokens do not fit in a cache that has room for {room} more.")
        before, self.seen = self._filled(), self.length
        self.length += new
        shapes = before | {present_name(name): shape for name, shape in self._filled().items()}
        given = {
            "input_ids": tokens,
            "attention_mask": self.mask[:, : self.length],
            "position_ids": self.position_ids[:, self.length - new : self.length],
        }
        given = {name: given[name].to(session.dtype(name)).contiguous() for name in given if name in session.inputs}
        logits = empty_logits(session, self.batch, new, self.vocab_size)
        present = {present_name(name): buffer for name, buffer in self.present.items()}
        session.run(session.bind(given | self.past, {"logits": logits} | present, shapes))
        self.fed = given
        self.past, self.present = self.present, self.past
        return logits

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the last step, by name; its past is the front of what the cache holds now."""
        if not self.fed:
            return {}
        return self.fed | {n: t[:, :, : self.seen] for n, t in zip(self.shapes, self.tensors(), strict=True)}

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: each head's text lies in one piece, so the rest has to be moved."""
        if count:
            kept = [tensor[:, :, : self.length - count] for tensor in self.tensors()]
            self.length -= count
            self.past, self.present = self.present, self.past
            for view, tensor in zip(self.tensors(), kept, strict=True):
                view.copy_(tensor)

    def tensors(self) -> list[torch.Tensor]:
        """Views of the filled part, flat, each ``[batch, heads, length, head size]``."""
        return [self.past[name][: math.prod(shape)].view(shape) for name, shape in self._filled().items()]

    def _allocate(self, positions: int) -> dict[str, torch.Tensor]:
        return allocate(self.session, {n: (positions * heads * size,) for n, (heads, size) in self.shapes.items()})

    def _filled(self) -> dict[str, tuple[int, ...]]:
        return {name: (self.batch, heads, self.length, size) for name, (heads, size) in self.shapes.items()}
