"""Buffers that a session's cache inputs and outputs are bound to: their names, shapes, and room for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from decodeloop.caches.buffer_pool import no_room
from decodeloop.caches.states import GROWING
from decodeloop.engines.onnx_session import OnnxSession


@dataclass(frozen=True)
class CacheTensor:
    """Sizes of one tensor of a cache, without its rows; ``grows`` is the dimension that is as long as the text."""

    sizes: tuple[int, ...]
    grows: int | None

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """``[batch, heads, length, head size]``, or whatever the sizes say."""
        return batch, *(length if dim == self.grows else size for dim, size in enumerate(self.sizes, 1))


def cache_shapes(
    session: OnnxSession, heads: int | None = None, head_size: int | None = None
) -> dict[str, CacheTensor]:
    """Name of each cache input to its sizes, in the order of the graph: layer by layer, in each the keys first.

    ``heads`` and ``head_size`` are for a graph that leaves its own open.

    Raises
    ------
    ValueError
        If neither says, so that no buffer can be made.
    """
    shapes: dict[str, CacheTensor] = {}
    keyed = (name for name in session.inputs if name.startswith("past_key_values."))
    for name in sorted(keyed, key=_by_layer):
        own = session.inputs[name].shape
        kv_heads = own[1] if isinstance(own[1], int) else heads
        size = own[-1] if isinstance(own[-1], int) else head_size
        if len(own) != 4 or kv_heads is None or size is None:
            raise ValueError(
                f"{name} has shape {own}: expected [batch, heads, length, head size] with numbers for heads and head "
                "size, or the model's config.json or genai_config.json beside the graph. Put it there."
            )
        shapes[name] = CacheTensor((kv_heads, 0, size), 2)
    others = [name for name in session.inputs if name.startswith("past_states.")]
    if not others:
        return shapes
    for name in others:
        grows, own = GROWING.get(name.rpartition(".")[2]), session.inputs[name].shape
        sizes = tuple(0 if dim == grows else size for dim, size in enumerate(own) if dim)
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(f"{name} has shape {own}: expected [batch, ...] with numbers for all that does not grow.")
        shapes[name] = CacheTensor(sizes, grows)
    return {name: shapes[name] for name in session.inputs if name in shapes}


def _by_layer(name: str) -> str:
    """A key that sorts layer 10 behind layer 9."""
    return re.sub(r"\d+", lambda number: number[0].zfill(9), name)


def allocate(
    session: OnnxSession, shapes: Mapping[str, tuple[int, ...]], zeros: bool = False
) -> dict[str, torch.Tensor]:
    """A buffer for each cache input.

    Raises
    ------
    MemoryError
        If there is no room for them: how many bytes were asked for.
    """
    make = torch.zeros if zeros else torch.empty
    try:
        return {name: make(shape, dtype=session.dtype(name), device=session.device) for name, shape in shapes.items()}
    except RuntimeError as error:  # torch's for the GPU is one; the CPU's has no type of its own
        asked = sum(math.prod(shape) * session.dtype(name).itemsize for name, shape in shapes.items())
        raise no_room(session.device, asked) from error


def empty_logits(session: OnnxSession, batch: int, new: int, vocab_size: int) -> torch.Tensor:
    """What a step's logits are written to: ``[batch, new, vocabulary]``, or one position where the graph gives one."""
    positions = 1 if session.outputs["logits"].shape[1] == 1 else new
    return torch.empty(batch, positions, vocab_size, dtype=session.dtype("logits"), device=session.device)


def check_tensors(tensors: Sequence[torch.Tensor], shapes: dict[str, CacheTensor], batch: int, length: int) -> None:
    """Refuse flat tensors that do not fit a graph's cache of a text of ``length`` positions.

    Raises
    ------
    ValueError
        If they do not: another number of layers, heads or rows, or another head size.
    """
    expected = [each.shape(batch, length) for each in shapes.values()]
    got = [tuple(tensor.shape) for tensor in tensors]
    if got != expected:
        other = next(((g, e) for g, e in zip(got, expected, strict=False) if g != e), None)
        said = f", of shape {list(other[0])} where {list(other[1])} is expected" if other else ""
        raise ValueError(
            f"past_key_values has {len(got)} tensors, keys and values of each layer{said}; this graph expects "
            f"{len(expected)}. Is it the cache of another model?"
        )
