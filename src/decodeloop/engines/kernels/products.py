"""Products of a single row as operators of PyTorch, alone and with what stands around them in a decoder layer.

As operators they stay whole when a step is compiled, and :mod:`decodeloop.engines.kernels.fusion` can find them in its
graph. On a GPU they are the kernel of :mod:`decodeloop.engines.kernels.matvec`; on a CPU, where nothing uses them but
tests, they are what they mean: what is used there is :func:`summed` or PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # what may be added up in float32
NORMS = ("rms", "rms_plus_one", "layer")  # the second scales by one more than its weights
GATES = {"silu": functional.silu, "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh")}
ACTIVATIONS = GATES | {"gelu": functional.gelu, "relu": functional.relu}


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``torch.nn.functional.linear``; for a single row of ``x`` as an operator that the kernel computes.

    ``x`` is ``[..., in]``, ``weight`` ``[out, in]`` and contiguous, ``bias`` ``[out]``; the result is ``[..., out]``.
    """
    if x.numel() != weight.shape[1] or x.dtype not in DTYPES:
        return functional.linear(x, weight, bias)
    return matvec(x, weight, bias)


def summed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same as :func:`linear` for a CPU, where what is compiled is this sum and no operator.

    PyTorch's compiler makes one loop of it, which goes once through the weights, on all threads, as they lie in memory.
    Its libraries' products are made for many rows, and some processors are slower with them
    (:mod:`decodeloop.engines.kernels.cpu_product`).
    """
    if x.numel() != weight.shape[1] or x.dtype not in DTYPES:
        return functional.linear(x, weight, bias)
    y = (weight.float() * x.reshape(-1).float()).sum(-1)
    y = y if bias is None else y + bias.float()
    return y.to(x.dtype).reshape(*x.shape[:-1], -1)


@torch.library.custom_op("decodeloop::matvec", mutates_args=())
def matvec(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``weight @ x + bias``; ``weight`` is there before the step, since the kernel reads it before it waits."""
    if x.is_cuda:
        return _kernel(x, weight, bias)
    return functional.linear(x, weight, bias)


@torch.library.custom_op("decodeloop::matvec_add", mutates_args=())
def matvec_add(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor,
    other: torch.Tensor | None,
) -> torch.Tensor:
    """``residual + weight @ x + bias``, then ``+ other``: the end of an attention or feed-forward block, or of both."""
    if x.is_cuda:
        return _kernel(x, weight, bias, residual=residual, other=other)
    y = residual + functional.linear(x, weight, bias)
    return y if other is None else y + other


@torch.library.custom_op("decodeloop::norm_matvec", mutates_args=())
def norm_matvec(
    x: torch.Tensor,
    norm: torch.Tensor,
    shift: torch.Tensor | None,
    eps: float,
    kind: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gate: str,
    first: int | None = None,
) -> torch.Tensor:
    """``weight @ normalised(x) + bias``: the beginning of a block.

    ``kind`` is one of :data:`NORMS`, ``norm`` ``[in]`` scales what is normalised, and ``shift`` ``[in]`` is added. With
    a ``gate``, one of :data:`GATES`, the rows of ``weight`` are gates, then as many others, and the result is
    ``gate(gates) * others``. With ``first``, there are no others: the ``gate``, one of :data:`ACTIVATIONS`, is of the
    result's columns from ``first`` on, and those before it are a parallel block's queries, keys and values.
    """
    if x.is_cuda:
        given = {"norm": norm, "shift": shift, "eps": eps, "kind": kind, "gate": gate, "first": first}
        return _kernel(x, weight, bias, **given)
    y = functional.linear(normalised(x, norm, shift, eps, kind), weight, bias)
    if first is not None:
        return torch.cat([y[..., :first], ACTIVATIONS[gate](y[..., first:])], dim=-1)
    return gated(y, gate) if gate else y


def normalised(x: torch.Tensor, norm: torch.Tensor, shift: torch.Tensor | None, eps: float, kind: str) -> torch.Tensor:
    """A norm of :data:`NORMS`, rounded where transformers rounds it."""
    if kind == "layer":
        return functional.layer_norm(x, norm.shape, norm, shift, eps)
    return rms_norm(x, norm, eps, kind == "rms_plus_one")


def rms_norm(x: torch.Tensor, norm: torch.Tensor, eps: float, plus_one: bool) -> torch.Tensor:
    """`Root mean square layer normalization <https://arxiv.org/abs/1910.07467>`_, rounded where transformers rounds."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * (1.0 + norm.float())).type_as(x) if plus_one else norm * wide.to(x.dtype)


def gated(y: torch.Tensor, gate: str) -> torch.Tensor:
    """The first half of the columns, activated, times the second."""
    half = y.shape[-1] // 2
    return GATES[gate](y[..., :half]) * y[..., half : 2 * half]  # as merged layers take their columns


def _kernel(*arguments: Any, **options: Any) -> torch.Tensor:
    from decodeloop.engines.kernels.matvec import product  # Triton comes with PyTorch for GPUs only

    return product(*arguments, **options)


@matvec.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@matvec_add.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@norm_matvec.register_fake
def _(
    x: torch.Tensor,
    norm: torch.Tensor,
    shift: torch.Tensor | None,
    eps: float,
    kind: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gate: str,
    first: int | None = None,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // (2 if gate and first is None else 1)))
