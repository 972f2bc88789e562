"""ONNX for PyTorch operators that the exporter has no translation of."""

from __future__ import annotations

import onnx_ir
import torch
from onnxscript import opset20 as op


def grouped_mm(rows, weights, ends, bias=None, out_dtype=None):
    """Experts: each row times the matrix of its group, ``[M, K], [G, K, N], [G] -> [M, N]``.

    The rows are sorted by group; ``ends[g]`` is where group ``g`` ends. Each group becomes a product of its own, over
    no rows if no token was sent to that expert, so the graph reads only what PyTorch reads, whatever the text.
    """
    groups = weights.shape[0]
    axis = op.Constant(value_ints=[0])
    ends = op.Cast(ends, to=onnx_ir.DataType.INT64)
    start, products = op.Constant(value_ints=[0]), []
    for group in range(groups):
        index = op.Constant(value_ints=[group])
        end = op.Gather(ends, index)
        part = op.Slice(rows, start, end, axis)
        products.append(op.MatMul(part, op.Squeeze(op.Gather(weights, index), axis)))
        start = end
    return op.Concat(*products, axis=0)


#: What ``torch.onnx.export`` takes as its ``custom_translation_table``.
TRANSLATIONS = {
    torch.ops.transformers.grouped_mm_fallback.default: grouped_mm,
    torch.ops.aten._grouped_mm.default: grouped_mm,
}
