"""A transformers decoder to ONNX: one graph that reads a prompt and decodes, its cache in its inputs and outputs."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir
import torch
from transformers import PreTrainedModel

from decodeloop.caches.states import cache_argument, read_state, states_of
from decodeloop.checks import shown
from decodeloop.export.file import METADATA, generation_settings
from decodeloop.export.fused.build import fused_decoder
from decodeloop.export.fused.describe import describe
from decodeloop.export.lean import lean_exporter
from decodeloop.export.recurrences import knows_recurrences
from decodeloop.export.save import check_target, save_graph
from decodeloop.export.supported import one_line, refuse_states
from decodeloop.export.traced import (
    TRANSLATIONS,
    FlatDecoder,
    check_trace,
    example_inputs,
    exportable,
    rewritten,
)
from decodeloop.export.traced_gqa import GqaDecoder, gqa_attentions, gqa_inputs
from decodeloop.models.load import get_weight_type
from decodeloop.progress import doing

Exporter = Literal["dynamo", "fused", "gqa"]
Logits = Literal["all", "last"]
DEFAULT_LOGITS: dict[str, Logits] = {"dynamo": "all", "fused": "last"}
OPSETS = {"dynamo": 20, "fused": 21}  # all current runtimes read 20; 21 has the operators that "fused" asks for by name
ALIASES = {"gqa": "fused"}


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes
    ----------
    path : Path
        The graph; its weights lie beside it in ``external_data``.
    external_data : Path
        The weights: ``<path>.data``, or ``<path>.<checksum>.data`` where that name was taken.
    exporter : str
        Which exporter made it, ``"dynamo"`` or ``"fused"``.
    graph : str
        How: ``"fused"`` is put together from fused operators, ``"traced"`` from what the model did when it was run.
    opset : int
        Version of ONNX's operator set.
    seconds : float
        Time the export took.
    inputs, outputs : dict of str to list
        Name to shape; a str in a shape is a dynamic dimension.
    operators : dict of str to int
        How often each operator stands in the graph, most frequent first.
    prefill : str
        How the graph reads a prompt: ``"parallel"``, all of it in one run, or ``"sequential"``, token by token, where
        a model has a recurrence that is not known.
    bytes : int
        Size of both files.
    checked : Checked or None
        What was compared with the model before the files got their names; None with ``check=False``.
    """

    path: Path
    external_data: Path
    exporter: str
    graph: str
    opset: int
    seconds: float
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    operators: dict[str, int]
    prefill: str
    bytes: int
    checked: Any = None


def write_onnx(
    model: PreTrainedModel,
    path: Path,
    exporter: str,
    logits: Logits | None,
    prove: Callable[[Path], Any] = lambda path: None,
) -> ExportReport:
    """Make a graph, hand its file under a temporary name to ``prove``, and give it its name if that does not raise.

    :func:`decodeloop.export_onnx` tells the rest.
    """
    name = ALIASES.get(exporter, exporter) if isinstance(exporter, str) else exporter
    if not isinstance(name, str) or name not in OPSETS:
        raise ValueError(f"exporter={shown(exporter)}: expected one of {', '.join(map(repr, OPSETS))}.")
    if not (logits is None or (isinstance(logits, str) and logits in ("all", "last"))):
        said = f"logits={shown(logits)}"
        raise ValueError(f'{said}: expected "all" or "last", or None for what the exporter does by itself.')
    check_target(path)
    started = time.perf_counter()
    last_only = (logits or DEFAULT_LOGITS[name]) == "last"
    described = describe(model) if name == "fused" else None
    if name == "fused" and described is None:
        refuse_states(model)
    graph = fused_decoder(described, model.dtype, last_only) if described else _traced(model, name, last_only)
    graph.metadata_props[METADATA] = _metadata(model, name)
    weights, checked = save_graph(graph, path, prove)
    return make_report(path, weights, name, "fused" if described else "traced", time.perf_counter() - started, checked)


