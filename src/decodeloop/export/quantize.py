"""Weights of 8 or 4 bits: what a decode step must read becomes a quarter or an eighth of what float32 takes.

A matrix is cut into blocks of ``block_size`` weights along its input dimension. Of each block, the weights are stored
as whole numbers and, in the graph's dtype, their scale; at 8 or 4 bits, ``weight = (number - zero point) * scale``.
``com.microsoft::MatMulNBits`` multiplies by such a matrix without unpacking it in memory.

Source: the operator's documentation, onnxruntime's ``docs/ContribOperators.md``; rounding and packing are those of
onnxruntime's own quantizer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from decodeloop.checks import check_choice, check_count, given_path
from decodeloop.export.file import METADATA, map_weights, read_graph, weights_files
from decodeloop.export.save import check_target, save_graph
from decodeloop.optional import load_onnxruntime


class QuantizedPath(type(Path())):  # type: ignore[misc]
    """The path of a quantized graph, and what became of the weights of the graph that it was made from.

    Attributes
    ----------
    products : int
        Matrix products that were quantized.
    left : dict of str to int
        Tables and matrices that kept their type, by name, with their bytes, the largest first: the embedding, which is
        only gathered from, and every weight that no matrix product multiplies by.
    """

    products: int
    left: dict[str, int]


QUANTIZED = ("MatMulNBits", "GatherBlockQuantized", "MatMulBnb4", "DequantizeLinear", "MatMulInteger")


def quantize_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    bits: Literal[4, 8] = 8,
    block_size: int = 32,
    symmetric: bool = True,
    head: bool = True,
    accuracy_level: int = 4,
) -> QuantizedPath:
    """Write a graph with the weights of its matrix products in 8 or 4 bits.

    Linear layers, whichever operator holds them (``MatMul``, ``Gemm``), and the experts of a mixture, each by itself.
    Everything else keeps its type: the embedding table, which is only gathered from, norms, biases and the cache. A
    head that shares the embedding table gets a quantized copy of its own. The result says what was left.

    Parameters
    ----------
    source : str or path
        A graph with weights in float32, float16 or bfloat16, such as :func:`decodeloop.export_onnx` writes.
    target : str or path
        The file to write, in an existing folder; the weights go beside it, to ``<target>.data``, or, where that name
        is taken, ``<target>.<checksum>.data``. No file of weights is overwritten.
    bits : int
        8 or 4.
    block_size : int
        Weights that share a scale: 16, 32, 64, 128 or 256. Smaller ones follow the weights more closely and take more
        bytes: a float32 scale for each 32 weights adds 1 bit to each.
    symmetric : bool
        Without zero points: zero is stored exactly, and a step reads fewer bytes. With ``False``, each block has a
        zero point, which uses all of the numbers where a block's weights are not centred.
    head : bool
        Whether the output projection, often the largest product of all, is quantized too.
    accuracy_level : int
        What a CPU may round activations to within a product: 0 and 1 keep float32, 4 allows 8 bits, which is the
        fastest. GPUs ignore it.

    Returns
    -------
    QuantizedPath
        ``target``, a path; with ``.left``, the weights that kept their type and their bytes.

    Raises
    ------
    FileNotFoundError
        If ``source`` or the folder of ``target`` does not exist.
    ValueError
        If ``source`` is quantized already or has no matrix product with constant weights, or an argument cannot be
        used.
    """
    bits = check_choice("bits", bits, 8, 4)
    block_size = check_choice("block_size", block_size, 16, 32, 64, 128, 256, note="which the operator has")
    accuracy_level = check_count("accuracy_level", accuracy_level, 0, 4)
    symmetric, head = check_choice("symmetric", symmetric, True, False), check_choice("head", head, True, False)
    source, target = given_path("source", source), given_path("target", target)
    proto = read_graph(source, verify_weights=True)
    check_target(target, "target")
    _check_apart(source, target, weights_files(source, proto))
    model = map_weights(source, proto)
    present = sorted({node.op_type for node in model.graph} & set(QUANTIZED))
    if present:
        raise ValueError(
            f"{source.name} is quantized already: it has {', '.join(present)} nodes. Quantize the graph that it was "
            "made from; rounding twice loses more than rounding once."
        )
    quantizer = _quantizer(bits, block_size, symmetric)
    products = [node for node in model.graph if _weight(node) is not None]
    if not head:
        products = [node for node in products if node not in _head(model)]
    if not products:
        raise ValueError(f"{source.name} has no matrix product with constant weights: there is nothing to quantize.")
    for node in products:
        _replace(model.graph, node, quantizer, accuracy_level)
    _drop_unused(model.graph)
    model.graph.opset_imports.setdefault("com.microsoft", 1)
    metadata = json.loads(model.metadata_props.get(METADATA, "{}"))
    if metadata:
        model.metadata_props[METADATA] = json.dumps(metadata | {"bits": bits, "block_size": block_size})
    result = QuantizedPath(target)
    result.products, result.left = len(products), _left(model.graph)
    save_graph(model, target)
    return result


def _check_apart(source: Path, target: Path, weights: list[Path]) -> None:
    same = [file for file in (source, *weights) if target.exists() and target.samefile(file)]
    if same:
        raise ValueError(
            f"source and target are both {str(same[0])!r}: a quantized graph does not replace what it is made from. "
            "Give it another name."
        )


def _weight(node: ir.Node) -> np.ndarray | None:
    """The constant matrix ``[K, N]`` that a node multiplies by; None if it does something else."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    weight = _constant(node.inputs[1])
    if node.op_type == "Gemm" and weight is not None:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
            return None
        weight = weight.T if attributes.get("transB", 0) else weight
    return weight if weight is not None and weight.ndim == 2 and weight.dtype.kind not in "iub" else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """A value that does not depend on the inputs: an initializer, transposed perhaps, or one matrix out of a stack."""
    if value is None:
        return None
    node = value.producer()
    if node is None or node.op_type == "Constant":
        constant = ir.convenience.get_const_tensor(value)
        return None if constant is None else constant.numpy()
    if node.op_type not in ("Transpose", "Squeeze", "Gather"):
        return None
    inner = _constant(node.inputs[0])
    if inner is None:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        return inner.transpose(order.as_ints() if order else None)
    which = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if which is None:
        return None
    if node.op_type == "Squeeze":
        return inner.squeeze(tuple(int(axis) for axis in which))
    axis = node.attributes.get("axis")
    return inner.take(which, axis=axis.as_int() if axis else 0)


