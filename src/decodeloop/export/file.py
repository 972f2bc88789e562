"""An ONNX file before it is run: is it safe to open, what model is in it, which types has it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, SynthIDTextWatermarkingConfig

from decodeloop.export.checksums import graph_is_whole, is_sealed, weights_are_whole
from decodeloop.quiet import quiet

#: The key of the graph's metadata under which the exported model's limits and special tokens stand.
METADATA = "decodeloop"

#: onnxruntime's name of an element type -> torch's, and ONNX's number for it
TYPES = {
    "tensor(float)": (torch.float32, onnx.TensorProto.FLOAT),
    "tensor(float16)": (torch.float16, onnx.TensorProto.FLOAT16),
    "tensor(bfloat16)": (torch.bfloat16, onnx.TensorProto.BFLOAT16),
    "tensor(int64)": (torch.int64, onnx.TensorProto.INT64),
    "tensor(int32)": (torch.int32, onnx.TensorProto.INT32),
}


def read_graph(path: Path, verify_weights: bool = False) -> onnx.ModelProto:
    """The graph in a file, without its weights: whole, and with weights that lie beside it and are as long as it says.

    Parameters
    ----------
    path : Path
    verify_weights : bool
        Also compare both files with the checksums that :func:`decodeloop.export_onnx` wrote into the graph. A graph of
        another maker has none, and one that another tool has rewritten has none that count: nothing is compared.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a directory: expected a graph in it, such as model.onnx.")
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX graph at {str(path)!r}. decodeloop.export_onnx(model, path) writes one.")
    data = path.read_bytes()
    sealed = verify_weights and is_sealed(data)
    if sealed and not graph_is_whole(data):
        raise _damaged(path, path.name)
    try:
        graph = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's errors have no common base that is public
        raise ValueError(f"{str(path)!r} is not an ONNX graph, or was cut: {error}. Copy or export it again.") from None
    if not graph.graph.output:
        raise ValueError(f"{str(path)!r} is not an ONNX graph, or was cut: it has no outputs. Copy or export it again.")
    files = weights_files(path, graph)
    if sealed and not weights_are_whole(data, files):
        raise _damaged(path, ", ".join(file.name for file in files))
    return graph


def identity(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that is renamed over it or written anew."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def weights_files(path: Path, graph: onnx.ModelProto) -> list[Path]:
    """The files that hold a graph's weights, in the order of their names, each found to lie beside the graph.

    Beside it is in the folder that ``path`` is in, or, where that is a link, in the one that the file itself is in:
    the Hugging Face hub's cache links both files into one folder. onnxruntime opens the same ones.

    Raises
    ------
    FileNotFoundError
        If one does not exist.
    ValueError
        If one is outside the folder, or lacks bytes that a tensor asks for.
    """
    folders = [os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))]
    sizes: dict[str, int] = {}
    for tensor in tensors(graph):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location")
        if location is None:
            continue
        if location not in sizes:
            file = Path(os.path.realpath(path.parent / location.replace("\0", "")))
            if os.path.isabs(location) or not any(file.is_relative_to(folder) for folder in folders):
                raise ValueError(
                    f"{path.name} keeps {tensor.name!r} at {location!r}, outside its own folder: refused. "
                    "A graph's external data must lie beside it."
                )
            if not os.path.isfile(file):  # False, not an error, for a name that is too long
                raise FileNotFoundError(
                    f"{path.name} keeps its weights in {location!r}, which is not beside it: copy that file as well."
                )
            sizes[location] = file.stat().st_size
        _check_extent(path.name, tensor, entries, sizes[location])
    return [path.parent / location for location in sorted(sizes)]


def _check_extent(name: str, tensor: onnx.TensorProto, entries: dict[str, str], available: int) -> None:
    try:
        bits = onnx_ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} keeps {tensor.name!r} in a file, and its type, {tensor.data_type}, has no size."
        ) from None
    expected = math.ceil(math.prod(tensor.dims) * bits / 8)
    offset, length = entries.get("offset") or "0", entries.get("length") or str(expected)
    if length != str(expected) or not offset.isdecimal() or int(offset) + expected > available:
        raise ValueError(
            f"{name} expects {tensor.name!r} in {expected} bytes of {entries['location']!r} and gives it {length} from "
            f"{offset} on, in a file of {available}: the weights were cut, or are another graph's. Copy both files "
            "again, or export again."
        )


