"""ONNX nodes of a decoder, each the operator that onnxruntime has for it: the pieces that a layer is put together from.

Nothing is traced and nothing is searched for: a product of several linear layers, a norm that adds what the layer
before it made, an attention that rotates, appends and attends are single nodes from the start.

Source: the operators' documentation, onnxruntime's ``docs/ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype

from decodeloop.export.fused.description import Linear, Norm
from decodeloop.models.linears import joined_bias

#: How activations of transformers are computed in one node: operator, its domain and attributes.
ACTIVATIONS: dict[str, tuple[str, str, dict[str, float]]] = {
    "gelu": ("Gelu", "com.microsoft", {}),
    "gelu_fast": ("FastGelu", "com.microsoft", {}),
    "gelu_new": ("FastGelu", "com.microsoft", {}),
    "gelu_pytorch_tanh": ("FastGelu", "com.microsoft", {}),
    "relu": ("Relu", "", {}),
    "silu": ("QuickGelu", "com.microsoft", {"alpha": 1.0}),  # x * sigmoid(alpha * x)
    "swish": ("QuickGelu", "com.microsoft", {"alpha": 1.0}),
}
OPSET, IR_VERSION = 21, 10


class FusedGraph:
    """A graph under construction: each method adds nodes and returns the value that they compute.

    Hidden states are ``[batch, sequence, hidden size]`` throughout.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.tape, self.dtype, self.torch_dtype = Tape(), from_torch_dtype(dtype), dtype
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.constants: dict[Any, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
        self.inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        return self.inputs[-1]

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, *shape: int | str) -> None:
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.outputs.append(value)

    def op(self, name: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        return self.tape.op(name, inputs, attributes, domain=domain)

    def constant(self, values: Any, dtype: torch.dtype = torch.int64) -> ir.Value:
        key = str(values), dtype
        if key not in self.constants:
            tensor = TorchTensor(torch.tensor(values, dtype=dtype), name=f"constant.{len(self.constants)}")
            self.constants[key] = self.tape.initializer(tensor)
        return self.constants[key]

    def weight(self, name: str, *parts: torch.Tensor, transposed: bool = False) -> ir.Value:
        """An initializer: the parts one above the other. They are joined when the file is written, one at a time."""
        return self.lazy(name, lambda: parts, [part.shape for part in parts], transposed)

    def lazy(
        self,
        name: str,
        make: Callable[[], Iterable[torch.Tensor]],
        shapes: Sequence[Sequence[int]],
        transposed: bool = False,
    ) -> ir.Value:
        """An initializer of parts that are not made before the file is written."""

        def joined() -> ir.TensorProtocol:
            parts = list(make())
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            whole = (whole.T if transposed else whole).detach().to(self.torch_dtype)
            return TorchTensor(whole.contiguous(), name=name)

        shape = [sum(shape[0] for shape in shapes), *shapes[0][1:]]
        shape = shape[::-1] if transposed else shape
        return self.tape.initializer(ir.LazyTensor(joined, self.dtype, ir.Shape(shape), name=name), name=name)

    def number(self, value: float) -> ir.Value:
        return self.constant(value, self.torch_dtype)

    def scaled(self, x: ir.Value, factor: float) -> ir.Value:
        return x if factor == 1 else self.op("Mul", x, self.number(factor))

    def linear(self, x: ir.Value, name: str, *layers: Linear, bias: bool = True) -> ir.Value:
        """Several linear layers of one input as one product; without ``bias``, the caller adds it."""
        shapes = [layer.weight.shape for layer in layers]
        weight = self.lazy(f"{name}.weight", lambda: (layer.ordered() for layer in layers), shapes, transposed=True)
        y = self.op("MatMul", x, weight)
        added = self.bias(name, joined_bias(*layers)) if bias else None
        return y if added is None else self.op("Add", y, added)

    def bias(self, name: str, bias: torch.Tensor | None) -> ir.Value | None:
        return None if bias is None else self.weight(f"{name}.bias", bias)

    def norm(self, name: str, norm: Norm, x: ir.Value) -> ir.Value:
        """``x`` normalised, over its last dimension."""
        operator = "LayerNormalization" if norm.centred else "SimplifiedLayerNormalization"
        return self.op(operator, x, *self._parameters(name, norm), axis=-1, epsilon=norm.epsilon)

    def skip_norm(
        self, name: str, norm: Norm, x: ir.Value, skip: ir.Value, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """``x + skip + bias`` normalised, and that sum."""
        operator = "SkipLayerNormalization" if norm.centred else "SkipSimplifiedLayerNormalization"
        parameters = self._parameters(name, norm)
        if bias is not None:
            missing = [None] if norm.centred and len(parameters) == 1 else []
            parameters += [*missing, bias]
        y, mean, deviation, total = self.tape.op_multi_out(
            operator, [skip, x, *parameters], {"epsilon": norm.epsilon}, num_outputs=4, domain="com.microsoft"
        )
        mean.name = deviation.name = ""  # unused
        return y, total

    def _parameters(self, name: str, norm: Norm) -> list[ir.Value | None]:
        parameters: list[ir.Value | None] = [self.lazy(f"{name}.weight", lambda: [norm.scale()], [norm.weight.shape])]
        return parameters if norm.bias is None else [*parameters, self.weight(f"{name}.bias", norm.bias)]

    def activation(self, x: ir.Value, name: str, bias: ir.Value | None = None) -> ir.Value:
        """One of ACTIVATIONS, of ``x + bias``."""
        operator, domain, attributes = ACTIVATIONS[name]
        if bias is not None and operator == "FastGelu":
            return self.op(operator, x, bias, domain=domain)
        x = x if bias is None else self.op("Add", x, bias)
        return self.op(operator, x, domain=domain, **attributes)

    def split(self, x: ir.Value, *sizes: int) -> list[ir.Value]:
        sizes_ = self.constant(list(sizes))
        return list(self.tape.op_multi_out("Split", [x, sizes_], {"axis": -1}, num_outputs=len(sizes)))

    def model(self, name: str) -> ir.Model:
        initializers = self.tape.initializers
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.tape.nodes,
            initializers=initializers,
            opset_imports={"": OPSET, "com.microsoft": 1},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="decodeloop")
