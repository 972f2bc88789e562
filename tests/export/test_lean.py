"""What the exporter skips changes nothing: the same operators, or the way that it goes by itself."""

import contextlib
import io
import sys
from collections import Counter

import onnx
import pytest
from tiny_models import tiny_config, tiny_model

from decodeloop import export_onnx
from decodeloop.export import write


def operators(model, path):
    export_onnx(model, path)
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])  # the latter writes in place: it is traced twice
def test_a_lean_export_has_the_operators_of_a_plain_one(architecture, tmp_path, monkeypatch):
    model = tiny_model(tiny_config(architecture, num_hidden_layers=1))
    lean = operators(model, tmp_path / "lean.onnx")
    monkeypatch.setattr(write, "lean_exporter", contextlib.nullcontext)
    plain = operators(model, tmp_path / "plain.onnx")
    for counts in (lean, plain):  # shapes are worked out in another way, the rest is not
        for shape in ("Cast", "Concat", "Expand", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"):
            counts.pop(shape, None)
    assert lean == plain


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "says"), [(Terminal, "Tracing LlamaForCausalLM"), (io.StringIO, "")])
def test_a_terminal_sees_that_it_works_and_a_log_does_not(stream, says, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    export_onnx(tiny_model(tiny_config("llama", num_hidden_layers=1)), tmp_path / "model.onnx")
    written = sys.stderr.getvalue()
    assert written.strip().startswith(says)
    assert bool(written) == bool(says)
