"""An ONNX file before it is run: is it safe to open, what model is in it, which types has it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, SynthIDTextWatermarkingConfig

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


def check_graph_file(path: Path) -> None:
    """Refuse a file that does not exist, is no ONNX graph, or names weights outside its own folder.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX graph at {str(path)!r}. decodeloop.export_onnx(model, path) writes one.")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base that is public
        raise ValueError(f"{str(path)!r} is not an ONNX graph: {error}") from None
    folders = {path.parent.resolve(), path.resolve().parent}
    for tensor in _tensors(proto):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
        if location is None:
            continue
        target = (path.parent / location).resolve()
        if Path(location).is_absolute() or not any(target.is_relative_to(folder) for folder in folders):
            raise ValueError(
                f"{path.name} keeps {tensor.name!r} at {location!r}, outside its own folder: refused. "
                "A graph's external data must lie beside it."
            )
        if not target.is_file():
            raise FileNotFoundError(f"{path.name} keeps its weights in {location!r}, which is not beside it.")


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    def walk(nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto]) -> Iterator[onnx.TensorProto]:
        yield from initializers
        for node in nodes:
            for attribute in node.attribute:
                yield from [attribute.t, *attribute.tensors]
                for graph in [attribute.g, *attribute.graphs]:
                    yield from walk(graph.node, graph.initializer)

    yield from walk(proto.graph.node, proto.graph.initializer)
    for function in proto.functions:
        yield from walk(function.node, [])


def save_graph(graph: onnx_ir.Model, path: Path, prove: Callable[[Path], Any] = lambda path: None) -> Any:
    """Write both files under temporary names, then rename: no half-written graph is ever left at ``path``.

    ``prove`` is called with the temporary graph in between; what it returns is returned, and if it raises, nothing is
    written.
    """
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".export-"))
    try:
        onnx_ir.save(graph, folder / path.name, external_data=f"{path.name}.data")
        proved = prove(folder / path.name)
        for file in sorted(folder.iterdir(), key=lambda file: file.name, reverse=True):  # the weights first
            os.replace(file, path.parent / file.name)
        return proved
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """What our export wrote into the graph's metadata: configuration, special tokens, exporter. Else empty."""
    for entry in onnx.load(path, load_external_data=False).metadata_props:
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
