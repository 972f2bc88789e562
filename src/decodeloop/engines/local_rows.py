"""Layers that hide by a table of their own, of what each position sees, and no window tells of (GPT-Neo's local ones).

They take the table's last rows of as many positions as there are keys. In a growing cache those are the rows of the
tokens that are read; in buffers of fixed capacity, of other tokens.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel


class LocalRows:
    """In place of such a table: its rows of the tokens that are written now, at ``cache_position`` ``[new]``."""

    cache_position: torch.Tensor

    def __init__(self, window: int) -> None:
        self.window = window

    def __getitem__(self, rows_and_columns: Any) -> torch.Tensor:
        """Bool ``[1, 1, new, capacity]``; what comes later, the model's mask hides."""
        columns = torch.arange(rows_and_columns[-1].stop, device=self.cache_position.device)
        return (columns > self.cache_position[:, None] - self.window)[None, None]

    def __deepcopy__(self, memo: Any) -> LocalRows:
        return self  # a copy of the model is told the same positions


def with_local_rows(model: PreTrainedModel) -> tuple[PreTrainedModel, LocalRows | None]:
    """The model with such rows in place of tables, over the same weights; the model itself where it has no tables."""
    local = [name for name, module in model.named_modules() if getattr(module, "attention_type", None) == "local"]
    local = [name for name in local if "bias" in dict(model.get_submodule(name).named_buffers(recurse=False))]
    if not local:
        return model, None
    rows = LocalRows(int(model.config.window_size))
    rows.cache_position = torch.zeros(1, dtype=torch.int64, device=model.device)
    placed = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for name in local:
        layer: Any = placed.get_submodule(name)
        del layer.bias
        layer.bias = rows
    return placed, rows
