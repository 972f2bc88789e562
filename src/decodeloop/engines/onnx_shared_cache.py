"""A cache of fixed capacity that past and present share: the operator writes new positions where they belong.

Everything about a decode step is the same from step to step, shapes and addresses: it is bound once, and on CUDA
captured once and replayed. Each row's text starts at the beginning of its buffer, so a left-padded prompt is turned
into a right-padded one on the way in.
"""

from __future__ import annotations

import torch

from decodeloop.caches.buffer_pool import Steps
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.onnx_buffers import allocate, cache_shapes, check_tensors, empty_logits, present_name
from decodeloop.engines.onnx_session import Runner


class SharedCache:
    """Steps of a graph of ``exporter="gqa"``."""

    def __init__(self, runner: Runner, vocab_size: int, capacity: int | None) -> None:
        self.runner, self.vocab_size = runner, vocab_size
        self.shapes = cache_shapes(runner)
        self.steps = Steps(self._new_step, capacity)

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for the prompt's rows, and for the first of ``capacity`` positions in all."""
        self.prompt, (self.rows, length), self.length = prompt, prompt.input_ids.shape, 0
        self.padding = (prompt.attention_mask == 0).sum(-1)
        self.padded = bool(self.padding.any())
        self.step: DecodeStep = self.steps.start(self.rows, length, capacity)

    def load(self, tensors: list[torch.Tensor]) -> None:
        """Fill the cache with flat tensors, copied."""
        self.length = check_tensors(tensors, self.shapes, self.rows)
        for buffer, tensor in zip(self.step.cache.values(), tensors, strict=True):
            for row, padding in enumerate(self.padding.tolist()):
                buffer[row, :, : self.length - padding] = tensor[row, :, padding:]
        self.step.set_lengths(self.length - self.padding)

    def read(self, tokens: torch.Tensor, every: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""
        new = tokens.shape[1]
        if self.length + new > self.step.capacity:
            self._grow(self.length + new)
        if new == 1 and self.length:
            self.length += 1
            self.feeds = self.step.inputs
            return self.step.run(tokens)
        if self.length and self.rows > 1:  # the operator continues a batch one token at a time
            return torch.cat([self.read(tokens[:, i : i + 1], every).clone() for i in range(new)], dim=1)
        return self._read_padded(tokens) if self.padded else self._read(tokens)

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: what stands there is not read again before it is overwritten."""
        self.length -= count
        self.step.set_lengths(self.length - self.padding)

    def reorder(self, rows: torch.Tensor) -> None:
        """Let row ``i`` be what row ``rows[i]`` was."""
        for buffer in self.step.cache.values():
            buffer[:, :, : self.length] = buffer[rows, :, : self.length]

    def tensors(self) -> list[torch.Tensor]:
        """Copies of the filled part, flat and padded on the left, each ``[batch, heads, length, head size]``."""
        return [
            torch.stack(
                [row[:, : self.length].roll(padding, 1) for row, padding in zip(t, self.padding.tolist(), strict=True)]
            )
            for t in self.step.cache.values()
        ]

    def _new_step(self, rows: int, capacity: int) -> DecodeStep:
        return DecodeStep(self.runner, self.shapes, rows, capacity, self.vocab_size)

    def _grow(self, needed: int) -> None:
        old = self.step
        self.step = self.steps.grow(self.rows, needed, old.capacity)
        for name, buffer in self.step.cache.items():
            buffer[:, :, : self.length] = old.cache[name][:, :, : self.length]
        self.step.set_lengths(self.length - self.padding)

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Several tokens of rows without padding, in one run."""
        first, self.length = self.length, self.length + tokens.shape[1]
        return self._run(tokens, first, self.length - self.padding)

    def _read_padded(self, tokens: torch.Tensor) -> torch.Tensor:
        """A padded prompt: its rows moved to the left; and where they end apart, their last tokens in a second run."""
        length = tokens.shape[1]
        lengths = length - self.padding
        column = torch.arange(length, device=tokens.device)[None]
        moved = tokens.gather(1, (column + self.padding[:, None]).remainder(length))
        self.length = length
        if self.runner.outputs["logits"].shape[1] != 1:
            logits = self._run(moved, 0, lengths)
            self.step.set_lengths(lengths)
            back = (column - self.padding[:, None]).remainder(length)  # to the columns that they came from
            return logits.gather(1, back[..., None].expand(-1, -1, logits.shape[-1]))
        # the graph gives the logits of the last column, where only the longest row ends
        self._run(moved[:, : int(lengths.max()) - 1] if length > 1 else moved, 0, (lengths - 1).clamp(min=1))
        self.step.set_lengths(lengths - 1)
        return self.step.run(tokens[:, -1:])

    def _run(self, tokens: torch.Tensor, first: int, lengths: torch.Tensor) -> torch.Tensor:
        runner, (rows, new) = self.runner, tokens.shape
        column = torch.arange(first + new, device=runner.device)[None]
        given = {
            "input_ids": tokens,
            "attention_mask": (column < lengths[:, None]).to(torch.int64),
            "position_ids": column[:, first:].expand(rows, -1),
        }
        given = {name: given[name].to(runner.dtype(name)).contiguous() for name in given if name in runner.inputs}
        logits = empty_logits(runner, rows, new, self.vocab_size)
        present = {present_name(name): tensor for name, tensor in self.step.cache.items()}
        self.feeds = given | self.step.cache
        runner.run(runner.bind(self.feeds, {"logits": logits} | present))
        self.step.set_lengths(lengths)
        return logits


class DecodeStep:
    """The buffers of one decode step for ``rows`` rows and a capacity, bound once, and the step's CUDA graph.

    Raises
    ------
    MemoryError
        If there is no room for them.
    """

    WARM_UP = 2  # steps before the capture, in which onnxruntime lays out its memory

    def __init__(
        self, runner: Runner, shapes: dict[str, tuple[int, int]], rows: int, capacity: int, vocab_size: int
    ) -> None:
        self.runner, self.capacity = runner, capacity
        sizes = {name: (rows, heads, capacity, size) for name, (heads, size) in shapes.items()}
        self.cache = allocate(runner, sizes, zeros=True)
        self.tokens, self.positions = (torch.zeros(rows, 1, dtype=torch.int64, device=runner.device) for _ in range(2))
        # the mask's shape is the capacity, its sum a row's length
        self.mask = torch.zeros(rows, capacity, dtype=torch.int64, device=runner.device)
        self.logits = empty_logits(runner, rows, 1, vocab_size)
        inputs = {"input_ids": self.tokens, "attention_mask": self.mask, "position_ids": self.positions}
        self.inputs = {name: tensor for name, tensor in inputs.items() if name in runner.inputs} | self.cache
        present = {present_name(name): tensor for name, tensor in self.cache.items()}
        self.binding = runner.bind(self.inputs, {"logits": self.logits} | present)
        self.graph, self.steps = None, 0

    def set_lengths(self, lengths: torch.Tensor) -> None:
        """How many positions each row has, ``[rows]``."""
        self.positions.copy_(lengths[:, None] - 1)
        self.mask.copy_(torch.arange(self.capacity, device=self.mask.device)[None] < lengths[:, None])

    def run(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, ``[rows, 1]``: the logits ``[rows, 1, vocabulary]``, overwritten later."""
        self.tokens.copy_(tokens)
        if self.graph is not None:
            self.graph.replay()
            return self.logits
        self._step()
        self.steps += 1
        if self.steps == self.WARM_UP and self.runner.capture.wanted:
            self.graph = self.runner.capture(self._step, lambda: self.positions.sub_(1), self.logits)
        return self.logits

    def _step(self) -> None:
        self.positions.add_(1)
        self.mask.scatter_(1, self.positions, 1)
        self.runner.run(self.binding)
