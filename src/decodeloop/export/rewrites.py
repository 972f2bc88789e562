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
        self.seen: list[tuple[torch.Tensor, int]] = []  # tensors of indices, and how many indices there are

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function is torch.Tensor.unbind and (count := self._count(arguments[0])):
            return [torch.tensor([index]) for index in range(count)]
        if function is torch.nn.functional.one_hot and (count := self._count(arguments[0])):
            (classes,) = (*arguments[1:], *options.values(), -1)[:1]
            arguments, options = arguments[:1], {"num_classes": min(classes, count)}
        if function in SQUEEZE and len(arguments) == 2 and isinstance(arguments[1], int):
            size = arguments[0].shape[arguments[1]] if arguments[0].ndim else 1
            if isinstance(size, int) and size != 1:
                return arguments[0]
        result = function(*arguments, **options)
        if function in NONZERO and arguments[0].ndim == 1 and isinstance(result, torch.Tensor):
            self._see(result, arguments[0].shape[0])
        elif function in TOPK and arguments[0].ndim == 2:
            self._see(result[1], arguments[0].shape[1])
        elif function is torch.Tensor.numel and free_unbacked_symbols(result):
            result = torch.sym_max(result, 1)
        return result

    def _see(self, indices: torch.Tensor, count: Any) -> None:
        if isinstance(count, int):
            self.seen.append((indices, count))

    def _count(self, tensor: Any) -> int:
        return next((count for seen, count in self.seen if seen is tensor), 0)


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
