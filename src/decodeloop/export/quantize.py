"""Weights of 8 or 4 bits: what a decode step must read becomes a quarter or an eighth of what float32 takes.

A matrix is cut into blocks of ``block_size`` weights along its input dimension. Of each block, the weights are stored
as whole numbers and, in the graph's dtype, their scale; at 8 or 4 bits, ``weight = (number - zero point) * scale``.
``com.microsoft::MatMulNBits`` multiplies by such a matrix without unpacking it in memory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from decodeloop.checks import check_choice, check_count, given_path
from decodeloop.export.file import METADATA, map_weights, read_graph, weights_files
from decodeloop.export.nbits import PRODUCTS, QUANTIZED, Blocks, constant_matrix, quantize_product, quantize_table
from decodeloop.export.save import check_target, save_graph


class QuantizedPath(type(Path())):  # type: ignore[misc]
    """The path of a quantized graph, and what became of the weights of the graph that it was made from.

    Attributes
    ----------
    products : int
        Matrix products that were quantized.
    left : dict of str to int
        Tables and matrices that kept their type, by name, with their bytes, the largest first: every weight that no
        matrix product multiplies by, and the embedding where it was to stay.
    """

    products: int
    left: dict[str, int]


def quantize_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    bits: Literal[4, 8] = 8,
    block_size: int = 32,
    symmetric: bool = True,
    head: bool = True,
    embedding: bool | Literal["auto"] = "auto",
    accuracy_level: int = 4,
) -> QuantizedPath:
    """Write a graph with the weights of its matrix products in 8 or 4 bits.

    Linear layers, whichever operator holds them (``MatMul``, ``FusedMatMul``, ``Gemm``), the experts of a mixture, each
    by itself, and the embedding table. Everything else keeps its type: norms, biases and the cache. The result says
    what was left.

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
    embedding : bool or "auto"
        Whether the embedding table is stored in 8 bits, whatever ``bits`` says. A head that shares the table then
        multiplies by the same 8 bits; with ``False`` it gets a copy of its own in ``bits``, and so it does where the
        rows of the table are no multiple of 16. ``"auto"`` is yes for graphs of float32, which are those of CPUs. On
        a GPU a file of 16 bits reads one row of its table in a step, and a head of 4 bits is faster.
    accuracy_level : int
        What a CPU may round activations to within a product. 4 is 8 bits, with a scale for each ``block_size`` of
        them. 0 and 1 keep float32, and unpack the weights at each step if they have 8 bits. GPUs ignore it.

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

    Notes
    -----
    The defaults were chosen by speed and by how far the answers of a chat model of 135 million weights moved
    (SmolLM2-135M-Instruct, 20 prompts, two CPU cores; Kullback-Leibler divergence from float32 in nats, and tokens that
    are still the first choice):

    - 8 bits: 0.005, 97 %. Activations of float32 leave 0.002 of it, and a step takes almost 30 times as long, as
      onnxruntime has no such product. Blocks of 16 leave 0.003, blocks of 64 0.0075.
    - 4 bits: 0.32, 76 %, whose table has 8 bits. With 4 bits for the table as well 0.38, on the bundled model twice as
      much as with 8. Zero points change little (0.31): they are whole numbers, and what they lose shifts all weights of
      a block the same way. A search for the best scale, as that of onnxruntime's ``k_quant``, changes as little.
    """
    bits = check_choice("bits", bits, 8, 4)
    block_size = check_choice("block_size", block_size, 16, 32, 64, 128, 256, note="which the operator has")
    accuracy_level = check_count("accuracy_level", accuracy_level, 0, 4)
    symmetric, head = check_choice("symmetric", symmetric, True, False), check_choice("head", head, True, False)
    embedding = check_choice("embedding", embedding, True, False, "auto")
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
    products = [node for node in model.graph if constant_matrix(node) is not None]
    heads = [node for node in _head(model) if node in products]
    if not head:
        products = [node for node in products if node not in heads]
    if not products:
        raise ValueError(f"{source.name} has no matrix product with constant weights: there is nothing to quantize.")
    blocks, replaced = Blocks(bits, block_size, symmetric, accuracy_level), []
    logits = _logits(model)
    if embedding is True or (embedding == "auto" and logits is not None and logits.dtype == ir.DataType.FLOAT):
        replaced = quantize_table(model.graph, heads if head else [], accuracy_level)
    for node in products:
        if node not in replaced:
            quantize_product(model.graph, node, blocks)
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


def _logits(model: ir.Model) -> ir.Value | None:
    return next((output for output in model.graph.outputs if output.name == "logits"), None)


def _head(model: ir.Model) -> list[ir.Node]:
    """The last product before the logits."""
    logits = _logits(model)
    node = None if logits is None else logits.producer()
    while node is not None and node.op_type not in PRODUCTS:  # past a bias, a scale, a cap, on either side
        makers = [value.producer() for value in node.inputs if value is not None]
        node = next((maker for maker in makers if maker is not None and maker.op_type != "Constant"), None)
    return [] if node is None else [node]


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
        if not any(node.op_type in QUANTIZED for node, _ in value.uses())
    }
    return dict(sorted(left.items(), key=lambda item: -item[1]))
