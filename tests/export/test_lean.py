"""What the exporter skips changes nothing: the same operators, or the way that it goes by itself."""

import contextlib
from collections import Counter

import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from tiny_models import tiny_config, tiny_model

import decodeloop
from decodeloop import export_onnx
from decodeloop.export import lean, write


def exported(model, path, check=True):
    export_onnx(model, path, check=check)
    return onnx.load(path).graph


def operators(graph):
    return Counter(node.op_type for node in graph.node)


def wiring(graph, known=None):
    """Each node as its operator, its attributes, and what its inputs are computed from; and the outputs, likewise."""
    known = dict(known or {}) | {value.name: f"input {index}" for index, value in enumerate(graph.input)}
    for tensor in graph.initializer:
        known[tensor.name] = f"constant {tensor.data_type} {list(tensor.dims)} {hash(to_array(tensor).tobytes())}"
    nodes = []
    for node in graph.node:
        attributes = tuple(
            (a.name, wiring(a.g, known) if a.HasField("g") else a.SerializeToString())
            for a in sorted(node.attribute, key=lambda a: a.name)
        )
        nodes.append((node.op_type, node.domain, tuple(known.get(name, name) for name in node.input), attributes))
        for index, name in enumerate(node.output):
            known[name] = f"output {index} of {hash(nodes[-1])}"
    return tuple(nodes), tuple(known[value.name] for value in graph.output)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])  # the latter writes in place: it is traced twice
def test_a_lean_export_has_the_operators_of_a_plain_one(architecture, tmp_path, monkeypatch):
    model = tiny_model(tiny_config(architecture, num_hidden_layers=1))
    lean_one = operators(exported(model, tmp_path / "lean.onnx"))
    monkeypatch.setattr(write, "lean_exporter", contextlib.nullcontext)
    plain = operators(exported(model, tmp_path / "plain.onnx"))
    for counts in (lean_one, plain):  # shapes are worked out in another way, the rest is not
        for shape in ("Cast", "Concat", "Expand", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"):
            counts.pop(shape, None)
    assert lean_one == plain


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("llama", torch.float16), ("gemma2", torch.float32), ("gpt2", torch.float32), ("falcon_mamba", torch.float32)],
)
def test_every_other_shortcut_leaves_each_node_as_it_is(architecture, dtype, tmp_path, monkeypatch):
    model = tiny_model(tiny_config(architecture)).to(dtype)
    short = exported(model, tmp_path / "lean.onnx", check=False)
    monkeypatch.setattr(lean, "SHORTCUTS", (lean._one_trace,))
    assert wiring(exported(model, tmp_path / "long.onnx", check=False)) == wiring(short)


def test_a_shortcut_through_something_that_has_moved_is_not_taken(tmp_path, monkeypatch):
    def moved():
        return lean._replaced(torch.onnx, "nothing_of_this_name", None)

    monkeypatch.setattr(lean, "SHORTCUTS", (moved, *lean.SHORTCUTS))
    model = tiny_model(tiny_config("llama", num_hidden_layers=1))
    assert export_onnx(model, tmp_path / "model.onnx").checked.compared


def test_a_graph_names_no_path_of_the_machine_that_made_it(tmp_path):
    export_onnx(tiny_model(tiny_config("llama", num_hidden_layers=1)), tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    for module in (decodeloop, torch):
        assert module.__path__[0].encode() not in content
