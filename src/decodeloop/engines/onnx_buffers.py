"""Buffers that a session's cache inputs and outputs are bound to: their names, shapes, and room for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch

from decodeloop.caches.buffer_pool import no_room
from decodeloop.engines.onnx_session import OnnxSession


def cache_shapes(
    session: OnnxSession, heads: int | None = None, head_size: int | None = None
) -> dict[str, tuple[int, int]]:
    """Name of each cache input to its (heads, head size): layer by layer, in each the keys first.

    ``heads`` and ``head_size`` are for a graph that leaves its own open.

    Raises
    ------
    ValueError
        If neither says, so that no buffer can be made.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name in sorted((n for n in session.inputs if n.startswith("past_key_values.")), key=_by_layer):
        own = session.inputs[name].shape
        kv_heads = own[1] if isinstance(own[1], int) else heads
        size = own[-1] if isinstance(own[-1], int) else head_size
        if len(own) != 4 or kv_heads is None or size is None:
            raise ValueError(
                f"{name} has shape {own}: expected [batch, heads, length, head size] with numbers for heads and head "
                "size, or the model's config.json or genai_config.json beside the graph. Put it there."
            )
        shapes[name] = kv_heads, size
    return shapes


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


def present_name(name: str) -> str:
    """The output that belongs to a cache input: ``past_key_values.0.key`` gives ``present.0.key``."""
    return name.replace("past_key_values.", "present.")


def empty_logits(session: OnnxSession, batch: int, new: int, vocab_size: int) -> torch.Tensor:
    """What a step's logits are written to: ``[batch, new, vocabulary]``, or one position where the graph gives one."""
    positions = 1 if session.outputs["logits"].shape[1] == 1 else new
    return torch.empty(batch, positions, vocab_size, dtype=session.dtype("logits"), device=session.device)


def check_tensors(tensors: Sequence[torch.Tensor], shapes: dict[str, tuple[int, int]], batch: int) -> int:
    """The length of flat tensors that fit a graph's cache.

    Raises
    ------
    ValueError
        If they do not: another number of layers, heads or rows, or another head size.
    """
    expected = [(batch, heads, size) for heads, size in shapes.values()]
    got = [(t.shape[0], t.shape[1], t.shape[3]) for t in tensors]
    lengths = sorted({t.shape[2] for t in tensors})
    if got != expected or len(lengths) != 1:
        raise ValueError(
            f"past_key_values has {len(got) // 2} layers of (rows, heads, head size) {got[:1]} and lengths {lengths}; "
            f"this graph expects {len(expected) // 2} layers of {expected[:1]}, all of one length. Is it the cache of "
            "another model?"
        )
    return lengths[0]
