"""Constant matrices in blocks of few bits, and the operators that read them without unpacking them in memory.

Source: ``MatMulNBits`` and ``GatherBlockQuantized`` in onnxruntime's ``docs/ContribOperators.md``; rounding and packing
are those of onnxruntime's own quantizer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from decodeloop.optional import load_onnxruntime

#: Operators with weights of few bits: a graph that has one is quantized already.
QUANTIZED = ("MatMulNBits", "GatherBlockQuantized", "MatMulBnb4", "DequantizeLinear", "MatMulInteger")
#: Operators that can multiply by a constant matrix, and the attributes with which they do just that.
PRODUCTS: dict[str, dict[str, float]] = {
    "MatMul": {},
    "Gemm": {"transA": 0, "alpha": 1.0, "beta": 1.0},
    "FusedMatMul": {"transA": 0, "alpha": 1.0, "transBatchA": 0, "transBatchB": 0},
}
TABLE_BITS = 8


class Blocks:
    """How matrices are cut and rounded: the bits of a number, the numbers that share a scale, with zero points or not.

    ``accuracy_level`` is what a product may round its activations to.
    """

    def __init__(self, bits: int, block_size: int, symmetric: bool, accuracy_level: int) -> None:
        load_onnxruntime()
        with _root_logger_untouched():
            from onnxruntime.quantization import matmul_nbits_quantizer as library
        self.bits, self.block_size, self.accuracy_level = bits, block_size, accuracy_level
        config = library.DefaultWeightOnlyQuantConfig(block_size=block_size, is_symmetric=symmetric, bits=bits)
        self._quantizer = library.DefaultWeightOnlyQuantizer(config)
        self._stored: dict[tuple[ir.Value, bool], list[ir.Value]] = {}

    def store(self, graph: ir.Graph, read: tuple[ir.Value, bool], name: str, weight: np.ndarray) -> list[ir.Value]:
        """The initializers of a matrix ``[K, N]``: numbers ``[N, blocks, bytes]``, scales ``[N, blocks]``, zero points.

        Rounded once, however many products ``read`` it: a value of the graph, and whether it is transposed.
        """
        if read not in self._stored:
            like = weight.dtype
            while f"{name}.quantized" in graph.initializers:
                name += "_"
            packed, scales, zero_points = self._quantizer.qbits_block_quant(
                np.ascontiguousarray(weight if like in (np.float32, np.float16) else weight.astype(np.float32))
            )
            arrays = {"quantized": packed, "scales": scales.astype(like).reshape(packed.shape[:2])}
            arrays |= {} if self._quantizer.config.is_symmetric else {"zero_points": zero_points}
            self._stored[read] = [initializer(graph, f"{name}.{part}", array) for part, array in arrays.items()]
        return self._stored[read]

    def multiply(self, graph: ir.Graph, node: ir.Node, shape: tuple[int, ...], stored: list[ir.Value]) -> None:
        """Let a stored matrix of ``shape`` ``[K, N]`` take the place of a node's constant one."""
        attributes = {"K": shape[0], "N": shape[1], "bits": self.bits, "block_size": self.block_size}
        if self.accuracy_level:
            attributes["accuracy_level"] = self.accuracy_level
        product = ir.node(
            "MatMulNBits", [node.inputs[0], *stored], attributes, domain="com.microsoft", num_outputs=1, name=node.name
        )
        bias = node.inputs[2] if len(node.inputs) > 2 else None  # a Gemm's
        added = [] if bias is None else [ir.node("Add", [product.outputs[0], bias], num_outputs=1)]
        replace(graph, node, [product, *added])


def quantize_product(graph: ir.Graph, node: ir.Node, blocks: Blocks) -> None:
    """Round the constant matrix of a product; several products of one initializer share what it becomes."""
    weight, matrix = constant_matrix(node), node.inputs[1]
    assert matrix is not None  # such a product was picked
    assert weight is not None
    transposes = _transposes(node)
    alone = matrix.producer() is None and not transposes
    name = matrix.name if alone else f"{node.outputs[0].name}.weight"
    stored = blocks.store(graph, (matrix, transposes), str(name), weight)
    blocks.multiply(graph, node, weight.shape, stored)


