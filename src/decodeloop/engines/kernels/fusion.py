"""What stands around a product of a single row joins it: the norm before it, the gate or the sum behind it.

The compiler's graph of a step is searched for these patterns, so this knows no architecture: a layer that computes the
same in another order keeps its kernels. Each pattern is plain PyTorch (:mod:`decodeloop.engines.kernels.products`),
traced as the compiler traces a model. An activation behind a product, and what comes before attention, are looked for
afterwards (:mod:`decodeloop.engines.kernels.activation_fusion`, :mod:`decodeloop.engines.kernels.attention_fusion`).

Source: `inductor's pattern matcher
<https://github.com/pytorch/pytorch/blob/main/torch/_inductor/pattern_matcher.py>`_.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.pattern_matcher import Match, PatternMatcherPass, fwd_only, register_replacement

from decodeloop.engines.kernels import activation_fusion, attention_fusion, decode_attention, graph_search, products
from decodeloop.engines.kernels.graph_search import EPS
from decodeloop.engines.kernels.products import GATES, NORMS, gated, matvec, matvec_add, norm_matvec, normalised

Pattern = tuple[Callable[..., Any], Callable[..., Any]]  # what is searched, and what replaces it


class Fusion(CustomGraphPass):
    """A pass over the compiler's graph of a step of a model of this dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, graph: torch.fx.Graph) -> None:
        for patterns in _passes(self.dtype):
            patterns.apply(graph)
        _multiply_columns(graph)
        activation_fusion.join(graph, self.dtype)
        attention_fusion.join(graph, self.dtype)

    def uuid(self) -> Any:
        parts = activation_fusion, attention_fusion, decode_attention, graph_search, products
        files = tuple(module.__file__ for module in parts)
        return get_hash_for_files((__file__, *files), str(self.dtype))


def _multiply_columns(graph: torch.fx.Graph) -> None:
    """A matrix product over one column adds nothing up: so rotary angles are made, which need no kernel of theirs."""
    for target in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
        for node in graph.find_nodes(op="call_function", target=target):
            column, row = node.args
            if column.meta["val"].shape[-1] == 1:
                with graph.inserting_before(node):
                    product = graph.call_function(torch.ops.aten.mul.Tensor, (column, row))
                product.meta["val"] = node.meta["val"]
                node.replace_all_uses_with(product)
                graph.erase_node(node)


@functools.cache
def _passes(dtype: torch.dtype) -> list[PatternMatcherPass]:
    """In their order: a gate is looked for behind products that have their norm, a second sum behind a first."""
    norms = [pattern for kind in NORMS for pattern in _norms(kind)]
    gates = [_gate(kind, gate) for kind in NORMS[:2] for gate in GATES]
    return [_pass(patterns, dtype) for patterns in (norms, gates, _sums(), _sums_of_two())]


def _norms(kind: str) -> list[Pattern]:
    found: list[Pattern] = [
        (
            lambda x, norm, weight, eps: matvec(normalised(x, norm, None, eps, kind), weight, None),
            lambda x, norm, weight, eps: norm_matvec(x, norm, None, eps, kind, weight, None, ""),
        ),
        (
            lambda x, norm, weight, eps, bias: matvec(normalised(x, norm, None, eps, kind), weight, bias),
            lambda x, norm, weight, eps, bias: norm_matvec(x, norm, None, eps, kind, weight, bias, ""),
        ),
    ]
    if kind != "layer":
        return found
    return [
        *found,
        (
            lambda x, norm, weight, eps, shift: matvec(normalised(x, norm, shift, eps, kind), weight, None),
            lambda x, norm, weight, eps, shift: norm_matvec(x, norm, shift, eps, kind, weight, None, ""),
        ),
        (
            lambda x, norm, weight, eps, shift, bias: matvec(normalised(x, norm, shift, eps, kind), weight, bias),
            lambda x, norm, weight, eps, shift, bias: norm_matvec(x, norm, shift, eps, kind, weight, bias, ""),
        ),
    ]


def _gate(kind: str, gate: str) -> Pattern:
    return (
        lambda x, norm, weight, eps: gated(norm_matvec(x, norm, None, eps, kind, weight, None, ""), gate),
        lambda x, norm, weight, eps: norm_matvec(x, norm, None, eps, kind, weight, None, gate),
    )


def _sums() -> list[Pattern]:
    return [
        (
            lambda x, weight, residual: residual + matvec(x, weight, None),
            lambda x, weight, residual: matvec_add(x, weight, None, residual, None),
        ),
        (
            lambda x, weight, residual: matvec(x, weight, None) + residual,
            lambda x, weight, residual: matvec_add(x, weight, None, residual, None),
        ),
        (
            lambda x, weight, residual, bias: residual + matvec(x, weight, bias),
            lambda x, weight, residual, bias: matvec_add(x, weight, bias, residual, None),
        ),
        (
            lambda x, weight, residual, bias: matvec(x, weight, bias) + residual,
            lambda x, weight, residual, bias: matvec_add(x, weight, bias, residual, None),
        ),
    ]


def _sums_of_two() -> list[Pattern]:
    """A block whose attention and MLP work side by side adds both to what it read."""
    return [
        (
            lambda x, weight, residual, bias, other: matvec_add(x, weight, bias, residual, None) + other,
            lambda x, weight, residual, bias, other: matvec_add(x, weight, bias, residual, other),
        ),
        (
            lambda x, weight, residual, bias, other: other + matvec_add(x, weight, bias, residual, None),
            lambda x, weight, residual, bias, other: matvec_add(x, weight, bias, residual, other),
        ),
        (
            lambda x, weight, residual, other: matvec_add(x, weight, None, residual, None) + other,
            lambda x, weight, residual, other: matvec_add(x, weight, None, residual, other),
        ),
        (
            lambda x, weight, residual, other: other + matvec_add(x, weight, None, residual, None),
            lambda x, weight, residual, other: matvec_add(x, weight, None, residual, other),
        ),
    ]


def _pass(patterns: list[Pattern], dtype: torch.dtype) -> PatternMatcherPass:
    """The patterns, each traced with a few numbers in place of a layer's."""
    examples = {
        "x": torch.empty(1, 1, 8, dtype=dtype),
        "norm": torch.empty(8, dtype=dtype),
        "shift": torch.empty(8, dtype=dtype),
        "weight": torch.empty(6, 8, dtype=dtype),
        "bias": torch.empty(6, dtype=dtype),
        "residual": torch.empty(1, 1, 6, dtype=dtype),
        "other": torch.empty(1, 1, 6, dtype=dtype),
    }
    found = PatternMatcherPass(pass_name="decodeloop")
    for search, replace in patterns:
        names = list(inspect.signature(search).parameters)
        inputs = [examples[name] for name in names if name != "eps"]
        scalars = {"eps": EPS} if "eps" in names else None
        register_replacement(search, replace, inputs, fwd_only, found, _adds_alike, scalar_workaround=scalars)
    return found


def _adds_alike(match: Match) -> bool:
    """What is added has the product's shape and dtype: the kernel neither repeats numbers nor widens them."""
    result = match.output_node().meta["val"]
    for name in ("residual", "other"):
        added = match.kwargs.get(name)
        if name in match.kwargs and not (
            isinstance(added, torch.fx.Node)
            and added.meta["val"].shape == result.shape
            and added.meta["val"].dtype == result.dtype
        ):
            return False
    return True
