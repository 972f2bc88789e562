"""A cache of fixed capacity that past and present share: the operator writes new positions where they belong.

Everything about a decode step is the same from step to step, shapes and addresses: it is bound once, and on CUDA
captured once and replayed. Each row's text starts at the beginning of its buffer, so a left-padded prompt is turned
into a right-padded one on the way in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from decodeloop.caches.buffer_pool import BufferPool
from decodeloop.caches.states import present_name
from decodeloop.decoding.engine import Likeliest
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.captured_step import CapturedStep
from decodeloop.engines.onnx_buffers import CacheTensor, allocate, check_tensors, empty_logits
from decodeloop.engines.onnx_session import OnnxSession


class SharedCache:
    """Steps of a graph of ``exporter="fused"``, or of onnxruntime-genai: a ``StepCache``."""

    def __init__(
        self,
        session: OnnxSession,
        shapes: dict[str, CacheTensor],
        vocab_size: int,
        capacity: int | None,
        max_positions: int | None,
    ) -> None:
        self.session, self.vocab_size = session, vocab_size
        self.shapes = shapes
        self.steps: BufferPool[DecodeStep] = BufferPool(capacity, max_positions)
        self.length = 0
        self.fed: dict[str, torch.Tensor] = {}

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for the prompt's rows, and for the first of ``capacity`` positions in all."""
        (self.batch, length), self.length, self.fed = prompt.input_ids.shape, 0, {}
        self.padding = (prompt.attention_mask == 0).sum(-1)
        self.most_padding = int(self.padding.max())
        self.step = self.steps.start(self._new_step, self.batch, length, capacity)
        self.step.clear()

    def load(self, tensors: Sequence[torch.Tensor], length: int) -> None:
        """Fill the cache with flat tensors of a text of so many positions, copied."""
        check_tensors(tensors, self.shapes, self.batch, length)
        self.length = length
        for buffer, tensor in zip(self.step.cache.values(), tensors, strict=True):
            for row, padding in enumerate(self.padding.tolist()):
                buffer[row, :, : max(self.length - padding, 0)] = tensor[row, :, padding:]
        self._set_length(self.length)

    def forward(self, tokens: torch.Tensor, all_logits: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        new, before = tokens.shape[1], self.length
        if before + new > self.step.capacity:
            self._grow(before + new)
        if new == 1 and before:
            if before <= self.most_padding:  # a row whose text has not begun stays at its first position
                self.step.set_lengths((before - self.padding).clamp(min=0))
            self.length += 1
            self.fed = self.step.inputs
            return self.step.run(tokens)
        if before and (self.batch > 1 or before <= self.most_padding):  # the operator continues one row, not a batch
            return torch.cat([self.forward(tokens[:, i : i + 1], all_logits).clone() for i in range(new)], dim=1)
        if before or not self.most_padding:
            first = before - int(self.padding[0]) if before else 0
            logits = self._run(tokens, first, before + new - self.padding)
            self._set_length(before + new)
            return logits
        return self._read_padded(tokens)

    def likeliest(self) -> Likeliest | None:
        """What the step that ran last has found, if it was one."""
        return self.step.likeliest()

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: what stands there is not read again before it is overwritten."""
        self._set_length(self.length - count)

    def tensors(self) -> list[torch.Tensor]:
        """Copies of the filled part, flat and padded on the left, each ``[batch, heads, length, head size]``."""
        padding = self.padding.tolist()
        return [
            torch.stack([row[:, : self.length].roll(count, 1) for row, count in zip(buffer, padding, strict=True)])
            for buffer in self.step.cache.values()
        ]

    def feeds(self) -> dict[str, torch.Tensor]:
        """The inputs of the step that ran last, by name."""
        return self.fed

    def _new_step(self, batch: int, capacity: int) -> DecodeStep:
        return DecodeStep(self.session, self.shapes, batch, capacity, self.vocab_size)

    def _set_length(self, length: int) -> None:
        self.length = length
        self.step.set_lengths(length - self.padding)

    def _grow(self, needed: int) -> None:
        old = self.step
        self.step = self.steps.grow(self._new_step, self.batch, needed, old.capacity)
        for name, buffer in self.step.cache.items():
            buffer[:, :, : self.length] = old.cache[name][:, :, : self.length]
        self._set_length(self.length)

    def _read_padded(self, tokens: torch.Tensor) -> torch.Tensor:
        """A left-padded prompt ``[batch, new]``, each row moved to the beginning of its buffer."""
        new = tokens.shape[1]
        lengths = (new - self.padding).clamp(min=0)  # 0: a row of which only padding is read for now
        column = torch.arange(new, device=tokens.device)[None]
        moved = tokens.gather(1, (column + self.padding[:, None]).remainder(new))
        if self.session.outputs["logits"].shape[1] != 1:
            logits = self._run(moved, 0, lengths.clamp(min=1))
            self._set_length(new)
            back = (column - self.padding[:, None]).remainder(new)  # to the columns that they came from
            return logits.gather(1, back[..., None].expand(-1, -1, logits.shape[-1]))
        # The graph gives the logits of one column, and the rows end in different ones. So the last token of each row
        # is left to a decode step. To let the graph pick each row's own would cost every step of every generation a
        # kernel or two more, and an operator that a CUDA graph can hold.
        if (longest := int(lengths.max())) > 1:
            self._run(moved[:, : longest - 1], 0, (lengths - 1).clamp(min=1))
        self.length = new
        self.step.set_lengths((lengths - 1).clamp(min=0))
        return self.step.run(tokens[:, -1:])

    def _run(self, tokens: torch.Tensor, first: int, lengths: torch.Tensor) -> torch.Tensor:
        """Run over tokens ``[batch, new]`` from position ``first`` on; then the rows have ``lengths`` ``[batch]``."""
        session, (batch, new) = self.session, tokens.shape
        position = torch.arange(first + new, device=session.device)[None]
        given = {
            "input_ids": tokens,
            "attention_mask": (position < lengths[:, None]).to(torch.int64),
            "position_ids": position[:, first:].expand(batch, -1),
        }
        given = {name: given[name].to(session.dtype(name)).contiguous() for name in given if name in session.inputs}
        logits = empty_logits(session, batch, new, self.vocab_size)
        present = {present_name(name): tensor for name, tensor in self.step.cache.items()}
        self.fed = given | self.step.cache
        session.run(session.bind(self.fed, {"logits": logits} | present))
        return logits


class DecodeStep(CapturedStep):
    """The buffers of one decode step for a batch and a capacity, bound once.

    Raises
    ------
    MemoryError
        If there is no room for them.
    """

    def __init__(
        self, session: OnnxSession, shapes: dict[str, CacheTensor], batch: int, capacity: int, vocab_size: int
    ) -> None:
        super().__init__(session.capture, batch, capacity, session.device)
        self.session = session
        sizes = {name: each.shape(batch, capacity) for name, each in shapes.items()}
        self.cache = allocate(session, sizes, zeros=True)
        # the mask's shape is the capacity, its sum a row's length
        self.mask = torch.zeros(batch, capacity, dtype=torch.int64, device=session.device)
        self.logits = empty_logits(session, batch, 1, vocab_size)
        inputs = {"input_ids": self.tokens, "attention_mask": self.mask, "position_ids": self.positions}
        self.inputs = {name: tensor for name, tensor in inputs.items() if name in session.inputs} | self.cache
        present = {present_name(name): tensor for name, tensor in self.cache.items()}
        self.binding = session.bind(self.inputs, {"logits": self.logits} | present)

    def clear(self) -> None:
        """Forget earlier text: a NaN of it, however it is masked, would spread."""
        for buffer in self.cache.values():
            buffer.zero_()

    def set_lengths(self, lengths: torch.Tensor) -> None:
        """How many positions each row has, ``[batch]``."""
        self.replayed = False
        self.positions.copy_(lengths[:, None] - 1)
        self.mask.copy_(torch.arange(self.capacity, device=self.mask.device)[None] < lengths[:, None])

    def compute(self) -> torch.Tensor:
        self.positions.add_(1)
        self.mask.scatter_(1, self.positions, 1)
        self.session.run(self.binding)
        return self.logits
