"""What several rooms ask of a model's layers: the joined bias of linear layers, the kind of a norm."""

from __future__ import annotations

import torch
from torch import nn


def rms(module: nn.Module) -> bool:
    """Whether a norm divides by the root of the mean square alone, without a mean and a bias."""
    return not isinstance(module, nn.LayerNorm)


def joined_bias(*layers: nn.Linear) -> torch.Tensor | None:
    """The biases of layers whose products are merged, zero where there is none; None if no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [layer.weight.new_zeros(layer.out_features) if b is None else b for layer in layers for b in [layer.bias]]
    )
