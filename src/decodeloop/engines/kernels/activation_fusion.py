"""The activation of a feed-forward block joins the product before it, in a compiled step.

In a parallel block that product makes queries, keys and values as well: then its last columns alone are activated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch._inductor.pattern_matcher import PatternMatcherPass
from torch.fx import Graph, Node
from transformers.activations import ACT2FN

from decodeloop.engines.kernels.graph_search import Found, found_in, search

aten = torch.ops.aten
WRITTEN = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def join(graph: Graph, dtype: torch.dtype) -> None:
    """Let each product of a graph that has its norm activate what it computes, where nothing else reads that."""
    for node, found in found_in(graph, _activations(dtype)).items():
        x = found["x"]
        product, (first, end) = _columns(x)
        if product.target is not torch.ops.decodeloop.norm_matvec.default:
            continue
        *arguments, gate = product.args[:8]
        if gate or end < product.meta["val"].shape[-1] or any(user not in found["nodes"] for user in x.users):
            continue
        if product is not x and not all(user is x or _is_before(user, product, first) for user in product.users):
            continue
        with graph.inserting_before(product):
            # by the same operator: torch 2.11 writes out all that leads to one that it meets for the first time
            activated = graph.call_function(product.target, (*arguments, found["activation"], first))
        activated.meta["val"] = product.meta["val"]
        product.replace_all_uses_with(activated)
        node.replace_all_uses_with(activated if product is x else x)
    graph.eliminate_dead_code()


def _is_before(user: Node, product: Node, first: int) -> bool:
    """Whether all that a node reads of a product is columns before the first one that is activated."""
    if user.target is not aten.slice.Tensor:
        return False
    source, (_, end) = _columns(user)
    return source is product and end <= first


def _columns(node: Node) -> tuple[Node, tuple[int, int]]:
    """What a node takes columns of, and the first one and the one behind the last: itself, unless it is a slice."""
    width = node.meta["val"].shape[-1]
    if node.target is not aten.slice.Tensor or len(node.args) != 4 or node.kwargs:
        return node, (0, width)
    source, dim, begin, end = node.args
    assert isinstance(source, Node)
    whole = source.meta["val"].shape
    if not isinstance(begin, int) or not isinstance(end, int) or dim not in (-1, len(whole) - 1) or min(begin, end) < 0:
        return node, (0, width)
    return source, (begin, min(end, whole[-1]))


@functools.cache
def _activations(dtype: torch.dtype) -> tuple[PatternMatcherPass, Found]:
    """By the names that transformers has for them."""
    patterns, found = PatternMatcherPass(pass_name="decodeloop"), Found()
    for name, activation in WRITTEN.items():
        example = torch.empty(1, 1, 8, dtype=dtype)
        search(patterns, found, _applied(ACT2FN[name]), [example], activation=activation)
    return patterns, found


def _applied(activation: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: activation(x)