def _head(model: ir.Model) -> list[ir.Node]:
    """The last product before the logits."""
    value = next(output for output in model.graph.outputs if output.name == "logits")
    node = value.producer()
    while node is not None and node.op_type not in ("MatMul", "Gemm"):
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return [] if node is None else [node]


def _replace(graph: ir.Graph, node: ir.Node, quantizer: Any, accuracy_level: int) -> None:
    weight, matrix = _weight(node), node.inputs[1]
    assert matrix is not None  # such a product was picked
    assert weight is not None
    alone = matrix.producer() is None and node.op_type == "MatMul"
    name = matrix.name if alone else f"{node.outputs[0].name}.weight"
    like = weight.dtype
    packed, scales, zero_points = quantizer.qbits_block_quant(
        np.ascontiguousarray(weight if like in (np.float32, np.float16) else weight.astype(np.float32))
    )
    config = quantizer.config
    tensors = [ir.Tensor(packed), ir.Tensor(scales.astype(like))]
    if not config.is_symmetric:
        tensors.append(ir.Tensor(zero_points))
    inputs = [node.inputs[0]]
    for tensor, suffix in zip(tensors, ("quantized", "scales", "zero_points"), strict=False):
        tensor.name = f"{name}.{suffix}"
        if tensor.name not in graph.initializers:
            value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
            value.const_value = tensor
            graph.register_initializer(value)
        inputs.append(graph.initializers[tensor.name])
    attributes = {"K": weight.shape[0], "N": weight.shape[1], "bits": config.bits, "block_size": config.block_size}
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    nodes = [ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft", num_outputs=1, name=node.name)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None  # a Gemm's
    if bias is not None:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], bias], num_outputs=1))
    old, output = node.outputs[0], nodes[-1].outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [output])


def _drop_unused(graph: ir.Graph) -> None:
    """Transpositions and matrices that nothing reads any more."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(output.uses() or output in outputs for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]


def _left(graph: ir.Graph) -> dict[str, int]:
    """The tables and matrices that are not quantized, and their bytes."""
    left = {
        name: tensor.nbytes
        for name, value in graph.initializers.items()
        if (tensor := value.const_value) is not None and len(tensor.shape) > 1 and tensor.dtype.is_floating_point()
        if not any(node.op_type == "MatMulNBits" for node, _ in value.uses())
    }
    return dict(sorted(left.items(), key=lambda item: -item[1]))


def _quantizer(bits: int, block_size: int, symmetric: bool) -> Any:
    load_onnxruntime()
    with _root_logger_untouched():
        from onnxruntime.quantization import matmul_nbits_quantizer as library
    config = library.DefaultWeightOnlyQuantConfig(block_size=block_size, is_symmetric=symmetric, bits=bits)
    return library.DefaultWeightOnlyQuantizer(config)


@contextlib.contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """That module sets up logging for the whole process when it is imported, which is the application's business."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
