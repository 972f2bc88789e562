"""What PyTorch's exporter cannot follow, in a way that it can: loops over experts, sizes, and a function of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from onnxscript import opset20 as op
from torch.fx.experimental.symbolic_shapes import constrain_range, free_unbacked_symbols
from torch.overrides import TorchFunctionMode

NONZERO = (torch.nonzero, torch.Tensor.nonzero)
TOPK = (torch.topk, torch.Tensor.topk)
SQUEEZE = (torch.squeeze, torch.Tensor.squeeze)


def at_least_one(size: Any) -> None:
    """Tell the exporter that a size is never 0: what a model computes from it is then known where 0 would differ."""
    if isinstance(size, torch.SymInt):
        constrain_range(size, min=1)


class Rewrites(TorchFunctionMode):
    """Within it, a loop over the experts that the text was sent to is a loop over all of them.

    ``for expert in hit.nonzero(): rows = where(sent_to[expert]); ...`` has as many turns as the text wants, and a
    graph as many as it was traced with. An expert that got no rows computes nothing and adds nothing, so the sum is
    the same. What makes such a loop one of a fixed number of turns:

    - the rows of ``nonzero()`` of a vector of fixed length, where they are looped over, are all of its indices;
    - a tensor of as many rows as the text wants counts as not empty, so no turn is left out;
    - an index that ``topk`` found among N is one of N classes, whatever larger number a one-hot vector allows for;
    - a dimension of fixed size that is not 1 is not squeezed: ONNX's operator fails where PyTorch's does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hits: list[tuple[torch.Tensor, int]] = []  # what nonzero() gave, and of how many
        self.chosen: list[tuple[torch.Tensor, int]] = []  # the indices that topk gave, and of how many

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}

        def argument(place: int, name: str, default: Any = None) -> Any:
            return arguments[place] if place < len(arguments) else options.get(name, default)

        given: Any = argument(0, "input")
        if function is torch.Tensor.unbind and argument(1, "dim", 0) == 0 and (count := _count(given, self.hits)):
            return [torch.tensor([index]) for index in range(count)]
        if function is torch.nn.functional.one_hot and (count := _count(given, self.chosen)):
            return function(given, min(argument(1, "num_classes", -1), count))
        if function in SQUEEZE and isinstance(dim := argument(1, "dim"), int) and given.ndim:
            size = given.shape[dim]
            if isinstance(size, int) and size != 1:
                return given
        result = function(*arguments, **options)
        if function in NONZERO and given.ndim == 1 and isinstance(result, torch.Tensor):
            _see(result, given.shape[0], self.hits)
        elif function in TOPK and given.ndim and argument(2, "dim", -1) in (-1, given.ndim - 1):
            _see(result[1], given.shape[-1], self.chosen)
        elif function is torch.Tensor.numel and free_unbacked_symbols(result):
            result = torch.sym_max(result, 1)
        return result


def _see(indices: torch.Tensor, count: Any, seen: list[tuple[torch.Tensor, int]]) -> None:
    if isinstance(count, int):
        seen.append((indices, count))


def _count(tensor: Any, seen: list[tuple[torch.Tensor, int]]) -> int:
    return next((count for indices, count in seen if indices is tensor), 0)


def erf_inv(x: Any) -> Any:
    """The inverse of the error function for ``-1 < x < 1``: a first guess, and two of Newton's steps.

    Source of the guess: S. Winitzki, "A handy approximation for the error function and its inverse", 2008.
    """

    def number(value: float) -> Any:
        constant: Any = op.Constant(value_float=value)
        return op.CastLike(constant, x)

    a = 8 * (math.pi - 3) / (3 * math.pi * (4 - math.pi))
    log = op.Log(op.Sub(number(1.0), op.Mul(x, x)))
    b = op.Add(number(2 / (math.pi * a)), op.Div(log, number(2.0)))
    root = op.Sqrt(op.Sub(op.Mul(b, b), op.Div(log, number(a))))
    y: Any = op.Mul(op.Sign(x), op.Sqrt(op.Sub(root, b)))
    for _ in range(2):
        slope = op.Mul(number(2 / math.sqrt(math.pi)), op.Exp(op.Neg(op.Mul(y, y))))
        y = op.Sub(y, op.Div(op.Sub(op.Erf(y), x), slope))
    return y
