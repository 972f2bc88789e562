"""Graphs of other makers: how one counts its positions, and what onnxruntime-genai's file beside it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from transformers import GenerationConfig, PreTrainedConfig

from decodeloop.caches.shapes import kv_shape
from decodeloop.export.file import TYPES

ADVICE = "run it with the program that it was made for, or export the model with decodeloop.export_onnx."


class ForeignGraph(NamedTuple):
    """What is known of a graph without our metadata.

    Attributes
    ----------
    shared : bool
        Whether its operators count positions from the beginning of each row's buffer, so that past and present are one.
    float32 : bool
        Whether that is its cache's type.
    heads, head_size : int or None
        Of its keys and values, where the files beside it tell.
    positions : int or None
        How many the model has, as far as the graph or those files tell.
    generation_config : GenerationConfig or None
        What genai_config.json says of greedy decoding.
    """

    shared: bool
    float32: bool
    heads: int | None
    head_size: int | None
    positions: int | None
    generation_config: GenerationConfig | None


def read_foreign(path: Path, config: PreTrainedConfig | None) -> ForeignGraph:
    """Look at a graph without our metadata, and the files beside it; ``config`` is what config.json says, if anything.

    Raises
    ------
    ValueError
        If its text could come out wrong, on padded batches say: why, and what to do.
    """
    graph = onnx.load(path, load_external_data=False).graph
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    past = [kind for name, kind in inputs.items() if name.startswith("past_key_values.")]
    cache = {kind.elem_type for kind in past}
    if not cache <= {number for _, number in TYPES.values()}:
        raise ValueError(f"{path.name} keeps its cache in a type that is not one of a model's: {ADVICE}")
    nodes = list(_nodes(graph))
    if cache and "attention_mask" in inputs and not any("attention_mask" in node.input for node in nodes):
        raise ValueError(f"{path.name} does not read its attention_mask, so padded batches would be wrong: {ADVICE}")
    if any(node.op_type in ("SparseAttention", "PagedAttention") for node in nodes):
        raise ValueError(f"{path.name} keeps another kind of cache than keys and values one after another: {ADVICE}")
    attention = [node for node in nodes if node.op_type == "GroupQueryAttention"]
    limits = _check_counting(path.name, graph, attention) if attention else []
    said = _genai_config(path.parent)
    model = said.get("model", {})
    decoder = model.get("decoder", {})
    heads, size = decoder.get("num_key_value_heads"), decoder.get("head_size")
    if None in (heads, size) and config is not None and any(dim.dim_param for kind in past for dim in _sizes(kind)):
        _, heads, size = kv_shape(config)
    window = decoder.get("sliding_window", {}).get("window_size") or getattr(config, "sliding_window", None)
    if attention and window and not any(_window(node) > 0 for node in attention):
        limits.append(window)  # the builder left it out of Mistral's graph: right up to there
    return ForeignGraph(
        bool(attention),
        onnx.TensorProto.FLOAT in cache,
        heads,
        size,
        min(limits, default=model.get("context_length")),
        _greedy_settings(model, said.get("search", {})) if model else None,
    )


def _check_counting(name: str, graph: onnx.GraphProto, attention: list[onnx.NodeProto]) -> list[int]:
    """Refuse operators that are fed otherwise than a shared cache feeds them; the rows of their rotary tables."""
    makers = {output: node for node in graph.node for output in node.output}
    tables = {weight.name: weight.dims[0] for weight in graph.initializer if weight.dims}
    rows: list[int] = []
    for node in attention:
        lengths, total, *rotary = [*node.input, *[""] * 4][5:9]
        if not (_reads_mask(lengths, "ReduceSum", makers) and _reads_mask(total, "Shape", makers)):
            raise ValueError(f"{name} does not take its rows' lengths from its attention_mask: {ADVICE}")
        rotary = [table for table in rotary if table]
        if not all(table in tables for table in rotary):
            raise ValueError(f"{name} computes its rotary frequencies as it goes (longrope?): {ADVICE}")
        rows += [tables[table] for table in rotary]
    if any(node.op_type == "If" for node in graph.node):
        raise ValueError(f"{name} decides as it goes by how long its text is (longrope?): {ADVICE}")
    return rows


def _reads_mask(value: str, operator: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is that operator's of the attention mask, apart from casts, differences and the like."""
    found = False
    for _ in range(8):
        if (node := makers.get(value)) is None:
            break
        found, value = found or node.op_type == operator, node.input[0] if node.input else ""
    return found and value == "attention_mask"


def _window(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "local_window_size"), -1)


def _sizes(kind: onnx.TypeProto.Tensor) -> list[onnx.TensorShapeProto.Dimension]:
    """Of a cache ``[batch, heads, length, head size]``: the heads and the head size."""
    return list(kind.shape.dim)[1::2]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def _genai_config(folder: Path) -> dict[str, Any]:
    path = folder / "genai_config.json"
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said, dict) and isinstance(said.get("model", {}), dict):
            return said
    except ValueError:
        pass
    raise ValueError(f"{str(path)!r} is not what onnxruntime-genai's builder writes: take its own, or remove it.")


def _greedy_settings(model: dict[str, Any], search: dict[str, Any]) -> GenerationConfig:
    tokens = {name: model.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(
        **tokens, **{name: search[name] for name in ("repetition_penalty", "no_repeat_ngram_size") if search.get(name)}
    )
