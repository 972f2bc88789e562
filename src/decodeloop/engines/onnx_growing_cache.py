"""A cache that each step makes one longer: two sets of buffers, past and present by turns.

States of fixed size, which each step replaces, lie in such buffers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from decodeloop.caches.buffer_pool import check_capacity
from decodeloop.caches.states import present_name
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.onnx_buffers import CacheTensor, allocate, check_tensors, empty_logits
from decodeloop.engines.onnx_session import OnnxSession


class GrowingCache:
    """Steps of a graph whose ``present`` is its ``past`` with the new positions behind: a ``StepCache``.

    The buffers are flat: a step binds the front part of one set as its past, and of the other, one step longer, as its
    present. Then the two change places.
    """

    def __init__(
        self, session: OnnxSession, shapes: dict[str, CacheTensor], vocab_size: int, capacity: int | None
    ) -> None:
        self.session, self.vocab_size, self.min_capacity = session, vocab_size, capacity
        self.shapes = shapes
        self.fixed = [name for name, each in shapes.items() if each.grows is None]
        self.sequential = session.inputs["input_ids"].shape[1] == 1
        self.positions = self.rows = self.length = 0  # positions: room of all rows together
        self.past: dict[str, torch.Tensor] = {}
        self.present: dict[str, torch.Tensor] = {}
        self.fed: dict[str, torch.Tensor] = {}

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of the prompt's rows."""
        self.batch, self.length, self.rewindable = len(prompt.input_ids), 0, 0
        check_capacity(self.min_capacity, prompt.input_ids.shape[1])
        capacity = max(capacity, self.min_capacity or 0)
        self.fed, self.seen = {}, 0
        if self.batch * capacity > self.positions or (self.fixed and self.batch > self.rows):
            self.past = self.present = {}  # let go of the old buffers before asking for new ones
            self.positions, asked = 0, self.batch * capacity
            self.past, self.present = self._allocate(asked), self._allocate(asked)
            self.positions, self.rows = asked, self.batch
        for name in self.fixed:  # nothing is read yet
            self.past[name].zero_()
        self.mask, self.position_ids = prompt.mask(capacity), prompt.positions(capacity, capacity)

    def load(self, tensors: Sequence[torch.Tensor], length: int) -> None:
        """Fill the cache with flat tensors of a text of so many positions, copied."""
        check_tensors(tensors, self.shapes, self.batch, length)
        self.length = length
        for view, tensor in zip(self.tensors(), tensors, strict=True):
            view.copy_(tensor)

    def forward(self, tokens: torch.Tensor, all_logits: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        session, new, room = self.session, tokens.shape[1], self.mask.shape[1] - self.length
        if new > room:  # what is bound by address is not checked again
            raise ValueError(f"{new} tokens do not fit in a cache that has room for {room} more.")
        if self.sequential and new > 1:
            columns = [self.forward(column, all_logits).clone() for column in tokens.split(1, dim=1)]
            return torch.cat(columns, dim=1) if all_logits else columns[-1]
        before, self.seen, self.rewindable = self._filled(), self.length, new
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

    def likeliest(self) -> None:
        """None: nothing is looked for."""

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the last step, by name; its past is the front of what the cache holds now."""
        if not self.fed:
            return {}
        shapes = {name: each.shape(self.batch, self.seen) for name, each in self.shapes.items()}
        before = dict(zip(self.shapes, self.tensors(), strict=True))
        for name, each in self.shapes.items():
            if each.grows is None:  # it was replaced, and what it was is in the other set
                before[name] = self.present[name][: math.prod(shapes[name])].view(shapes[name])
            else:
                before[name] = before[name].narrow(each.grows, 0, self.seen)
        return self.fed | before

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: each head's text lies in one piece, so the rest has to be moved.

        Raises
        ------
        ValueError
            If a state of fixed size would have to go back further than the step before, which the other set still has.
        """
        if not count:
            return
        if self.fixed and count != self.rewindable:
            raise ValueError(f"a state that each token replaces cannot be rewound by {count} tokens: read them again.")
        kept = [
            tensor if each.grows is None else tensor.narrow(each.grows, 0, self.length - count)
            for tensor, each in zip(self.tensors(), self.shapes.values(), strict=True)
        ]
        self.length, self.rewindable = self.length - count, 0
        self.past, self.present = self.present, self.past
        for view, tensor, each in zip(self.tensors(), kept, self.shapes.values(), strict=True):
            if each.grows is not None:
                view.copy_(tensor)

    def tensors(self) -> list[torch.Tensor]:
        """Views of the filled part, flat, each ``[batch, heads, length, head size]`` or a state's shape."""
        return [self.past[name][: math.prod(shape)].view(shape) for name, shape in self._filled().items()]

    def _allocate(self, positions: int) -> dict[str, torch.Tensor]:
        rows = {name: self.batch if each.grows is None else positions for name, each in self.shapes.items()}
        sizes = {name: math.prod(each.shape(rows[name], 1)) for name, each in self.shapes.items()}
        return allocate(self.session, {name: (size,) for name, size in sizes.items()})

    def _filled(self) -> dict[str, tuple[int, ...]]:
        return {name: each.shape(self.batch, self.length) for name, each in self.shapes.items()}
