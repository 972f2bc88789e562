"""The limit of a decode step: the bytes that it must read, over how fast so many bytes can be read again and again."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from decodeloop.caches.layers import kv_layers
from decodeloop.caches.shapes import empty_tensors, state_shapes
from decodeloop.caches.states import keeps_states
from decodeloop.checks import check_count, is_real, shown
from decodeloop.export.file import model_settings, read_graph, read_metadata
from decodeloop.measuring.bandwidth import memory_bandwidth
from decodeloop.models.load import LoadedModel, get_weight_type
from decodeloop.models.spread import local, rank_config

if TYPE_CHECKING:
    from decodeloop.engines.onnx_decoder import OnnxDecoder

#: Operators that read a few rows of a table or a few experts, not all, and from which of their inputs on.
GATHERING = {"Gather": 0, "GatherBlockQuantized": 0, "GroupQueryAttention": 7, "MoE": 2, "QMoE": 2}


@dataclass(frozen=True)
class Roofline:
    """The least time of a decode step. Printed: ``0.61 ms per step, 1632 tokens/s: 2.63 GB of weights at 4.29 TB/s``.

    No loop takes less, whatever its engine: it has to read these bytes, and cannot do so faster than the machine was
    seen to read as many. A loop over other weights, such as quantized ones, has a limit of its own.

    Source: the roofline model of `Williams, Waterman and Patterson (2009)
    <https://doi.org/10.1145/1498765.1498785>`_, of which a decode step of few rows is always in the part that
    memory bounds: it does one multiplication and one addition with each weight that it reads.

    Attributes
    ----------
    weights : int
        Bytes of weights that a step reads.
    cache : int
        Bytes of keys and values that it reads, and of states that it reads and writes, of all rows.
    bandwidth : float
        Bytes per second.
    batch : int
        Rows, for each of which a step writes a token.
    """

    weights: int
    cache: int
    bandwidth: float
    batch: int = 1

    @property
    def bytes(self) -> int:
        """What a step reads."""
        return self.weights + self.cache

    @property
    def seconds(self) -> float:
        """The least time of one step."""
        return self.bytes / self.bandwidth

    @property
    def tokens_per_second(self) -> float:
        """The most tokens per second, of all rows."""
        return self.batch / self.seconds

    def share(self, seconds: float) -> float:
        """What share of the limit a loop reaches that takes ``seconds`` per step: 1 is the limit itself."""
        return self.seconds / seconds

    def __str__(self) -> str:
        cache = f" + {_size(self.cache)} of cache" if self.cache else ""
        return (
            f"{1e3 * self.seconds:.3g} ms per step, {self.tokens_per_second:.4g} tokens/s: {_size(self.weights)} of "
            f"weights{cache} at {_size(self.bandwidth)}/s"
        )


def roofline(
    model: PreTrainedModel | LoadedModel | OnnxDecoder | str | os.PathLike[str],
    device: torch.device | str = "auto",
    *,
    length: int = 0,
    batch: int = 1,
    bandwidth: float | None = None,
) -> Roofline:
    """What a decode step must read, and how long that takes at the least.

    Every weight is read once, whatever the number of rows, but for a table that is only gathered from: the embedding,
    unless the head shares it. The keys and values of all earlier positions are read too; a layer with a sliding
    window reads those within it. Of a mixture of experts, those are counted that a single row reads, and of a graph
    with an operator for them, none. Of a model that is spread over several processes, it is what this one reads (with
    ``length``, each of them has to ask); what they send each other takes its time besides.

    The speed is that of reading so many bytes over and over, by :func:`decodeloop.memory_bandwidth`: weights that fit
    into the processor's caches stay there from step to step, and are read faster than memory could give them.

    Parameters
    ----------
    model : transformers PreTrainedModel, LoadedModel, OnnxDecoder, or path of an ONNX graph
        A graph's weights are counted as they are stored in it, so that a quantized one has a limit of its own.
    device : str or torch.device
        Whose memory is read; ``"auto"`` is CUDA where present.
    length : int
        Positions that the cache holds, in each row.
    batch : int
        Rows.
    bandwidth : float, optional
        Bytes per second; default: measured, for the bytes that are counted.

    Returns
    -------
    Roofline

    Raises
    ------
    ValueError
        If ``length`` is below 0 or ``batch`` below 1, or ``model`` is none of the above.
    RuntimeError
        If ``device`` is a GPU that is not there.

    Examples
    --------
    >>> import decodeloop
    >>> limit = roofline(decodeloop.load(device="cpu").model, length=100, bandwidth=20e9)
    >>> print(limit)
    1.17 ms per step, 857.2 tokens/s: 22.1 MB of weights + 1.23 MB of cache at 20 GB/s
    """
    if bandwidth is not None and not (is_real(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth={shown(bandwidth)}: expected bytes per second, above 0, or None to measure.")
    length, batch = check_count("length", length), check_count("batch", batch, 1)
    model = model.model if isinstance(model, LoadedModel) else model
    path = model if isinstance(model, str | os.PathLike) else getattr(model, "path", None)
    if isinstance(model, PreTrainedModel):
        weights, config, dtype = _model(model, length)
    elif path is not None:
        weights, config, dtype = _graph(Path(path))
    else:
        raise ValueError(f"{type(model).__name__}: expected a transformers model, an OnnxDecoder, or a graph's path.")
    cache = 0 if config is None else _cache(config, dtype, length) * batch
    speed = memory_bandwidth(device, max(weights + cache, 1)) if bandwidth is None else float(bandwidth)
    return Roofline(weights, cache, speed, batch)


def _model(model: PreTrainedModel, length: int) -> tuple[int, PreTrainedConfig | None, torch.dtype]:
    config = model.config.get_text_config(decoder=True)
    read = {
        id(parameter): int(local(parameter).nbytes * _share(name, module, config))
        for name, module in model.named_modules()
        if not isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    # the heads of a rank are asked of all ranks, and only where there is a cache
    return sum(read.values()), rank_config(model) if length else config, get_weight_type(model)


def _share(name: str, module: torch.nn.Module, config: PreTrainedConfig) -> float:
    """How much of a module's weights a row reads: of experts, stacked in one tensor, those that it is sent to."""
    if name.rpartition(".")[2] != "experts":
        return 1
    number = next((len(parameter) for parameter in module.parameters(recurse=False)), 1)
    return min(getattr(config, "num_experts_per_tok", None) or 1, number) / number


