"""The buffers of a cache that grows by each step, outside of the graph that reads and writes them."""

from __future__ import annotations

import torch

from decodeloop.onnx_file import TYPES


class GrowingCache:
    """Two sets of flat buffers, past and present by turns. A present tensor is one step longer than its past."""

    def __init__(self, inputs: dict, outputs: dict, device: torch.device, capacity: int) -> None:
        self.names = [name for name in inputs if name.startswith("past_key_values.")]
        self.shapes = {name: inputs[name].shape for name in self.names}  # [batch, heads, length, head size]
        self.dtypes = {name: TYPES[inputs[name].type][0] for name in self.names}
        self.device, self.positions = device, capacity  # positions: of all rows together
        self.past, self.present = self._allocate(), self._allocate()

    def start(self, batch: int, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of ``batch`` rows."""
        self.rows, self.length = batch, 0
        if batch * capacity > self.positions:
            self.positions = batch * capacity
            self.past = self.present = {}  # let go of the old buffers before asking for new ones
            self.past, self.present = self._allocate(), self._allocate()

    def advance(self, length: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The views to bind for a step of ``length`` new positions: ``(past, present)``, by graph name."""
        past = {name: self._view(self.past, name, self.length) for name in self.names}
        self.length += length
        present = {present_name(name): self._view(self.present, name, self.length) for name in self.names}
        self.past, self.present = self.present, self.past
        return past, present

    def load(self, tensors: list[torch.Tensor]) -> None:
        """Fill the cache with flat tensors ``[batch, heads, length, head size]``, copied.

        Raises
        ------
        ValueError
            If they are not this graph's: another number of layers, heads or rows, or another head size.
        """
        expected = [(self.rows, self.shapes[name][1], self.shapes[name][3]) for name in self.names]
        got = [(t.shape[0], t.shape[1], t.shape[3]) for t in tensors]
        if got != expected or len({t.shape[2] for t in tensors}) != 1:
            raise ValueError(
                f"past_key_values has {len(got) // 2} layers of (rows, heads, head size) {got[:1]} and lengths "
                f"{sorted({t.shape[2] for t in tensors})}; this graph expects {len(expected) // 2} layers of "
                f"{expected[:1]}, all of one length. Is it the cache of another model?"
            )
        self.length = tensors[0].shape[2]
        for name, tensor in zip(self.names, tensors, strict=True):
            self._view(self.past, name, self.length).copy_(tensor)

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions: each head's text lies in one piece, so the rest has to be moved."""
        if count:
            kept = [tensor[:, :, : self.length - count] for tensor in self.tensors()]
            self.length -= count
            for name, tensor in zip(self.names, kept, strict=True):
                self._view(self.present, name, self.length).copy_(tensor)
            self.past, self.present = self.present, self.past

    def tensors(self) -> list[torch.Tensor]:
        """Views of the filled part, flat."""
        return [self._view(self.past, name, self.length) for name in self.names]

    def _allocate(self) -> dict[str, torch.Tensor]:
        return {
            name: torch.empty(self.positions * shape[1] * shape[3], dtype=self.dtypes[name], device=self.device)
            for name, shape in self.shapes.items()
        }

    def _view(self, buffers: dict[str, torch.Tensor], name: str, length: int) -> torch.Tensor:
        shape = (self.rows, self.shapes[name][1], length, self.shapes[name][3])
        return buffers[name][: shape[0] * shape[1] * shape[2] * shape[3]].view(shape)


def present_name(name: str) -> str:
    """The output that belongs to a cache input: ``past_key_values.0.key`` gives ``present.0.key``."""
    return name.replace("past_key_values.", "present.")
