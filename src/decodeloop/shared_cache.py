"""A cache of fixed capacity that past and present share: the operator writes new positions where they belong.

Everything about a decode step is the same from step to step, shapes and addresses: it is bound once, and on CUDA
captured once and replayed. Each row's text starts at the beginning of its buffer, so a left-padded prompt is turned
into a right-padded one on the way in.
"""

from __future__ import annotations

import torch

from decodeloop.growing_cache import cache_shapes, check_tensors, empty_logits, present_name
from decodeloop.prompt import Prompt
from decodeloop.runner import Runner

BUCKET = 64  # capacities are multiples of it: attention kernels cost by capacity, and each one is captured anew
KEPT = 4  # so many sets of buffers are kept for the next request of the same size


class SharedCache:
    """Steps of a graph of ``exporter="gqa"``."""

    def __init__(self, runner: Runner, vocab_size: int, capacity: int) -> None:
        self.runner, self.vocab_size, self.least = runner, vocab_size, capacity
        self.shapes = cache_shapes(runner)
        self.steps: dict[tuple[int, int], DecodeStep] = {}

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of the prompt's rows."""
        self.prompt, self.rows, self.length = prompt, len(prompt.input_ids), 0
        self.padding = (prompt.attention_mask == 0).sum(-1)
        capacity = -(-max(capacity, self.least) // BUCKET) * BUCKET
        fitting = [size for rows, size in self.steps if rows == self.rows and capacity <= size <= 2 * capacity]
        key = self.rows, min(fitting, default=capacity)
        if key not in self.steps:
            while len(self.steps) >= KEPT:
                self.steps.pop(next(iter(self.steps)))
            self.steps[key] = DecodeStep(self.runner, self.shapes, *key, self.vocab_size)
        self.step = self.steps[key] = self.steps.pop(key)  # the latest one stands last

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
        if new == 1 and self.length:
            self.length += 1
            self.feeds = self.step.inputs
            return self.step.run(tokens)
        if self.length and self.rows > 1:  # the operator continues a batch one token at a time
            return torch.cat([self.read(tokens[:, i : i + 1], every).clone() for i in range(new)], dim=1)
        self.length += new
        logits = self._read_prompt(tokens)
        self.step.set_lengths(self.length - self.padding)
        return logits

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: what stands there is not read again before it is overwritten."""
        self.length -= count
        self.step.set_lengths(self.length - self.padding)

    def tensors(self) -> list[torch.Tensor]:
        """Copies of the filled part, flat and padded on the left, each ``[batch, heads, length, head size]``."""
        return [
            torch.stack(
                [row[:, : self.length].roll(padding, 1) for row, padding in zip(t, self.padding.tolist(), strict=True)]
            )
            for t in self.step.cache.values()
        ]

    def _read_prompt(self, tokens: torch.Tensor) -> torch.Tensor:
        runner, new = self.runner, tokens.shape[1]
        column = torch.arange(self.length, device=runner.device)
        first = self.length - new
        shift = (column[None, first:] + self.padding[:, None]).remainder(self.length) if not first else None
        given = {
            "input_ids": tokens if shift is None else tokens.gather(1, shift),
            "attention_mask": (column[None] < (self.length - self.padding)[:, None]).to(torch.int64),
            "position_ids": column[None, first:].expand(self.rows, -1),
        }
        given = {name: given[name].to(runner.dtype(name)).contiguous() for name in given if name in runner.inputs}
        logits = empty_logits(runner, self.rows, new, self.vocab_size)
        present = {present_name(name): tensor for name, tensor in self.step.cache.items()}
        runner.run(runner.bind(given | self.step.cache, {"logits": logits} | present))
        self.feeds = given | self.step.cache
        if logits.shape[1] == 1 or shift is None:
            return logits
        back = (column[None] - self.padding[:, None]).remainder(self.length)  # to the columns that they came from
        return logits.gather(1, back[..., None].expand(-1, -1, logits.shape[-1]))


class DecodeStep:
    """The buffers of one decode step for ``rows`` rows and a capacity, bound once."""

    def __init__(
        self, runner: Runner, shapes: dict[str, tuple[int, int]], rows: int, capacity: int, vocab_size: int
    ) -> None:
        def zeros(name: str, *shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=runner.dtype(name), device=runner.device)

        self.runner, self.capacity = runner, capacity
        self.cache = {name: zeros(name, rows, heads, capacity, size) for name, (heads, size) in shapes.items()}
        self.tokens, self.positions = zeros("input_ids", rows, 1), zeros("position_ids", rows, 1)
        self.mask = zeros("attention_mask", rows, capacity)  # its shape is the capacity, its sum a row's length
        self.logits = empty_logits(runner, rows, 1, vocab_size)
        self.inputs = {
            "input_ids": self.tokens,
            "attention_mask": self.mask,
            "position_ids": self.positions,
            **self.cache,
        }
        present = {present_name(name): tensor for name, tensor in self.cache.items()}
        self.binding = runner.bind(self.inputs, {"logits": self.logits} | present)
        self.options = None

    def set_lengths(self, lengths: torch.Tensor) -> None:
        """How many positions each row has, ``[rows]``."""
        self.positions.copy_(lengths[:, None] - 1)
        self.mask.copy_(torch.arange(self.capacity, device=self.mask.device)[None] < lengths[:, None])

    def run(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, ``[rows, 1]``: the logits ``[rows, 1, vocabulary]``, overwritten later."""
        self.tokens.copy_(tokens)
        self.positions.add_(1)
        self.mask.scatter_(1, self.positions, 1)
        if self.options is None:
            self.options = self.runner.capture(self.binding)
        else:
            self.runner.run(self.binding, self.options)
        return self.logits
