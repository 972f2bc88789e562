"""A folder that can be handed on: a graph with its tokenizer and settings, whole or not there, opened without a model.

It holds ``model.onnx`` and its weights, the tokenizer's files with the chat template, ``generation_config.json``,
``config.json``, and, where onnxruntime-genai can run the graph, ``genai_config.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from decodeloop.checks import check_choice, given_path, shown
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.export.file import read_graph, weights_files
from decodeloop.export.quantize import quantize_onnx
from decodeloop.export.write import Exporter, ExportReport, make_report
from decodeloop.models.checkpoint import check_folder
from decodeloop.models.load import LoadedModel, read_generation_config, read_tokenizer
from decodeloop.models.rope import fixed_rope_length
from decodeloop.optional import load_onnxruntime
from decodeloop.progress import doing, working
from decodeloop.proof.check import WINDOWS
from decodeloop.proof.export import export_onnx
from decodeloop.quiet import quiet
from decodeloop.scratch import abandoned, locked, scratch_folder

GRAPH, MADE = "model.onnx", "folder"


def save_folder(
    model: LoadedModel,
    folder: str | os.PathLike[str],
    *,
    exporter: Exporter = "fused",
    bits: Literal[4, 8] | None = None,
    check: bool = True,
    progress: bool = True,
) -> ExportReport:
    """Export a model into a new folder that holds all that is needed to go on with it, tokenizer and settings too.

    Parameters
    ----------
    model : LoadedModel
        What :func:`decodeloop.load` returned, with its tokenizer.
    folder : str or path
        The folder to make, in an existing one. It gets its name when it is whole: a run that fails or is killed leaves
        none.
    exporter, check, progress
        As :func:`decodeloop.export_onnx` takes them. What is checked beside the model is the graph before its weights
        are quantized.
    bits : int, optional
        8 or 4: quantize the weights, as :func:`decodeloop.quantize_onnx` does by default. None leaves them as they are.

    Returns
    -------
    ExportReport
        Of the graph in the folder.

    Raises
    ------
    ValueError
        If an argument cannot be used, the model has no tokenizer, or the export refuses it.
    FileExistsError
        If the folder exists already and is not empty.
    FileNotFoundError
        If the folder that it is to be made in does not exist.
    OSError
        If it cannot be written.

    Notes
    -----
    ``genai_config.json`` lets onnxruntime-genai run the graph, on a CPU as it stands. It is left out for a model with a
    sliding window, with rotary frequencies that depend on the length, or with a cache of other than keys and values of
    one shape, which that program would feed otherwise. Its own tokenizer does not read every tokenizer.json, and says
    so.
    """
    if not isinstance(model, LoadedModel):
        raise ValueError(f"model={shown(model)}: expected what decodeloop.load returns, a model with its tokenizer.")
    if model.tokenizer is None:
        raise ValueError(f"{model.name!r} has no tokenizer, which a folder to hand on needs: put its files beside it.")
    bits = check_choice("bits", bits, None, 8, 4)
    check_choice("progress", progress, True, False)
    if bits:
        load_onnxruntime()  # it quantizes; said before the export
    target = given_path("folder", folder)
    _check_new(target)
    line = working(f"Exporting {model.name}") if progress else contextlib.nullcontext()
    with line, scratch_folder(target.parent) as scratch:
        (made := scratch / MADE).mkdir()
        (whole := scratch / "whole" if bits else made).mkdir(exist_ok=True)
        report = export_onnx(model, whole / GRAPH, exporter=exporter, check=check, progress=progress)
        if bits:
            doing("quantizing")
            started = time.perf_counter()
            path = quantize_onnx(report.path, made / GRAPH, bits=bits)
            seconds, (weights,) = report.seconds + time.perf_counter() - started, weights_files(path, read_graph(path))
            report = make_report(Path(path), weights, report.exporter, report.graph, seconds, report.checked)
        with quiet():
            model.tokenizer.save_pretrained(made)
            model.model.config.to_json_file(made / "config.json")
            model.model.generation_config.to_json_file(made / "generation_config.json")
        settings = genai_settings(report, model)
        if settings:
            (made / "genai_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        with locked(target.parent):
            for left in abandoned(target.parent):
                if (left / MADE).is_dir():  # of a run of this function that was killed
                    shutil.rmtree(left, ignore_errors=True)
            _check_new(target)
            with contextlib.suppress(FileNotFoundError):
                target.rmdir()  # an empty one: Windows renames over none
            made.rename(target)
    weights = target / report.external_data.name
    return dataclasses.replace(report, path=target / GRAPH, external_data=weights)


def open_folder(folder: str | os.PathLike[str], **options: Any) -> tuple[OnnxDecoder, Any]:
    """Open what :func:`save_folder` wrote: a decoder and its tokenizer. No code of the model is imported or run.

    Parameters
    ----------
    folder : str or path
    **options
        Those of :class:`decodeloop.OnnxDecoder`, such as ``device``.

    Returns
    -------
    OnnxDecoder
        It decodes as the folder's generation_config.json says, which may be edited.
    transformers tokenizer

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing in the folder, or is not whole.
    ImportError
        If onnxruntime is not installed.
    """
    path = given_path("folder", folder)
    if not (path / GRAPH).is_file():
        raise FileNotFoundError(
            f"{str(path)!r} has no {GRAPH}: expected a folder that decodeloop.save_folder, or python -m decodeloop "
            "export, has written."
        )
    check_folder(path, weights=False)
    tokenizer = read_tokenizer(path, str(path))
    if tokenizer is None:
        raise FileNotFoundError(f"{str(path)!r} has no tokenizer.json. Export it again.")
    decoder = OnnxDecoder(path / GRAPH, **options)
    if (path / "generation_config.json").exists() and decoder.config is not None:
        with quiet():
            decoder.generation_config = read_generation_config(path, str(path), decoder.config)
    return decoder, tokenizer


def genai_settings(report: ExportReport, model: LoadedModel) -> dict[str, Any] | None:
    """The genai_config.json with which onnxruntime-genai runs a graph as it is meant; None where there is none."""
    config: PreTrainedConfig = model.model.config.get_text_config(decoder=True)
    generation = model.model.generation_config
    cache = {name: shape for name, shape in report.inputs.items() if name.startswith("past_")}
    keys = [name for name in cache if name.startswith("past_key_values.") and name.endswith(".key")]
    heads_and_sizes = {(shape[1], shape[-1]) for shape in cache.values()}
    layers = {f"past_key_values.{layer}.{part}" for layer in range(len(keys)) for part in ("key", "value")}
    window = any(getattr(config, name, None) for name in WINDOWS)
    if window or cache.keys() != layers or len(heads_and_sizes) != 1 or fixed_rope_length(config) is not None:
        return None
    ((heads, size),) = heads_and_sizes
    positions, inputs = getattr(config, "max_position_embeddings", None), report.inputs.keys() - cache.keys()
    if positions is None or not isinstance(heads, int) or not isinstance(size, int):
        return None
    past, present = "past_key_values.%d", "present.%d"
    tokens = {name: getattr(generation, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "model": {
            "type": "decoder",
            **{name: token for name, token in tokens.items() if token is not None},
            "vocab_size": config.vocab_size,
            "context_length": positions,
            "decoder": {
                "session_options": {"provider_options": []},
                "filename": report.path.name,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": heads,
                "head_size": size,
                "num_hidden_layers": len(keys),
                "inputs": {
                    **{name: name for name in sorted(inputs)},
                    "past_key_names": f"{past}.key",
                    "past_value_names": f"{past}.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{present}.key",
                    "present_value_names": f"{present}.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": generation.repetition_penalty or 1.0,
            "no_repeat_ngram_size": generation.no_repeat_ngram_size or 0,
            "max_length": positions,
            "past_present_share_buffer": report.exporter == "fused",
        },
    }


def _check_new(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"cannot make {str(folder)!r}: the folder {str(folder.parent)!r} does not exist.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} exists already: remove it, or give a new name.")
