"""Linear layers that read the same tensor, computed as one product: fewer and larger kernels, the same numbers.

The product of a single row, which is a decode step of one text, is one of our own: an operator on a GPU
(:mod:`decodeloop.engines.kernels.products`), on a CPU a sum, where that is faster
(:mod:`decodeloop.engines.kernels.cpu_product`).

Which layers share an input is found by watching a model read one token, so this knows no architecture: queries, keys
and values do, gate and up do, and a parallel block reads one tensor for all of these.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from decodeloop.engines.kernels import cpu_product, products
from decodeloop.models.linears import joined_bias
from decodeloop.models.spread import is_split, local


class Product:
    """The linear layers of one input as one product, ``[..., in] -> [..., sum of out]``; kept while it is asked for."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        weights = [local(layer.weight).detach() for layer in layers]
        self.weight = torch.cat(weights) if len(weights) > 1 else weights[0].contiguous()
        self.bias = joined_bias(*layers)
        self.linear = linear_for(self.weight)
        self.value: torch.Tensor | None = None

    def compute(self, x: torch.Tensor) -> None:
        self.value = self.linear(x, self.weight, self.bias)


class Columns(nn.Module):
    """One of these layers: the first that a model calls computes the product, and each takes its columns of it."""

    def __init__(self, product: Product, columns: slice, first: bool, last: bool) -> None:
        super().__init__()
        self.product, self.columns, self.first, self.last = product, columns, first, last

    @property
    def weight(self) -> torch.Tensor:
        """``[out, in]``, as the layer had it: some models look at its dtype."""
        return self.product.weight[self.columns]

    @property
    def bias(self) -> torch.Tensor | None:
        return None if self.product.bias is None else self.product.bias[self.columns]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            self.product.compute(x)
        value = self.product.value
        assert value is not None  # the first one has computed it
        if self.last:
            self.product.value = None
        return value[..., self.columns]


def linear_for(weight: torch.Tensor) -> Any:
    """The fastest ``linear(x, weight, bias)`` for such weights, on the device where they are."""
    if weight.device.type == "cpu":
        return cpu_product.faster(weight.dtype)
    return products.linear if weight.device.type == "cuda" else functional.linear


def with_merged_linears(model: PreTrainedModel) -> PreTrainedModel:
    """A model that computes the same. It shares the weights of the one given, but for those merged, which it copies."""
    merged = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for names in linears_by_input(model):
        layers = [layer for layer in map(model.get_submodule, names) if isinstance(layer, nn.Linear)]  # they all are
        product, stop = Product(layers), 0
        for name, layer in zip(names, layers, strict=True):
            start, stop = stop, stop + len(local(layer.weight))
            columns = Columns(product, slice(start, stop), first=name == names[0], last=name == names[-1])
            merged.set_submodule(name, columns)
    return merged


@torch.no_grad()
def linears_by_input(model: PreTrainedModel) -> list[list[str]]:
    """The names of plain linear layers that are called once, in that order, for each tensor that they are given."""
    inputs: dict[int, tuple[torch.Tensor, list[str]]] = {}  # the tensor itself too: else its id would be given again

    def note(name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        if y.shape[-1] == len(local(plain[name].weight)):  # else it was gathered from several ranks
            inputs.setdefault(id(x), (x, []))[1].append(name)

    def hook(name: str) -> Any:
        return lambda module, arguments, output: note(name, arguments[0], output)

    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    plain = {name: module for name, module in linears.items() if is_split(module)}
    hooks = [module.register_forward_hook(hook(name)) for name, module in plain.items()]
    try:
        model(torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    called = [name for _, names in inputs.values() for name in names]
    return [names for _, names in inputs.values() if all(called.count(name) == 1 for name in names)]
