"""A decoder as data: what each of its layers computes, in the order in which it is computed, filled from its modules.

A model is described only if all of it is: each tensor of its state stands somewhere in the description. What is left
over (experts, a second embedding, a norm of another kind) is computed somewhere, and a graph without it would be wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from decodeloop.export.fused.description import Attention, Decoder, FeedForward, Layer, Linear, Norm
from decodeloop.export.fused.families import FAMILIES, Family, NotDescribed
from decodeloop.export.fused.nodes import ACTIVATIONS
from decodeloop.export.fused.rotary import by_kind, rotary_tables

#: Linear layers by exact type; Falcon's computes what PyTorch's does.
LINEAR = ("Linear", "FalconLinear", "Conv1D")


def describe(model: PreTrainedModel) -> Decoder | None:
    """The description of a model, or None if it has something that a description cannot say."""
    family = FAMILIES.get(type(model).__name__)
    if family is None or not type(model).__module__.startswith("transformers."):
        return None
    try:
        return _Describer(model, family).decoder()
    except (NotDescribed, AttributeError):  # another version of transformers may call a part by another name
        return None


class _Describer:
    """Reads a model's modules by the names of its family, and keeps account of what it has read."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model, self.family, self.config = model, family, model.config
        self.base: Any = model.get_submodule(family.decoder)
        self.seen: set[int] = set()

    def decoder(self) -> Decoder:
        family, config, base = self.family, self.config, self.base
        embedding: Any = self.model.get_input_embeddings()
        if any(getattr(config, name, None) for name in family.unless):
            raise NotDescribed
        scale = getattr(embedding, "embed_scale", None)  # Gemma's embedding multiplies by itself, in its own dtype
        scale = 1.0 if scale is None else float(torch.as_tensor(scale).to(embedding.weight.dtype))
        positions = getattr(base, family.positions) if family.positions else None
        layers = tuple(self.layer(index, layer) for index, layer in enumerate(getattr(base, family.layers)))
        described = Decoder(
            name=type(self.model).__name__,
            embedding=self.tensor(embedding.weight),
            embedding_scale=scale * self.setting(family.embedding_scale, 1.0),
            project_in=self.linear(getattr(base, "project_in", None)),
            positions=None if positions is None else self.tensor(positions.weight)[getattr(positions, "offset", 0) :],
            layers=layers,
            norm=self.norm(getattr(base, family.final_norm)),
            project_out=self.linear(getattr(base, "project_out", None)),
            head=self.needed(self.model.get_output_embeddings()),
            logit_scale=self.setting(family.logit_scale, 1.0) / self.setting(family.logit_divisor, 1.0),
            logit_cap=self.setting(family.logit_cap, None),
            pairs=family.pairs,
            tables=rotary_tables(
                self.model, getattr(base, "rotary_emb", None), {layer.attention.rotary for layer in layers}
            ),
        )
        left = [name for name, t in self.model.state_dict(keep_vars=True).items() if id(t) not in self.seen]
        if left:
            raise NotDescribed(f"it has {left[0]}")
        return described

    def setting(self, name: str, default: Any) -> Any:
        """A value of the configuration; the default if the family has none, or the configuration leaves it open."""
        value = getattr(self.config, name) if name else None
        return default if value is None else float(value)

    def is_on(self, setting: bool | str) -> bool:
        return setting if isinstance(setting, bool) else any(getattr(self.config, n) for n in setting.split("|"))

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        self.seen.add(id(tensor))
        return tensor

    def linear(self, module: Any, rows: torch.Tensor | None = None) -> Linear | None:
        if module is None:
            return None
        if type(module).__name__ not in LINEAR or not type(module).__module__.startswith(("torch.", "transformers.")):
            raise NotDescribed(type(module).__name__)
        weight = self.tensor(module.weight)
        bias = None if module.bias is None else self.tensor(module.bias)
        bias = bias if bias is None or rows is None else bias[rows]
        return Linear(weight.T if isinstance(module, Conv1D) else weight, bias, rows)

    def needed(self, module: Any, rows: torch.Tensor | None = None) -> Linear:
        linear = self.linear(module, rows)
        if linear is None:
            raise NotDescribed
        return linear

    def norm(self, module: Any, size: int | None = None) -> Norm | None:
        if module is None:
            return None
        epsilon = [getattr(module, name) for name in ("eps", "variance_epsilon") if hasattr(module, name)]
        weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
        ones = torch.ones(size or self.config.hidden_size, device=self.model.device)
        return Norm(
            weight=ones if weight is None else self.tensor(weight),
            bias=None if bias is None else self.tensor(bias),
            epsilon=epsilon[0] if epsilon else 1e-5,  # OLMo's writes it into its call of layer_norm
            offset=0.0 if weight is None else self.family.norm_offset,
            centred=self.family.centred or isinstance(module, nn.LayerNorm),
        )

    def layer(self, index: int, module: Any) -> Layer:
        family = self.family
        mlp = module if not family.mlp else getattr(module, family.mlp)
        scalar = getattr(module, "layer_scalar", None)
        names = family.norms
        before = self.norm(_first(module, names.before_attention)), self.norm(_first(module, names.before_mlp))
        after = self.norm(_first(module, names.after_attention)), self.norm(_first(module, names.after_mlp))
        after_sum: tuple[Norm | None, Norm | None] = None, None
        if family.after_sums and not self.config.do_layer_norm_before:
            before, after_sum = after_sum, before
        return Layer(
            attention=self.attention(index, getattr(module, family.attention)),
            mlp=self.feed_forward(mlp),
            parallel=self.is_on(family.parallel),
            before_attention=before[0],
            after_attention=after[0],
            before_mlp=before[1],
            after_mlp=after[1],
            after_sum=after_sum,
            residual_scale=self.setting(family.residual_scale, 1.0),
            scale=1.0 if scalar is None else float(self.tensor(scalar)),
        )

    def attention(self, index: int, module: Any) -> Attention:
        family, config = self.family, self.config
        size = int(_first(module, "head_dim|head_size"))
        if not getattr(module, "is_causal", True):
            raise NotDescribed
        if family.joined:
            joined, heads = getattr(module, family.joined), config.num_attention_heads
            out = joined.weight.shape[1 if isinstance(joined, Conv1D) else 0]
            kv_heads, keys_are_values = (out // size - heads) // 2, False
            rows = _rows_by_group(heads, kv_heads, size) if family.by_group else None
            read = [self.needed(joined, rows)]
        else:
            parts = [getattr(module, name, None) for name in (family.query, family.key, family.value)]
            keys_are_values = parts[2] is None
            read = [self.needed(part) for part in (parts[:2] if keys_are_values else parts)]
            heads, kv_heads = read[0].out_features // size, read[1].out_features // size
        repeated = bool(family.repeated) and self.is_on(family.repeated)
        norms = [self.norm(_first(module, f"{part}_norm|{part}_layernorm"), size) for part in "qkv"]
        windowed = module if hasattr(module, "sliding_window") else config
        window = getattr(windowed, "sliding_window", None)
        return Attention(
            read=tuple(read),
            write=self.needed(getattr(module, family.out)),
            heads=heads,
            kv_heads=kv_heads,
            size=size,
            scale=float(_first(module, "scaling|inv_norm_factor")),
            repeats=heads // kv_heads if repeated else 1,
            keys_are_values=keys_are_values,
            q_norm=norms[0],
            k_norm=norms[1],
            v_norm=norms[2],
            clip=self.setting(family.clip, None),
            window=int(window) if window else None,
            cap=getattr(module, family.attention_cap) if family.attention_cap else None,
            rotary=self.rotary(index) if getattr(module, family.rotates, True) else None,
        )

    def rotary(self, index: int) -> str | None:
        """The kind of a layer, where each has its own frequencies; "" where there are one set; None without any."""
        module = getattr(self.base, "rotary_emb", None)
        if module is None:
            return None
        return str(self.config.layer_types[index]) if by_kind(module) else ""

    def feed_forward(self, module: Any) -> FeedForward:
        family, activation = self.family, getattr(self.config, self.family.activation)
        gated = bool(family.gate_up or family.gate)
        names = [family.gate_up] if family.gate_up else [family.gate, family.up] if gated else [family.up]
        if activation not in ACTIVATIONS:
            raise NotDescribed(activation)
        read = tuple(self.needed(getattr(module, name, None)) for name in names)
        return FeedForward(read, self.needed(getattr(module, family.down, None)), activation, gated)


def _first(module: Any, names: str) -> Any:
    """The first attribute of ``a|b`` that is there and not None."""
    found = (getattr(module, name, None) for name in names.split("|") if name)
    return next((value for value in found if value is not None), None)


def _rows_by_group(heads: int, kv_heads: int, size: int) -> torch.Tensor:
    """Where all queries, all keys, and all values lie in rows that hold the queries, key and value of each group."""
    rows = torch.arange((heads + 2 * kv_heads) * size).view(kv_heads, heads // kv_heads + 2, size)
    return torch.cat([rows[:, :-2].flatten(), rows[:, -2].flatten(), rows[:, -1].flatten()])