def _traced(model: PreTrainedModel, exporter: str, last_only: bool) -> onnx_ir.Model:
    """The graph of what the model does; where its recurrence cannot be traced as a loop, of one token at a time."""
    looped = knows_recurrences(model)
    try:
        return _trace(model, exporter, last_only, one_by_one=not looped)
    except ValueError:
        if not looped:
            raise
    return _trace(model, exporter, last_only, one_by_one=True)


def _trace(model: PreTrainedModel, exporter: str, last_only: bool, one_by_one: bool) -> onnx_ir.Model:
    name = cache_argument(model)
    inputs, dynamic_shapes = example_inputs(model, one_by_one)
    cache, varying = inputs.pop(name), dynamic_shapes.pop(name)
    states, names = states_of(cache), list(inputs)
    if name != "past_key_values":  # the graph's mask is of all positions, whatever the model reads of it
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = mask.new_ones(len(mask), mask.shape[1] + 5)
        dynamic_shapes["attention_mask"] = {0: "batch", 1: "total"}
    doing("tracing")
    decoder: FlatDecoder | GqaDecoder
    attentions: contextlib.AbstractContextManager[None]
    if exporter == "fused":
        inputs, dynamic_shapes = gqa_inputs(model, inputs | {name: cache})
        decoder, attentions = GqaDecoder(model, last_only), gqa_attentions(model)
    else:
        inputs["past_key_values"] = [read_state(cache, state) for state in states]
        dynamic_shapes["past_key_values"] = varying
        decoder, attentions = FlatDecoder(model, states, last_only), contextlib.nullcontext()
    if "position_ids" not in inputs:
        inputs["position_ids"] = dynamic_shapes["position_ids"] = None
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids", "past_key_values")}
    with _quiet(), exportable(model), attentions, rewritten(model), lean_exporter():
        try:
            program: Any = torch.onnx.export(  # annotated as None too, which it is without dynamo
                decoder,
                kwargs=inputs,
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                opset_version=OPSETS[exporter],
                input_names=[*names, *(state.input for state in states)],
                output_names=["logits", *(state.output for state in states)],
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
            hint = '; exporter="dynamo" takes more models' if exporter == "fused" else ""
            raise ValueError(f"{type(model).__name__} cannot be exported: {one_line(error)}{hint}.") from error
        if isinstance(decoder, FlatDecoder):  # the other's attention is a symbol, which PyTorch cannot run
            check_trace(decoder, program.exported_program, inputs)
    for node in onnx_ir.traversal.RecursiveGraphIterator(program.model.graph):
        # lines of source: a third of the file, and paths of this machine
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    return program.model


class _quiet(warnings.catch_warnings):
    """The exporter's remarks on itself are not the user's business; its errors are."""

    loggers = logging.getLogger("torch.onnx"), logging.getLogger("onnx_ir")

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: Any) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
        super().__exit__(*exception)


def _metadata(model: PreTrainedModel, exporter: str) -> str:
    config = model.config.get_text_config(decoder=True).to_diff_dict()
    config.pop("_name_or_path", None)
    return json.dumps(
        {
            "config": config,
            "eos_token_id": model.generation_config.eos_token_id,
            "pad_token_id": model.generation_config.pad_token_id,
            "generation_config": generation_settings(model.generation_config),
            "exporter": exporter,
            "dtype": str(get_weight_type(model)).removeprefix("torch."),
        },
        default=str,
    )


def make_report(path: Path, weights: Path, exporter: str, graph: str, seconds: float, checked: Any) -> ExportReport:
    """What stands in a graph's file, and what is told of how it was made."""
    proto = onnx.load(path, load_external_data=False)
    inputs = _shapes(proto.graph.input)
    return ExportReport(
        path=path,
        external_data=weights,
        exporter=exporter,
        graph=graph,
        opset=next(opset.version for opset in proto.opset_import if opset.domain == ""),
        seconds=seconds,
        inputs=inputs,
        outputs=_shapes(proto.graph.output),
        operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        prefill="sequential" if inputs["input_ids"][1] == 1 else "parallel",
        bytes=path.stat().st_size + weights.stat().st_size,
        checked=checked,
    )


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
