"""Patterns that are looked for in the compiler's graph of a step, where what replaces them is decided afterwards.

Each is plain PyTorch, traced as the compiler traces a model.

Source: `inductor's pattern matcher
<https://github.com/pytorch/pytorch/blob/main/torch/_inductor/pattern_matcher.py>`_.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._inductor.pattern_matcher import Match, PatternMatcherPass, fwd_only, register_replacement
from torch.fx import Graph, Node

Found = dict[Node, dict[str, Any]]  # by the node that ends a pattern, what it was made of
EPS = 3.7e-5  # stands for any in a pattern, so it must be a number that no model has anywhere else


def found_in(graph: Graph, searched: tuple[PatternMatcherPass, Found]) -> Found:
    """What some patterns find in a graph."""
    patterns, found = searched
    found.clear()
    patterns.apply(graph)
    return dict(found)


def search(
    patterns: PatternMatcherPass,
    found: Found,
    pattern: Callable[..., Any],
    examples: list[torch.Tensor],
    eps: bool = False,
    **constants: Any,
) -> None:
    """A pattern that replaces nothing, and notes what it finds: its arguments, its nodes, and these constants.

    With ``eps``, its last argument is a number that is added under a root.
    """

    def note(match: Match) -> bool:
        facts = match.kwargs | constants | {"nodes": match.nodes}
        for node in match.nodes:
            if node.target is torch.ops.aten.rsqrt.default:
                mean_plus_eps: Any = node.args[0]
                facts["eps"] = mean_plus_eps.args[1]
        found[match.output_node()] = facts
        return False

    scalars: dict[str, float | int] | None = {"eps": EPS} if eps else None
    register_replacement(pattern, pattern, examples, fwd_only, patterns, note, scalar_workaround=scalars)
