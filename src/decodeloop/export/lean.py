"""PyTorch's exporter without the work that changes nothing: it takes as long for deep models as all of the rest.

- Before it translates, the exporter traces the whole program a second time, to take operators apart that it has no
  translation for. A decoder's program has next to none: with translations for those few, and nothing that writes in
  place, the second trace would give the first one back.
- Afterwards a rule that joins slices looks through the whole graph at every node, whether it is a slice or not.

Both are looked for in the versions that are installed, and left as they are where they are not found.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from onnxscript import opset20 as op

ATEN = torch.ops.aten


def to_dtype(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False, memory_format: Any = None) -> Any:
    return op.Cast(x, to=dtype)


def to_layout(
    x: Any,
    dtype: int = -1,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Any:
    return op.Identity(x) if dtype == -1 else op.Cast(x, to=dtype)


def to_device(
    x: Any, device: Any, dtype: int, non_blocking: bool = False, copy: bool = False, memory_format: Any = None
) -> Any:
    return op.Cast(x, to=dtype)


#: What a decoder's trace has and the exporter only translates once it is taken apart.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    ATEN.to.dtype: to_dtype,
    ATEN.to.dtype_layout: to_layout,
    ATEN.to.device: to_device,
}
#: The same under another name.
RENAMED = {ATEN.__and__.Tensor: ATEN.bitwise_and.Tensor, ATEN.__or__.Tensor: ATEN.bitwise_or.Tensor}
#: Removed before the translation.
ASSERTIONS = {
    ATEN.sym_constrain_range_for_size.default,
    ATEN._assert_async.default,
    ATEN._assert_async.msg,
    ATEN._assert_scalar.default,
    ATEN._assert_tensor_metadata.default,
}


@contextlib.contextmanager
def sign_of_life(message: str) -> Iterator[None]:
    """A line on a terminal's standard error while the block runs; nothing where no one watches."""
    watched = sys.stderr is not None and sys.stderr.isatty()
    if watched:
        print(message, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if watched:
            print("\r" + " " * len(message) + "\r", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def lean_exporter() -> Iterator[None]:
    """Within the block, ``torch.onnx.export`` skips what would change nothing."""
    with contextlib.ExitStack() as stack:
        for patch in (_one_trace, _quick_match):
            with contextlib.suppress(ImportError, AttributeError):
                stack.enter_context(patch())
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    plain = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def _one_trace() -> contextlib.AbstractContextManager[None]:
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    plain, overloads = _fx_passes.decompose_with_registry, _decomp.get_onnx_implemented_overloads

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        known = set(overloads(registry)) | ASSERTIONS | RENAMED.keys()
        graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
        calls = [node for graph in graphs for node in graph.nodes if node.op == "call_function"]
        writes = [node for node in calls if getattr(getattr(node.target, "_schema", None), "is_mutable", False)]
        if writes or any(node.target not in known for node in calls):
            return plain(program, registry)
        for node in calls:
            node.target = RENAMED.get(node.target, node.target)
        return program

    return _replaced(_fx_passes, "decompose_with_registry", decompose)


def _quick_match() -> contextlib.AbstractContextManager[None]:
    from onnxscript.rewriter._basics import MatchResult
    from onnxscript.rewriter._matcher import SimplePatternMatcher

    plain = SimplePatternMatcher.match

    def match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        """The first of several outputs of a pattern is the node itself: one of another kind is no match."""
        if not self.pattern.has_single_output_node:
            first = self.pattern.output_nodes[0].op_identifier()
            if first is not None and first != node.op_identifier():
                return MatchResult().fail("another operator")
        return plain(self, model, graph, node, **options)

    return _replaced(SimplePatternMatcher, "match", match)
