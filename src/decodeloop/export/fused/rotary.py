"""Cosines and sines of the first positions, as a model computes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from decodeloop.export.fused.families import NotDescribed

#: Kinds of frequencies that are one set, whatever the length of the text.
FIXED = ("default", "linear", "llama3", "yarn", "proportional")


def by_kind(module: Any) -> bool:
    """Whether each kind of layers has frequencies of its own."""
    return "layer_type" in inspect.signature(module.forward).parameters


def rotary_tables(
    model: PreTrainedModel, module: Any, kinds: Iterable[str | None]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each kind of layers that rotates, cosine and sine ``[positions, rotated size / 2]``, in the model's dtype.

    Raises
    ------
    NotDescribed
        If the frequencies change with the text's length, or the operator does not take as many of them.
    """
    tables = {}
    for kind in sorted(kind for kind in kinds if kind is not None):
        settings = model.config.rope_parameters or {}
        settings = settings.get(kind, settings)
        if settings.get("rope_type", "default") not in FIXED:
            raise NotDescribed(settings)
        positions = torch.arange(model.config.max_position_embeddings, device=model.device)[None]
        like = torch.zeros(1, dtype=model.dtype, device=model.device)
        with torch.no_grad():
            cos, sin = module(like, positions, kind) if kind else module(like, positions)
        if cos.shape[-1] % 16:
            raise NotDescribed("the operator rotates multiples of 16")
        tables[kind] = _once(cos[0]).to(model.dtype), _once(sin[0]).to(model.dtype)
    return tables


def _once(table: torch.Tensor) -> torch.Tensor:
    """Each angle once: a table holds all of them twice, one half as the other or each beside itself."""
    half = table.shape[-1] // 2
    return table[:, :half] if torch.equal(table[:, :half], table[:, half:]) else table[:, ::2]
