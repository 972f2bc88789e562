"""A description of a decoder to its graph: every layer of every family is put together here.

The residual stream goes through the norms: one operator adds what a part wrote and normalises the sum. Where both
parts of a layer read the same, or write into the same sum, their products are merged.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from decodeloop.export.fused.attention import Attentions
from decodeloop.export.fused.description import Decoder, FeedForward, Layer, Linear, Norm
from decodeloop.export.fused.nodes import FusedGraph
from decodeloop.models.linears import joined_bias


def fused_decoder(decoder: Decoder, dtype: torch.dtype, last_only: bool) -> ir.Model:
    """The graph of a decoder: inputs and outputs are those of :func:`decodeloop.export_onnx`.

    Without a table of positions it has no position ids: the attention operator counts them from the attention mask.
    """
    graph = FusedGraph(dtype)
    attentions = Attentions(graph, decoder)
    table = graph.weight("embedding.weight", decoder.embedding)
    hidden = graph.scaled(graph.op("Gather", table, attentions.ids), decoder.embedding_scale)
    if decoder.project_in is not None:
        hidden = graph.linear(hidden, "project_in", decoder.project_in)
    stream = Stream(graph, hidden)
    if decoder.positions is not None:
        positions = graph.weight("positions.weight", decoder.positions)
        stream.add(graph.op("Gather", positions, attentions.positions))
    for index, layer in enumerate(decoder.layers):
        put = _parallel if layer.parallel else _sequential
        put(graph, attentions, stream, f"layers.{index}", layer)
        if layer.scale != 1:
            stream.start(graph.scaled(stream.read(), layer.scale))
    x = stream.norm("norm", decoder.norm)
    if last_only:
        x = graph.op("Slice", x, graph.constant([-1]), graph.constant([2**31]), graph.constant([1]))
    if decoder.project_out is not None:
        x = graph.linear(x, "project_out", decoder.project_out)
    logits = _logits(graph, decoder, x, table)
    graph.output(logits, "logits", graph.dtype, "batch", 1 if last_only else "sequence", decoder.head.out_features)
    attentions.outputs()
    return graph.model(decoder.name)


class Stream:
    """The residual stream: a sum whose last term, and a bias, are added by the norm that reads it next."""

    def __init__(self, graph: FusedGraph, start: ir.Value) -> None:
        self.graph = graph
        self.start(start)

    def start(self, value: ir.Value) -> None:
        self.sum = value
        self.term: ir.Value | None = None
        self.bias: ir.Value | None = None

    def add(self, term: ir.Value, bias: ir.Value | None = None) -> None:
        self.read()
        self.term, self.bias = term, bias

    def read(self) -> ir.Value:
        """The sum of all that was added."""
        if self.term is not None:
            term = self.term if self.bias is None else self.graph.op("Add", self.term, self.bias)
            self.start(self.graph.op("Add", self.sum, term))
        return self.sum

    def norm(self, name: str, norm: Norm | None) -> ir.Value:
        """The sum, normalised; as it is without a norm."""
        if norm is None:
            return self.read()
        if self.term is None:
            return self.graph.norm(name, norm, self.sum)
        y, total = self.graph.skip_norm(name, norm, self.term, self.sum, self.bias)
        self.start(total)
        return y

    def write(self, name: str, x: ir.Value, layer: Linear, norm: Norm | None, scale: float) -> None:
        """Add what a part computes: a product, normalised and scaled."""
        if norm is None and scale == 1:
            self.add(self.graph.linear(x, name, layer, bias=False), self.graph.bias(name, layer.bias))
        else:
            y = self.graph.linear(x, name, layer)
            y = y if norm is None else self.graph.norm(f"{name}.norm", norm, y)
            self.add(self.graph.scaled(y, scale))


def _sequential(graph: FusedGraph, attentions: Attentions, stream: Stream, name: str, layer: Layer) -> None:
    """Attention, then a feed-forward part that reads what it wrote."""
    part, mlp, scale = layer.attention, layer.mlp, layer.residual_scale
    x = stream.norm(f"{name}.input_norm", layer.before_attention)
    attended = attentions(name, part, graph.linear(x, f"{name}.qkv", *part.read))
    stream.write(f"{name}.o", attended, part.write, layer.after_attention, scale)
    if layer.after_sum[0] is not None:
        stream.start(stream.norm(f"{name}.attention_sum_norm", layer.after_sum[0]))
    x = stream.norm(f"{name}.post_norm", layer.before_mlp)
    up = graph.linear(x, f"{name}.gate_up" if mlp.gated else f"{name}.up", *mlp.read, bias=False)
    stream.write(f"{name}.down", _activated(graph, name, mlp, up), mlp.down, layer.after_mlp, scale)
    if layer.after_sum[1] is not None:
        stream.start(stream.norm(f"{name}.mlp_sum_norm", layer.after_sum[1]))


def _parallel(graph: FusedGraph, attentions: Attentions, stream: Stream, name: str, layer: Layer) -> None:
    """Attention and feed-forward side by side: they read the same sum, and what both write is added to it."""
    part, mlp = layer.attention, layer.mlp
    x = stream.norm(f"{name}.input_norm", layer.before_attention)
    if layer.before_mlp is None:
        both = graph.linear(x, f"{name}.qkv_up", *part.read, *mlp.read, bias=False)
        qkv, up = graph.split(both, *(sum(linear.out_features for linear in read) for read in (part.read, mlp.read)))
    else:
        qkv = graph.linear(x, f"{name}.qkv", *part.read, bias=False)
        up = graph.linear(stream.norm(f"{name}.post_norm", layer.before_mlp), f"{name}.up", *mlp.read, bias=False)
    if (bias := graph.bias(f"{name}.qkv", joined_bias(*part.read))) is not None:
        qkv = graph.op("Add", qkv, bias)
    joined = graph.op("Concat", attentions(name, part, qkv), _activated(graph, name, mlp, up), axis=-1)
    weight = graph.weight(f"{name}.o_down.weight", part.write.weight.T, mlp.down.weight.T)
    biases = [linear.bias for linear in (part.write, mlp.down) if linear.bias is not None]
    bias = graph.bias(f"{name}.o_down", torch.stack(biases).sum(0) if biases else None)
    stream.add(graph.op("MatMul", joined, weight), bias)


def _activated(graph: FusedGraph, name: str, mlp: FeedForward, up: ir.Value) -> ir.Value:
    """What the last product of a feed-forward part reads, of what its first products make without their biases."""
    bias = graph.bias(f"{name}.up", joined_bias(*mlp.read))
    if not mlp.gated:
        return graph.activation(up, mlp.activation, bias)
    width = mlp.down.weight.shape[1]
    gate, up = graph.split(up if bias is None else graph.op("Add", up, bias), width, width)
    return graph.op("Mul", graph.activation(gate, mlp.activation), up)


def _logits(graph: FusedGraph, decoder: Decoder, x: ir.Value, table: ir.Value) -> ir.Value:
    head = decoder.head
    if head.weight is decoder.embedding:  # one table; a Transpose would be computed each time the graph is opened
        logits = graph.op("FusedMatMul", x, table, domain="com.microsoft", transB=1)
        if (bias := graph.bias("head", head.bias)) is not None:
            logits = graph.op("Add", logits, bias)
    else:
        logits = graph.linear(x, "head", head)
    logits = graph.scaled(logits, decoder.logit_scale)
    if decoder.logit_cap is None:
        return logits
    cap = graph.number(decoder.logit_cap)
    return graph.op("Mul", graph.op("Tanh", graph.op("Div", logits, cap)), cap)