def _graph(path: Path) -> tuple[int, PreTrainedConfig | None, torch.dtype]:
    proto = read_graph(path)
    facts, graph = read_metadata(proto), ir.from_proto(proto).graph
    read = (v.const_value for v in graph.initializers.values() if any(_reads(*use) for use in v.uses()))
    dtype = getattr(torch, facts["dtype"]) if facts else torch.float32
    return sum(weight.nbytes for weight in read if weight is not None), model_settings(facts, path)[0], dtype


def _reads(node: ir.Node, index: int) -> bool:
    """Whether a use of a tensor as a node's input reads all of it."""
    first = GATHERING.get(node.op_type)
    return first is None or index < first or (first == 0 and index == 1)  # the indices of a table


def _cache(config: PreTrainedConfig, dtype: torch.dtype, length: int) -> int:
    """Bytes of one row's cache that a step reads, and those of states of fixed size that it also writes."""
    if not (length or keeps_states(config)):
        return 0
    if keeps_states(config):
        windows = [getattr(layer, "sliding_window", None) or length for layer in DynamicCache(config=config).layers]
        sizes = state_shapes(config, dtype).items()
        each = [(state, math.prod(shape) * own.itemsize) for state, (shape, own) in sizes]
        return sum(size * (2 if state.grows is None else min(length, windows[state.layer])) for state, size in each)
    windows = [getattr(layer, "sliding_window", None) or length for layer in kv_layers(DynamicCache(config=config))]
    position = [tensor.nbytes for tensor in empty_tensors(config, length=1, dtype=dtype)]
    pairs = zip(position[::2], position[1::2], windows, strict=False)
    return sum((keys + values) * min(length, window) for keys, values, window in pairs)


def _size(count: float) -> str:
    units = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}
    unit, scale = next((unit, scale) for unit, scale in units.items() if count >= scale or scale == 1)
    return f"{count / scale:.3g} {unit}"
