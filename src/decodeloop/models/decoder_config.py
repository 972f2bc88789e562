"""``config.json`` to a decoder's configuration, or one line that says why it is none."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)

from decodeloop.models.checkpoint import one_line, read_object


def decoder_config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration of the decoder in a folder.

    Raises
    ------
    ValueError
        If it is no decoder's, not one that transformers knows, or asks for code that is not part of transformers.
    """
    values = read_object(folder / "config.json")
    kind = values.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ValueError(f'{name!r}: its config.json has no "model_type": expected one such as "llama". Get it again.')
    if kind not in CONFIG_MAPPING and not values.get("auto_map"):
        raise ValueError(
            f"{name!r}: transformers {transformers.__version__} knows no model_type {kind!r}. Check its config.json, "
            "or install a newer transformers."
        )
    if kind not in CONFIG_MAPPING:
        raise needs_code(name, f"its model_type {kind!r}")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each configuration class checks its values in its own way
        raise ValueError(f"{name!r}: its config.json is no {kind!r} configuration: {one_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" in (values.get("auto_map") or {}):
        raise needs_code(name, f"a decoder of its model_type {kind!r}")
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{name!r} is no decoder: its model_type is {kind!r}. Expected a causal language model, such as a llama or "
            "phi: one that transformers' AutoModelForCausalLM loads and that reads from left to right."
        )
    # config.json may name attention code on the hub: transformers' own is used.
    config._attn_implementation = None
    return config


def needs_code(name: str, what: str) -> ValueError:
    """The refusal of a checkpoint that brings its own Python files."""
    return ValueError(
        f"{name!r}: {what} needs code of the checkpoint's own, which is never run here. Use a checkpoint of an "
        "architecture that is part of transformers."
    )