def tensors(graph: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph, those in attributes, subgraphs and functions too."""

    def walk(
        nodes: Iterable[onnx.NodeProto],
        initializers: Iterable[onnx.TensorProto],
        sparse: Iterable[onnx.SparseTensorProto],
    ) -> Iterator[onnx.TensorProto]:
        yield from initializers
        for pair in sparse:
            yield from (pair.values, pair.indices)
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                yield from walk([], [], (attribute.sparse_tensor, *attribute.sparse_tensors))
                for inner in (attribute.g, *attribute.graphs):
                    yield from walk(inner.node, inner.initializer, inner.sparse_initializer)

    yield from walk(graph.graph.node, graph.graph.initializer, graph.graph.sparse_initializer)
    for function in graph.functions:
        yield from walk(function.node, [], [])


def map_weights(path: Path, graph: onnx.ModelProto) -> onnx_ir.Model:
    """A graph that was read from ``path``, with its weights, of which those are read that are used."""
    for tensor in tensors(graph):
        for entry in tensor.external_data:
            if entry.key == "location":  # onnx_ir opens neither links nor files of two names: these were checked here
                entry.value = os.path.realpath(path.parent / entry.value)
    model = onnx_ir.from_proto(graph)
    assert isinstance(model, onnx_ir.Model)
    return model


def _damaged(path: Path, which: str) -> ValueError:
    return ValueError(
        f"{str(path)!r}: {which} is not as it was exported, its checksum is another one: a bit has changed since. Copy "
        "or export it again; OnnxDecoder(path, verify_weights=False) opens it as it is."
    )


def read_metadata(graph: onnx.ModelProto) -> dict[str, Any]:
    """What our export wrote into the graph's metadata: configuration, special tokens, exporter. Else empty."""
    for entry in graph.metadata_props:
        if entry.key == METADATA:
            return json.loads(entry.value)
    return {}


def has_shared_cache(metadata: dict[str, Any]) -> bool:
    """Whether past and present are one buffer: a graph of exporter="fused", which older files call "gqa"."""
    return metadata.get("exporter") in ("fused", "gqa")


def model_settings(metadata: dict[str, Any], path: Path) -> tuple[PreTrainedConfig | None, GenerationConfig | None]:
    """What is known of a graph's model and its decoding: from the graph's metadata, else from the files beside it."""
    with quiet():
        if metadata:  # older graphs have the special tokens alone
            said = dict(metadata.get("generation_config", {n: metadata[n] for n in ("eos_token_id", "pad_token_id")}))
            if "keys" in (said.get("watermarking_config") or {}):  # transformers takes a dict for the other kind
                said["watermarking_config"] = SynthIDTextWatermarkingConfig(**said["watermarking_config"])
            return AutoConfig.for_model(**metadata["config"]), GenerationConfig.from_dict(said)
        config = generation = None
        if (path.parent / "config.json").exists():
            whole = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
            config, generation = whole.get_text_config(decoder=True), GenerationConfig.from_model_config(whole)
        if (path.parent / "generation_config.json").exists():
            generation = GenerationConfig.from_pretrained(path.parent)
        return config, generation


def generation_settings(config: GenerationConfig) -> dict[str, Any]:
    """A generation_config as JSON can hold it; :func:`model_settings` reads it back."""
    said = config.to_diff_dict()
    for name in [name for name in said if name.startswith("_") or name == "transformers_version"]:
        del said[name]
    if isinstance(said.get("sequence_bias"), dict):  # JSON has no tuples for keys: transformers' other form of it
        said["sequence_bias"] = [[list(tokens), bias] for tokens, bias in said["sequence_bias"].items()]
    if said.get("watermarking_config") is not None:
        said["watermarking_config"] = said["watermarking_config"].to_dict()
    return said