def quantize_table(graph: ir.Graph, heads: list[ir.Node], accuracy_level: int) -> list[ir.Node]:
    """Round the embedding table to 8 bits; a head that shares it multiplies by the same bytes, in memory as well.

    Both ends of the model read a shared table, so it gets 8 bits whatever the layers get, and a block is 64 numbers,
    with which onnxruntime's product of so many columns is faster than with 32. A table stays as it is if its rows are
    no whole blocks, or if anything else reads it.

    Returns the heads that were replaced.
    """
    gathers = [node for node in graph if node.op_type == "Gather" and _reads_ids(node)]
    table = gathers[0].inputs[0] if len(gathers) == 1 else None
    weight = None if table is None or table.producer() is not None else constant(table)
    if table is None or weight is None or weight.ndim != 2:
        return []
    size = next((size for size in (64, 32, 16) if weight.shape[1] % size == 0), None)
    if size is None:
        return []
    sharing = [node for node in heads if _transposed(node) is table]
    known = {gathers[0], *sharing, *(node.inputs[1].producer() for node in sharing if node.inputs[1] is not None)}
    if any(node not in known for node, _ in table.uses()):  # what reads it as it is would need it in the file as well
        return []
    blocks = Blocks(TABLE_BITS, size, True, accuracy_level)
    stored = blocks.store(graph, (table, True), str(table.name), weight.T)
    for node in sharing:
        blocks.multiply(graph, node, weight.shape[::-1], stored)
    # The numbers as the product takes them have three dimensions, [vocabulary, blocks, block], and so must the scales.
    last = initializer(graph, f"{table.name}.last_axis", np.array([-1]))
    whole = initializer(graph, f"{table.name}.whole_rows", np.array([0, 0, -1]))
    scales = ir.node("Unsqueeze", [stored[1], last], num_outputs=1)
    attributes = {"bits": TABLE_BITS, "block_size": size, "gather_axis": 0, "quantize_axis": 2}
    inputs = [stored[0], gathers[0].inputs[1], scales.outputs[0]]
    gather = ir.node("GatherBlockQuantized", inputs, attributes, domain="com.microsoft", num_outputs=1)
    replace(graph, gathers[0], [scales, gather, ir.node("Reshape", [gather.outputs[0], whole], num_outputs=1)])
    return sharing


def _reads_ids(node: ir.Node) -> bool:
    """Whether a Gather takes rows by the input ids."""
    ids, axis = node.inputs[1], node.attributes.get("axis")
    return ids is not None and ids.is_graph_input() and ids.name == "input_ids" and (axis is None or axis.as_int() == 0)


def _transposed(node: ir.Node) -> ir.Value | None:
    """The value whose transposed a product multiplies by."""
    matrix = node.inputs[1]
    if _transposes(node):
        return matrix
    producer = None if matrix is None else matrix.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "Transpose" else None


def constant_matrix(node: ir.Node) -> np.ndarray | None:
    """The constant matrix ``[K, N]`` that a node multiplies by; None if it does something else."""
    plain = PRODUCTS.get(node.op_type)
    if plain is None or any(name in node.attributes and node.attributes[name].value != plain[name] for name in plain):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype.kind in "iub":
        return None
    return weight.T if _transposes(node) else weight


def _transposes(node: ir.Node) -> bool:
    """Whether a product transposes its matrix itself."""
    attribute = node.attributes.get("transB")
    return attribute is not None and bool(attribute.value)


def constant(value: ir.Value | None) -> np.ndarray | None:
    """A value that does not depend on the inputs: an initializer, transposed perhaps, or one matrix out of a stack."""
    if value is None:
        return None
    node = value.producer()
    if node is None or node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()
    if node.op_type not in ("Transpose", "Squeeze", "Gather"):
        return None
    inner = constant(node.inputs[0])
    if inner is None:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        return inner.transpose(order.as_ints() if order else None)
    which = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if which is None:
        return None
    if node.op_type == "Squeeze":
        return inner.squeeze(tuple(int(axis) for axis in which))
    axis = node.attributes.get("axis")
    return inner.take(which, axis=axis.as_int() if axis else 0)


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new one, by its name."""
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes where one stood; the last gives what it gave."""
    old, output = node.outputs[0], nodes[-1].outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [output])


@contextlib.contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """That module sets up logging for the whole process when it is imported, which is the application's business."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
