"""What several rooms ask of a model's linear layers: their joined bias."""

from __future__ import annotations

from typing import Protocol

import torch

from decodeloop.models.spread import local


class HasWeights(Protocol):
    """A linear layer, or the description of one."""

    @property
    def weight(self) -> torch.Tensor: ...
    @property
    def bias(self) -> torch.Tensor | None: ...
    @property
    def out_features(self) -> int: ...


def joined_bias(*layers: HasWeights) -> torch.Tensor | None:
    """The biases of layers whose products are merged, zero where there is none; None if no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    weights = [local(layer.weight) for layer in layers]
    pairs = zip(weights, (layer.bias for layer in layers), strict=True)
    return torch.cat([w.new_zeros(len(w)) if bias is None else local(bias) for w, bias in pairs])
