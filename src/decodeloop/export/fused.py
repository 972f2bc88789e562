"""Whole decoders as fused graphs: which models have one, and how their layers are put together.

Two kinds of layers cover many models. In a *sequential* one (Llama and its kin) the feed-forward part reads what the
attention part wrote. In a *parallel* one (Phi) both read the same, so that their products can be merged: one for all
that is read, one for all that is written.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from decodeloop.export.fused_nodes import ACTIVATIONS, FusedGraph
from decodeloop.models.linears import joined_bias

#: Models whose layers are sequential, and those whose layers are parallel: by exact class, since a subclass may differ.
SEQUENTIAL = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)
PARALLEL = ("PhiForCausalLM",)


def fusable(model: PreTrainedModel) -> bool:
    """Whether :func:`fused_decoder` knows the model; others are traced."""
    config = model.config
    if type(model).__name__ not in SEQUENTIAL + PARALLEL or not type(model).__module__.startswith("transformers."):
        return False
    plain = all(type(m) is nn.Linear for n, m in model.named_modules() if n.endswith("_proj") or n.endswith("lm_head"))
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    return (
        plain
        and _rotary_tables(model, 1)["cos"].shape[-1] % 8 == 0  # the operator's condition
        and config.hidden_act in ACTIVATIONS
        and rope_type in ("default", "linear", "llama3", "yarn")
        and not getattr(config, "qk_layernorm", False)
    )


def fused_decoder(model: PreTrainedModel, last_only: bool) -> ir.Model:
    """The graph of a decoder: inputs and outputs are those of :func:`decodeloop.export_onnx`, without position ids.

    Positions follow from the attention mask, which the attention operator counts by itself.
    """
    config, base = model.config, model.model
    embedding: Any = model.get_input_embeddings()
    graph = FusedGraph(model.dtype)
    parallel = type(model).__name__ in PARALLEL
    attention = Attention(graph, model)

    hidden = graph.op("Gather", graph.weight("embedding.weight", embedding.weight), attention.ids)
    skip = bias = None
    for index, layer in enumerate(base.layers):
        norm = f"layers.{index}.input_norm"
        x, skip = graph.norm(norm, layer.input_layernorm, hidden, skip, bias)
        if parallel:
            hidden, bias = _parallel(graph, attention, index, layer, x, config)
        else:
            hidden, skip = _sequential(graph, attention, index, layer, x, skip, config)
    x, _ = graph.norm("norm", base.final_layernorm if parallel else base.norm, hidden, skip, bias)
    if last_only:
        x = graph.op("Slice", x, graph.constant([-1]), graph.constant([2**31]), graph.constant([1]))
    _head(graph, model, x, last_only)
    attention.outputs()
    return graph.model(type(model).__name__)


def _sequential(
    graph: FusedGraph,
    attention: Attention,
    index: int,
    layer: Any,
    x: ir.Value,
    skip: ir.Value,
    config: PreTrainedConfig,
) -> tuple[ir.Value, ir.Value]:
    """Attention, then a gated feed-forward part: what the latter wrote, and the residual before it."""
    name = f"layers.{index}"
    part = layer.self_attn
    projections = [part.qkv_proj] if hasattr(part, "qkv_proj") else [part.q_proj, part.k_proj, part.v_proj]
    attended = attention(index, part, graph.linear(x, f"{name}.qkv", *projections))
    written = graph.linear(attended, f"{name}.o", part.o_proj)
    x, skip = graph.norm(f"{name}.post_norm", layer.post_attention_layernorm, written, skip)
    mlp = layer.mlp
    gate_up = [mlp.gate_up_proj] if hasattr(mlp, "gate_up_proj") else [mlp.gate_proj, mlp.up_proj]
    width = mlp.down_proj.in_features
    gate, up = graph.split(graph.linear(x, f"{name}.gate_up", *gate_up), width, width)
    x = graph.op("Mul", graph.activation(gate, config.hidden_act), up)
    return graph.linear(x, f"{name}.down", mlp.down_proj), skip


def _parallel(
    graph: FusedGraph, attention: Attention, index: int, layer: Any, x: ir.Value, config: PreTrainedConfig
) -> tuple[ir.Value, torch.Tensor]:
    """Attention and feed-forward side by side: what both wrote, and the bias that the next norm adds to it."""
    name, part, mlp = f"layers.{index}", layer.self_attn, layer.mlp
    read = [part.q_proj, part.k_proj, part.v_proj]
    width = sum(projection.out_features for projection in read)
    both = graph.linear(x, f"{name}.qkv_fc1", *read, mlp.fc1, bias=False)
    qkv, up = graph.split(both, width, mlp.fc1.out_features)
    if (bias := joined_bias(*read)) is not None:
        qkv = graph.op("Add", qkv, graph.weight(f"{name}.qkv.bias", bias))
    up = graph.activation(up, config.hidden_act, graph.weight(f"{name}.fc1.bias", mlp.fc1.bias))
    joined = graph.op("Concat", attention(index, part, qkv), up, axis=-1)
    weight = graph.weight(f"{name}.dense_fc2.weight", part.dense.weight.T, mlp.fc2.weight.T)
    return graph.op("MatMul", joined, weight), part.dense.bias + mlp.fc2.bias


def _head(graph: FusedGraph, model: PreTrainedModel, x: ir.Value, last_only: bool) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:  # one table in the file; onnxruntime transposes it when it opens the graph
        table = next(value for value in graph.tape.initializers if value.name == "embedding.weight")
        logits = graph.op("MatMul", x, graph.op("Transpose", table, perm=[1, 0]))
        if head.bias is not None:
            logits = graph.op("Add", logits, graph.weight("head.bias", head.bias))
    else:
        logits = graph.linear(x, "head", head)
    graph.output(logits, "logits", graph.dtype, "batch", 1 if last_only else "sequence", head.out_features)


class Attention:
    """The graph's inputs and outputs that attention needs, and its node for each layer."""

    def __init__(self, graph: FusedGraph, model: PreTrainedModel) -> None:
        self.graph, self.config = graph, model.config
        heads, layers = self.config.num_attention_heads, len(model.model.layers)
        self.heads = heads, getattr(self.config, "num_key_value_heads", None) or heads
        self.size = model.model.layers[0].self_attn.head_dim
        self.shape = "batch", self.heads[1], "capacity", self.size
        self.ids = graph.input("input_ids", ir.DataType.INT64, "batch", "sequence")
        self.mask = graph.input("attention_mask", ir.DataType.INT64, "batch", "total")
        self.past = {
            (layer, part): graph.input(f"past_key_values.{layer}.{part}", graph.dtype, *self.shape)
            for layer in range(layers)
            for part in ("key", "value")
        }
        self.present: dict[tuple[int, str], ir.Value] = {}
        tables = _rotary_tables(model, self.config.max_position_embeddings)
        self.rotary = [graph.weight(f"rotary.{name}", table) for name, table in tables.items()]
        lengths = graph.op("ReduceSum", self.mask, graph.constant([1]), keepdims=0)
        self.seqlens_k = graph.op("Cast", graph.op("Sub", lengths, graph.constant([1])), to=ir.DataType.INT32)
        # the total length comes from a shape: so it is a scalar on the CPU, which a CUDA graph can be captured with
        total = graph.op("Squeeze", graph.op("Shape", self.mask, start=1, end=2))
        self.total = graph.op("Cast", total, to=ir.DataType.INT32)

    def __call__(self, index: int, module: Any, qkv: ir.Value) -> ir.Value:
        """One GroupQueryAttention: rotates queries and keys, appends keys and values to the cache, attends."""
        heads, kv_heads = self.heads
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        query, key, value = qkv, None, None
        if norms[0] is not None:
            query, key, value = self.graph.split(qkv, heads * self.size, *2 * [kv_heads * self.size])
            query = self._head_norm(f"layers.{index}.q_norm", norms[0], query, heads)
            key = self._head_norm(f"layers.{index}.k_norm", norms[1], key, kv_heads)
        attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": float(module.scaling)}
        rotary = self.rotary if getattr(module, "use_rope", True) else []
        attributes["do_rotary"] = int(bool(rotary))
        if window := getattr(module if hasattr(module, "sliding_window") else self.config, "sliding_window", None):
            attributes["local_window_size"] = int(window)
        past = [self.past[index, part] for part in ("key", "value")]
        attended, *present = self.graph.tape.op_multi_out(
            "GroupQueryAttention",
            [query, key, value, *past, self.seqlens_k, self.total, *rotary],
            attributes,
            num_outputs=3,
            domain="com.microsoft",
        )
        self.present |= zip(((index, "key"), (index, "value")), present, strict=True)
        return attended

    def _head_norm(self, name: str, module: Any, x: ir.Value, heads: int) -> ir.Value:
        """A norm of each head by itself."""
        apart = self.graph.op("Reshape", x, self.graph.constant([0, 0, heads, self.size]))
        return self.graph.op(
            "Reshape", self.graph.norm(name, module, apart)[0], self.graph.constant([0, 0, heads * self.size])
        )

    def outputs(self) -> None:
        for (layer, part), value in self.present.items():
            self.graph.output(value, f"present.{layer}.{part}", self.graph.dtype, *self.shape)


def _rotary_tables(model: PreTrainedModel, count: int) -> dict[str, torch.Tensor]:
    """Cosine and sine of the first positions, ``[count, rotated size / 2]``, as the model computes them."""
    positions = torch.arange(count, device=model.device)[None]
    like = torch.zeros(1, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        tables = model.model.rotary_emb(like, positions)
    return {name: t[0, :, : t.shape[-1] // 2] for name, t in zip(("cos", "sin"), tables, strict=True)}
