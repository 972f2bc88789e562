"""What stands before attention in a compiled step joins it: norms of the heads, rotation, and writing into the cache.

The compiler's graph of a step says how queries, keys and values came about. Where the token's key and value were
written into buffers that attention reads, the operator that does both takes their place; where queries and keys were
rotated, and normalised before, in a way that it knows, it does that as well. The ways are plain PyTorch, and found as
:mod:`decodeloop.engines.kernels.fusion` finds its patterns; a layer that does otherwise keeps its kernels.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch._inductor.pattern_matcher import PatternMatcherPass
from torch.fx import Graph, Node

from decodeloop.engines.kernels.decode_attention import rotated
from decodeloop.engines.kernels.graph_search import Found, found_in, search
from decodeloop.engines.kernels.products import rms_norm

aten = torch.ops.aten


def join(graph: Graph, dtype: torch.dtype) -> None:
    """Let each attention of a graph do what comes before it, as far as it knows how."""
    rotations, norms = found_in(graph, _rotations(dtype)), found_in(graph, _norms(dtype))
    for node in graph.find_nodes(op="call_function", target=torch.ops.decodeloop.decode_attention.default):
        query, key, value, *others = node.args
        new_key, new_value = _written(key), _written(value)
        if new_key is None or new_value is None:
            continue
        if any(user < node for each in node.args[1:3] for user in each.users):
            continue  # what was written is read before attention writes it
        (keys, place, key), (values, same, value) = new_key, new_value
        if place is same and all(_of(each).dtype == dtype for each in (query, key, value, keys, values)):
            new = {"value": value, "keys": keys, "values": values, "position": place}
            names = ("mask", "scale", "softcap", "sinks", "windowed")
            before = _before(query, key, rotations, norms)
            _replace(graph, node, before | new | dict(zip(names, others, strict=True)))
    graph.eliminate_dead_code()


def _of(node: Any) -> torch.Tensor:
    """What a node computes, as far as shape and dtype go."""
    return node.meta["val"]


def _written(node: Any) -> tuple[Node, Node, Node] | None:
    """``(buffer, position, what was written)`` of a cache's layer into which one token of each row was written."""
    if node.target is not aten.index_put.default or len(node.args) > 3 or node.kwargs:
        return None
    buffer, places, new = node.args
    if buffer.op != "placeholder" or len(places) != 3 or places[:2] != [None, None]:
        return None
    kept = [user for user in buffer.users if user.target is aten.copy_.default and user.args == (buffer, node)]
    if len(kept) != 1 or any(user > node and user is not kept[0] for user in buffer.users):
        return None  # else the compiler would copy the buffer, and the kernel reads it before that is done
    rows, heads, _, size = _of(buffer).shape
    if places[2].op != "placeholder":
        return None  # the kernel reads it before it waits, as it does the buffer
    if _of(places[2]).shape != (1,) or _of(new).shape != (rows, heads, 1, size):
        return None
    return buffer, places[2], new


def _before(query: Node, key: Node, rotations: Found, norms: Found) -> dict[str, Any]:
    """The query and the key as a product left them, and what was done to them since."""
    nothing: dict[str, Any] = {"cos": None, "sin": None, "query_norm": None, "key_norm": None, "eps": 0.0}
    before = nothing | {"query": query, "key": key, "plus_one": False}
    one, other = rotations.get(query), rotations.get(key)
    if one is None or other is None or any(one[name] is not other[name] for name in ("cos", "sin")):
        return before
    rows, _, _, size = _of(query).shape
    turns = _of(one["cos"]).shape
    if turns != _of(one["sin"]).shape or len(turns) != 4 or turns[0] not in (1, rows) or turns[1:3] != (1, 1):
        return before
    if turns[3] % 2 or _of(one["x"]).shape != _of(query).shape or _of(other["x"]).shape != _of(key).shape:
        return before
    before |= {"query": one["x"], "key": other["x"], "cos": one["cos"], "sin": one["sin"]}
    first, second = _normed(one["x"], norms), _normed(other["x"], norms)
    if first is None or second is None or any(first[name] != second[name] for name in ("eps", "plus_one")):
        return before
    if not isinstance(first["eps"], float) or not all(_is_weight(each["norm"], size) for each in (first, second)):
        return before
    both = {"query": first["x"], "key": second["x"], "query_norm": first["norm"], "key_norm": second["norm"]}
    return before | both | {"eps": first["eps"], "plus_one": first["plus_one"]}


def _is_weight(node: Node, size: int) -> bool:
    """Whether it is there before the step, one number for each column: the kernel reads it before it waits."""
    return node.op == "placeholder" and _of(node).shape == (size,) and _of(node).stride() == (1,)


def _normed(x: Any, norms: Found) -> dict[str, Any] | None:
    """What a head was normalised of, before or after its columns became heads."""
    if x in norms:
        return norms[x]
    if x.target is not aten.permute.default or list(x.args[1]) != [0, 2, 1, 3] or x.args[0] not in norms:
        return None
    found = norms[x.args[0]]
    with x.graph.inserting_before(x):
        heads = x.graph.call_function(aten.permute.default, (found["x"], [0, 2, 1, 3]))
    heads.meta["val"] = _of(found["x"]).permute(0, 2, 1, 3)
    return found | {"x": heads}


def _replace(graph: Graph, node: Any, arguments: dict[str, Any]) -> None:
    """The attention and both writings by one operator, in the form in which the compiler knows that it writes."""
    operation = torch.ops.decodeloop.append_and_attend.default
    with graph.inserting_before(node):
        done = graph.call_function(torch.ops.higher_order.auto_functionalized, (operation,), arguments)
        keys, values = node.args[1], node.args[2]
        done.meta["val"] = tuple(_of(each) for each in (node, keys, values))
        for index, old in enumerate((node, keys, values)):
            item = graph.call_function(operator.getitem, (done, index))
            item.meta["val"] = _of(old)
            old.replace_all_uses_with(item, delete_user_cb=lambda user: user not in (node, done))


@functools.cache
def _rotations(dtype: torch.dtype) -> tuple[PatternMatcherPass, Found]:
    """Of whole heads, and of their first columns."""
    patterns, found = PatternMatcherPass(pass_name="decodeloop"), Found()
    for columns in (16, 8):
        cos, sin = torch.empty(2, 1, 1, 1, columns, dtype=dtype)
        search(patterns, found, _rotated, [torch.empty(1, 2, 1, 16, dtype=dtype), cos, sin])
    return patterns, found


@functools.cache
def _norms(dtype: torch.dtype) -> tuple[PatternMatcherPass, Found]:
    patterns, found = PatternMatcherPass(pass_name="decodeloop"), Found()
    examples = [torch.empty(1, 2, 1, 16, dtype=dtype), torch.empty(16, dtype=dtype)]
    search(patterns, found, lambda x, norm, eps: rms_norm(x, norm, eps, False), examples, eps=True, plus_one=False)
    search(patterns, found, lambda x, norm, eps: rms_norm(x, norm, eps, True), examples, eps=True, plus_one=True)
    return patterns, found


def _rotated(x: torch.Tensor, cos: Any, sin: Any) -> torch.Tensor:
    """A rotation, if it is one: anything may stand in the places of its arguments, and this error is no match."""
    if not all(isinstance(each, torch.Tensor) and each.ndim == 4 for each in (x, cos, sin)):
        raise RuntimeError("no tensors of heads")
    return rotated(x, cos, sin)
