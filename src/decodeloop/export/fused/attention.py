"""The inputs and outputs of a graph that attention needs, and one GroupQueryAttention for each layer.

The operator rotates queries and keys, appends keys and values to a cache of fixed capacity, and attends; it counts
positions from the attention mask.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from decodeloop.export.fused.description import Attention, Decoder, Norm
from decodeloop.export.fused.nodes import FusedGraph


class Attentions:
    """What the attentions of all layers share."""

    def __init__(self, graph: FusedGraph, decoder: Decoder) -> None:
        self.graph, self.pairs = graph, decoder.pairs
        self.ids = graph.input("input_ids", ir.DataType.INT64, "batch", "sequence")
        self.mask = graph.input("attention_mask", ir.DataType.INT64, "batch", "total")
        self.positions = None
        if decoder.positions is not None:  # a table is read at positions that no operator counts
            self.positions = graph.input("position_ids", ir.DataType.INT64, "batch", "sequence")
        self.past = [
            [graph.input(f"past_key_values.{index}.{part}", graph.dtype, *_shape(layer.attention)) for part in PARTS]
            for index, layer in enumerate(decoder.layers)
        ]
        self.present: list[tuple[Attention, list[ir.Value]]] = []
        self.tables = {
            kind: [graph.weight(_name("rotary", kind, "cos"), cos), graph.weight(_name("rotary", kind, "sin"), sin)]
            for kind, (cos, sin) in decoder.tables.items()
        }
        lengths = graph.op("ReduceSum", self.mask, graph.constant([1]), keepdims=0)
        self.seqlens_k = graph.op("Cast", graph.op("Sub", lengths, graph.constant([1])), to=ir.DataType.INT32)
        # the total length comes from a shape: so it is a scalar on the CPU, which a CUDA graph can be captured with
        total = graph.op("Squeeze", graph.op("Shape", self.mask, start=1, end=2))
        self.total = graph.op("Cast", total, to=ir.DataType.INT32)

    def __call__(self, name: str, part: Attention, qkv: ir.Value) -> ir.Value:
        """What the next layer attends to, of its queries, keys and values, one beside the other."""
        graph = self.graph
        if part.clip is not None:
            qkv = graph.op("Clip", qkv, graph.number(-part.clip), graph.number(part.clip))
        query, key, value = self._apart(name, part, qkv)
        attributes = {"num_heads": part.heads, "kv_num_heads": _kv_heads(part), "scale": part.scale}
        rotary = [] if part.rotary is None else self.tables[part.rotary]
        attributes["do_rotary"] = int(bool(rotary))
        if rotary and self.pairs:
            attributes["rotary_interleaved"] = 1
        if part.window is not None:
            attributes["local_window_size"] = part.window
        if part.cap is not None:
            attributes["softcap"] = part.cap
        attended, *present = graph.tape.op_multi_out(
            "GroupQueryAttention",
            [query, key, value, *self.past[len(self.present)], self.seqlens_k, self.total, *rotary],
            attributes,
            num_outputs=3,
            domain="com.microsoft",
        )
        self.present.append((part, list(present)))
        return attended

    def _apart(self, name: str, part: Attention, qkv: ir.Value) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Queries, keys and values: all in the first, as the operator takes them, unless they are changed before."""
        graph, widths = self.graph, [part.heads * part.size, part.kv_heads * part.size]
        norms = [part.q_norm, part.k_norm, part.v_norm]
        if part.repeats > 1:
            return graph.op("Gather", qkv, graph.constant(_repeated(part)), axis=-1), None, None
        if not any(norms) and not part.keys_are_values:
            return qkv, None, None
        if part.keys_are_values:
            query, key = graph.split(qkv, *widths)
            parts = [query, key, key]
        else:
            parts = graph.split(qkv, *widths, widths[1])
        heads = part.heads, part.kv_heads, part.kv_heads
        query, key, value = (
            x if norm is None else self._head_norm(f"{name}.{which}_norm", norm, x, count, part.size)
            for which, norm, x, count in zip("qkv", norms, parts, heads, strict=True)
        )
        return query, key, value

    def _head_norm(self, name: str, norm: Norm, x: ir.Value, heads: int, size: int) -> ir.Value:
        """A norm of each head by itself, with one weight for all or one for each; or of all of them together."""
        graph, shape = self.graph, norm.weight.shape
        if shape == (heads * size,) and heads > 1:
            return graph.norm(name, norm, x)
        own = None
        if len(shape) == 2:
            own, norm = norm.scale(), Norm(torch.ones_like(norm.weight[0]), None, norm.epsilon, 0.0, norm.centred)
        y = graph.op("Reshape", x, graph.constant([0, 0, heads, size]))
        y = graph.op("Reshape", graph.norm(name, norm, y), graph.constant([0, 0, heads * size]))
        return y if own is None else graph.op("Mul", y, graph.weight(f"{name}.weights", own.flatten()))

    def outputs(self) -> None:
        for index, (part, present) in enumerate(self.present):
            for name, value in zip(PARTS, present, strict=True):
                self.graph.output(value, f"present.{index}.{name}", self.graph.dtype, *_shape(part))


PARTS = ("key", "value")


def _kv_heads(part: Attention) -> int:
    """Heads of keys in the cache."""
    return part.kv_heads * part.repeats


def _shape(part: Attention) -> tuple[int | str, ...]:
    return "batch", _kv_heads(part), "capacity", part.size


def _repeated(part: Attention) -> list[int]:
    """Where queries, keys and values lie once each key head stands there once for each of its query heads."""
    size, heads, kv_heads = part.size, part.heads, part.kv_heads
    rows = torch.arange((heads + 2 * kv_heads) * size).view(-1, size)
    query, key, value = rows.split([heads, kv_heads, kv_heads])
    keys, values = (each.repeat_interleave(part.repeats, dim=0) for each in (key, value))
    return torch.cat([query, keys, values]).flatten().tolist()


def _name(*parts: str) -> str:
    return ".".join(part for part in parts if part)
