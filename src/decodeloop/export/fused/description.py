"""What a decoder computes, as data: the norms, products, scales and attention of each layer, and their weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Norm:
    """``(x - mean) / deviation * (weight + offset) + bias``; without ``centred``, 0 is taken for the mean.

    ``weight`` is ``[size]``, or ``[heads, size]`` for a norm of each head with weights of its own.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    epsilon: float
    offset: float
    centred: bool

    def scale(self) -> torch.Tensor:
        return self.weight.float() + self.offset if self.offset else self.weight


@dataclass(frozen=True)
class Linear:
    """``x @ ordered().T + bias``: the weight is ``[out, in]``, its rows in the order of ``rows`` if that is given."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    rows: torch.Tensor | None = None

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def ordered(self) -> torch.Tensor:
        return self.weight if self.rows is None else self.weight[self.rows]


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values of ``heads`` and ``kv_heads`` heads of ``size``, and how they attend.

    ``read`` computes all of them, one below the other; without values, keys serve as such. ``repeats`` is how often
    each key head stands in the cache. ``rotary`` names the decoder's tables, None where nothing is rotated.
    """

    read: tuple[Linear, ...]
    write: Linear
    heads: int
    kv_heads: int
    size: int
    scale: float
    repeats: int = 1
    keys_are_values: bool = False
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_norm: Norm | None = None
    clip: float | None = None
    window: int | None = None
    cap: float | None = None
    rotary: str | None = None


@dataclass(frozen=True)
class FeedForward:
    """``down(activation(gate(x)) * up(x))``, or ``down(activation(up(x)))`` without a gate."""

    read: tuple[Linear, ...]
    down: Linear
    activation: str
    gated: bool


@dataclass(frozen=True)
class Layer:
    """Attention and feed-forward part: one behind the other, or side by side.

    Norms of what each part reads, of what it writes, and of the sums with what it wrote; None where there is none.
    """

    attention: Attention
    mlp: FeedForward
    parallel: bool
    before_attention: Norm | None
    after_attention: Norm | None
    before_mlp: Norm | None
    after_mlp: Norm | None
    after_sum: tuple[Norm | None, Norm | None] = (None, None)
    residual_scale: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True)
class Decoder:
    """Everything between token ids and logits."""

    name: str
    embedding: torch.Tensor
    embedding_scale: float
    project_in: Linear | None
    positions: torch.Tensor | None
    layers: tuple[Layer, ...]
    norm: Norm | None
    project_out: Linear | None
    head: Linear
    logit_scale: float
    logit_cap: float | None
    pairs: bool
    tables: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)
