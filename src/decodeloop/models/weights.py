"""A configuration to a model: with the weights that a folder holds, or with random ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from decodeloop.models.checkpoint import GET_BOTH, check_tensors, one_line, some, tensor_names


def trained_model(
    folder: Path, name: str, config: PreTrainedConfig, dtype: torch.dtype | str, *, shown: bool
) -> PreTrainedModel:
    """The model with its weights, in evaluation mode and on the CPU; each of its tensors came from the folder's files.

    Parameters
    ----------
    folder, name
        Where the files lie, and the model's name for an error.
    config : transformers PreTrainedConfig
        The decoder's configuration.
    dtype : torch.dtype or "auto"
        The weights' type in memory; "auto" is the checkpoint's own.
    shown : bool
        Whether a progress bar is.

    Raises
    ------
    ValueError
        If the weights cannot be read or do not fit the configuration.
    """
    names = tensor_names(folder)
    try:
        with _progress(shown), _report() as report:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model's class, a quantizer or the weights' conversion raises
        parts = re.findall(r"^(.+?) +\| \S*CONVERSION", "\n".join(report), re.MULTILINE)
        if parts:
            why = f"{some(parts)} cannot be put together from it. {GET_BOTH}"
            raise ValueError(f"{name!r}: its *.safetensors do not fit its config.json: {why}") from None
        raise ValueError(f"{name!r}: transformers cannot load it: {one_line(error)}") from error
    model, info = loaded
    whole = type(model.config) is type(config) and getattr(model, "hf_quantizer", None) is None
    check_tensors(name, model, info, names, whole=whole)
    return model


def random_model(config: PreTrainedConfig, dtype: torch.dtype | str, device: torch.device) -> PreTrainedModel:
    """The configuration's model with random weights, always the same ones; torch's seed is left alone."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """transformers' progress bar, only where somebody waits and watches: in a log, each of its frames is a line."""
    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


@contextmanager
def _report() -> Iterator[list[str]]:
    """transformers' table of the tensors that do not fit, kept instead of shown: ours is an error of one line."""
    logger, kept = getLogger("transformers.modeling_utils"), []

    def other(record: LogRecord) -> bool:
        if "LOAD REPORT" not in (said := record.getMessage()):
            return True
        kept.append(said)
        return False

    logger.addFilter(other)
    try:
        yield kept
    finally:
        logger.removeFilter(other)
