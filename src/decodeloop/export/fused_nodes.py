"""ONNX nodes of a decoder, each the operator that onnxruntime has for it: the pieces that a layer is put together from.

Nothing is traced and nothing is searched for: a product of several linear layers, a norm that adds what the layer
before it made, an attention that rotates, appends and attends are single nodes from the start.

Source: the operators' documentation, onnxruntime's ``docs/ContribOperators.md``.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch import nn

from decodeloop.models.linears import joined_bias, rms

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
        self.tape, self.dtype = Tape(), from_torch_dtype(dtype)
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

        def joined() -> ir.TensorProtocol:
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            return TorchTensor((whole.T if transposed else whole).detach().contiguous(), name=name)

        shape = [sum(part.shape[0] for part in parts), *parts[0].shape[1:]]
        shape = shape[::-1] if transposed else shape
        return self.tape.initializer(ir.LazyTensor(joined, self.dtype, ir.Shape(shape), name=name), name=name)

    def linear(self, x: ir.Value, name: str, *layers: nn.Linear, bias: bool = True) -> ir.Value:
        """Several linear layers of one input as one product; without ``bias``, the caller adds it."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", *(layer.weight for layer in layers), transposed=True))
        joined = joined_bias(*layers)
        return y if joined is None or not bias else self.op("Add", y, self.weight(f"{name}.bias", joined))

    def norm(
        self, name: str, module: Any, x: ir.Value, skip: ir.Value | None = None, bias: torch.Tensor | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """``x + skip + bias`` normalised, and that sum: the residual stream goes through the norms."""
        epsilon = getattr(module, "eps", None) or module.variance_epsilon
        simplified = "Simplified" if rms(module) else ""
        parameters = [self.weight(f"{name}.weight", module.weight)]
        if not simplified:
            parameters.append(self.weight(f"{name}.bias", module.bias))
        if skip is None:
            y = self.op(f"{simplified}LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)
            return y, x
        if bias is not None:
            parameters.append(self.weight(f"{name}.skip_bias", bias))
        outputs = self.tape.op_multi_out(
            f"Skip{simplified}LayerNormalization",
            [skip, x, *parameters],
            {"epsilon": epsilon},
            num_outputs=4,
            domain="com.microsoft",
        )
        for unused in outputs[1:3]:
            unused.name = ""
        return outputs[0], outputs[3]

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
