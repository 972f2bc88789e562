"""PyTorch's exporter without the work that changes nothing: for deep models, that is three quarters of it.

Most of it is looking again at what is known: the exporter traces the whole program a second time to take operators
apart, computes all of it a third time to find the casts that arguments need, and lets each of its rules look at each
node. A decoder's program needs little of that, and the shortcuts here see where it does not: each says what it leaves
out. Where they are not sure, the exporter goes its own way.

They are looked for in the versions that are installed, and not taken where they are not found.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from onnxscript import opset20 as op

from decodeloop.progress import doing

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
def lean_exporter() -> Iterator[None]:
    """Within the block, ``torch.onnx.export`` skips what would change nothing."""
    with contextlib.ExitStack() as stack:
        for patch in SHORTCUTS:
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
    """The second trace, which takes operators apart that have no translation.

    With translations for those few that a decoder has, and nothing that writes in place, it would give the first one
    back.
    """
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    plain, overloads = _fx_passes.decompose_with_registry, _decomp.get_onnx_implemented_overloads

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        doing("translating")
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


def _known_types() -> contextlib.AbstractContextManager[None]:
    """Casts that an operator's arguments need are written out; to find them, every operator is computed once more."""
    from torch.onnx._internal.fx.passes import type_promotion

    interpreter: Any = type_promotion._TypePromotionInterpreter
    plain, promote = interpreter.run_node, interpreter._maybe_promote_node
    rule_of = type_promotion.get_type_promotion_rule

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        """What the trace says that a node gives, unless it is given other arguments now."""
        if node.op != "call_function" or node.meta.get("val") is None:
            return plain(self, node)
        rule = rule_of(node, self.type_promotion_table)
        if rule is not None:
            before = node.args, node.kwargs
            with self._set_current_node(node):
                promote(self, node, rule)
            if node.args is not before[0] or node.kwargs is not before[1]:
                return torch.fx.Interpreter.run_node(self, node)
        return node.meta["val"]

    return _replaced(interpreter, "run_node", run_node)


def _quick_rules() -> contextlib.AbstractContextManager[None]:
    """Each of some forty rules looks at each node: most are done once they have seen which operator it is."""
    from onnxscript.rewriter._matcher import SimplePatternMatcher
    from onnxscript.rewriter._rewrite_rule import RewriteRule

    plain = RewriteRule.try_rewrite

    @functools.cache
    def wanted(rule: Any) -> tuple[str, str] | None:
        """Domain and operator of the node that a rule's match begins with; None if it may be several."""
        first = rule._target_pattern.output_nodes[0].op_identifier()
        return first[:2] if first is not None and isinstance(rule._matcher, SimplePatternMatcher) else None

    def try_rewrite(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        only = wanted(self)
        if only is not None and only != (node.domain, node.op_type):
            return None
        return plain(self, model, graph, node, **options)

    return _replaced(RewriteRule, "try_rewrite", try_rewrite)


def _no_memory_of_shapes() -> contextlib.AbstractContextManager[None]:
    """What an operator gives for shapes seen before is looked up, which takes longer than working it out."""
    from torch._dynamo import config

    return _replaced(config, "fake_tensor_cache_enabled", False)


def _no_stack_traces() -> contextlib.AbstractContextManager[None]:
    """The lines of source that each operator comes from: a third of a graph's file, and paths of this machine."""
    from torch.fx import config

    return _replaced(config, "do_not_emit_stack_traces", True)


def _no_copies_of_shapes() -> contextlib.AbstractContextManager[None]:
    """A second record of the shape and memory format of all that is computed, which nobody reads here."""
    from torch.fx.experimental import proxy_tensor

    def nothing(*arguments: Any, **options: Any) -> None:
        return None

    return _replaced(proxy_tensor, "_extract_tensor_metadata", nothing)


def _gradients_stay_off() -> contextlib.AbstractContextManager[None]:
    """Models switch gradients off, which they are: the trace would be cut into pieces there, and put together again."""
    from torch._export.passes import replace_set_grad_with_hop_pass as passes

    plain = passes.replace_set_grad_with_hop_pass

    def replace(module: torch.fx.GraphModule, signature: Any) -> Any:
        switches = [node for node in module.graph.nodes if node.target is torch._C._set_grad_enabled]
        if all(node.args == (torch.is_grad_enabled(),) for node in switches):
            for node in switches:
                module.graph.erase_node(node)
        return plain(module, signature)

    return _replaced(passes, "replace_set_grad_with_hop_pass", replace)


SHORTCUTS = (
    _no_memory_of_shapes,
    _no_stack_traces,
    _no_copies_of_shapes,
    _gradients_stay_off,
    _one_trace,
    _known_types,
    _quick_rules,
)
