"""
.. _l-plot-export:

===========================
What happens in the export?
===========================

An ONNX file holds a *graph*: operators, the tensors between them, and no Python. This page makes one from a PyTorch
model, first in a way that fails, then in one that quietly gives a graph for a single size, then right. At the end it
compares the graphs of two :term:`exporters <exporter>`, and proves that both compute what the model does.

.. image:: /drawings/two-phases.svg
   :alt: One graph, used twice. In the prefill it reads five tokens, with an empty past, and gives logits and a present
      of five positions. In a decode step it reads one token, with that present as past; the new one goes in next.
   :class: drawing

One graph serves both phases of a generation: the :term:`prefill`, which reads the prompt, and each :term:`decode step`,
which reads one new token. The keys and values of earlier tokens, the :term:`KV cache`, go in as :term:`past` and come
out as :term:`present`. So three sizes must stay open: how many texts, how many new tokens, how long a past.

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it.
"""

import copy
import logging
import tempfile
import textwrap
import warnings
from pathlib import Path

import pandas
import torch
import transformers

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer layers, the same code
warnings.simplefilter("ignore")  # the exporter's remarks on itself
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
logging.getLogger("torch._export").setLevel(logging.ERROR)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
loaded = decodeloop.load()
model, device = loaded.model, loaded.model.device


def cut(model, count):
    """The same model with its first layers only."""
    model = copy.deepcopy(model)
    model.model.layers = model.model.layers[:count]
    model.config.num_hidden_layers = count
    return model


if FAST:
    model = cut(model, 2)
layers = len(model.model.layers)
print(f"{loaded.name}: {layers} layers, {model.dtype}, on {device}")

# %%
# The first try
# =============
#
# To export, PyTorch runs the model on example inputs and records each operator: it *traces* it. The inputs of a decode
# step are the new tokens, the :term:`attention mask`, the tokens' positions, and the past, which transformers keeps in
# a ``DynamicCache``. :func:`decodeloop.export_inputs` makes an example. ``T7s2x8`` is 2 x 8 of int64.

example, _ = decodeloop.export_inputs(model)
for name, value in example.items():
    print(f"{name}: {decodeloop.string_type(value, with_shape=True)[:60]}")
try:
    torch.onnx.export(model, kwargs=example, dynamo=True, verbose=False)
except torch.onnx.errors.OnnxExporterError as error:
    print("\nThe export failed:", str(error.__cause__).partition(". ")[0])
else:
    raise AssertionError("PyTorch exports a cache now: this page is out of date")

# %%
# A tracer knows tensors, and lists, tuples and dictionaries of them. A cache is an object of another class, and the
# tracer does not know which parts of it are data. The way out is a module around the model that takes and returns keys
# and values as a flat list of tensors. It builds the cache inside, where the tracer merely follows the Python code and
# records the operators that it calls.


class Flat(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        cache = transformers.DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        outputs = self.model(input_ids, attention_mask, position_ids, cache)
        present = decodeloop.cache_to_tensors(outputs.past_key_values)
        return outputs.logits, present


# %%
# The 0/1 trap
# ============
#
# A :term:`dynamic dimension` is one whose size the graph leaves open. The tracer has seen one size of each. With
# ``Dim.AUTO`` we let it find out itself which may vary, from four different examples. One layer is enough to see it.

flat = Flat(cut(model, 1)).eval()


def inputs_of(batch, new, past):
    mask = torch.ones(batch, past + new, dtype=torch.int64, device=device)
    positions = torch.arange(past, past + new, device=device).repeat(batch, 1)
    options = {"length": past, "dtype": model.dtype, "device": device}
    cache = decodeloop.empty_tensors(flat.model.config, batch, **options)
    return mask[:, past:].contiguous(), mask, positions, cache


def trace(sizes, dim):
    tokens, keys = {0: dim, 1: dim}, {0: dim, 2: dim}
    shapes = tokens, tokens, tokens, [keys, keys]
    options = {"dynamic_shapes": shapes, "strict": False}
    with torch.no_grad():
        return torch.export.export(flat, inputs_of(*sizes), **options)


def found_to_vary(program):
    """What became of batch, new tokens and past."""
    inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
    ids, _, _, keys, _ = [node.meta["val"].shape for node in inputs[-5:]]
    sizes = [ids[0], ids[1], keys[2]]
    return [f"always {s}" if isinstance(s, int) else "varies" for s in sizes]


programs, rows = {}, {}
for sizes in ((2, 3, 5), (1, 3, 5), (2, 1, 5), (2, 3, 0)):
    programs[sizes] = trace(sizes, torch.export.Dim.AUTO)
    rows["{} x {} after {}".format(*sizes)] = found_to_vary(programs[sizes])
table = pandas.DataFrame(rows, ["batch", "new tokens", "past"]).T
assert (table.iloc[0] == "varies").all()
assert (table.iloc[1:] != "varies").any(axis=1).all()
table.rename_axis("batch x new after past")

# %%
# The last three programs fix a size, and nothing was said about it. A tracer takes a size of 0 or 1 for a constant,
# since these two are special in PyTorch: a size of 1 is broadcast, and an empty tensor often goes another way through
# the code. One prompt without a past is the example that one would try first, and such a program refuses other sizes.
# The program of 2 x 3 after 5 runs at them, and gives what the model gives.

other = inputs_of(3, 2, 4)
try:
    programs[1, 3, 5].module()(*other)
except Exception as error:  # its class differs from version to version
    print("traced on a batch of 1:", str(error).splitlines()[0])
else:
    raise AssertionError("the trace of batch 1 took a batch of 3")
with torch.no_grad():
    expected, got = flat(*other)[0], programs[2, 3, 5].module()(*other)[0]
most = 1e-3 if model.dtype == torch.float32 else 0.2  # what rounding may do
assert decodeloop.max_diff(expected, got)["abs"] < most
print("traced on a batch of 2:", decodeloop.string_type(got, with_shape=True))

# %%
# The safe way is to *demand* that a size varies, with ``Dim.DYNAMIC`` or a name. Then the tracer complains.

try:
    trace((1, 3, 5), torch.export.Dim.DYNAMIC)
except Exception as error:  # its class differs from version to version
    print(textwrap.fill("".join(str(error).splitlines()[:2]), 80))
else:
    raise AssertionError("a batch of 1 was traced as dynamic")

# %%
# The whole model
# ===============
#
# :func:`decodeloop.export_onnx` does this for all layers, and runs the graph beside the model before it writes the
# file. ``exporter="dynamo"`` traces the model as above; its graph has the operators of the ONNX standard, which any
# runtime knows. ``exporter="fused"`` is for ONNX Runtime, which has larger operators of its own, such as one for a
# whole attention. For families of models that it knows it does not trace, but writes the graph operator by operator;
# other models are traced with that attention in them. ``ExportReport.graph`` says which of the two was done.

reports = {}
for name in ("dynamo", "fused"):
    path = folder / f"{name}.onnx"
    reports[name] = decodeloop.export_onnx(model, path, exporter=name)
    print(f"{name}: {reports[name].graph}, {reports[name].checked}")
shapes = pandas.DataFrame({n: r.inputs | r.outputs for n, r in reports.items()})
shapes = shapes.map(lambda sizes: ", ".join(map(str, sizes)), na_action="ignore")
shapes.fillna("").filter(regex=r"ids|mask|logits|\.0\.", axis=0)

# %%
# A name is a dynamic size. (*Within* is a share of the size of the logits.) In the traced graph the present is a new
# tensor, longer than the past by the new tokens. In the fused one, both are one buffer of a fixed :term:`capacity`,
# into which each step writes. It counts positions from the mask, and by default gives the last token's logits only. A
# row begins at the left of its buffer, where :class:`decodeloop.OnnxDecoder` moves what is padded on the left.
#
# What is in the graphs?
# ======================
#
# Their operators by kind, of those that one of them has at least once for each layer (no bar: none):

counts = pandas.DataFrame({name: r.operators for name, r in reports.items()})
counts = counts.fillna(0).astype(int).sort_values("dynamo", ascending=False)
assert counts["fused"]["GroupQueryAttention"] == layers
assert counts["fused"].sum() < counts["dynamo"].sum() / 3
often = counts[(counts >= layers).any(axis=1)]
often.plot.barh(title="Operators by kind", figsize=(6, 6)).invert_yaxis()

# %%
# The traced graph spells attention out: slices, products and concatenations to rotate by the position, a softmax, and
# shapes that are computed on the way. In the fused graph, each layer's attention is one ``GroupQueryAttention``. Of the
# other products, those of the same input are merged here, and so are two whose results are added:

products = counts.loc["MatMul"] // layers  # one more may give the logits
print("matrix products per layer:", products.to_dict())
assert products["fused"] < products["dynamo"]

# %%
# Do they compute the same?
# =========================
#
# :func:`decodeloop.verify` lets PyTorch and a graph read the same text, step by step, and compares their
# :term:`logits`, the scores that the next token is chosen by. The seconds are no race: only one traces; both check.

text = 'def factorial(n):\n    """Return the factorial of n"""'
ids = loaded.tokenizer(text, return_tensors="pt").input_ids.to(device)
table = pandas.DataFrame({"operators (nodes)": counts.sum()})
for name, report in reports.items():
    found = decodeloop.verify(model, decodeloop.OnnxDecoder(report.path), ids)
    assert found.agrees
    assert found.max_logit_diff < most
    table.loc[name, "export (s)"] = report.seconds
    table.loc[name, "size (MiB)"] = report.bytes / 2**20
    table.loc[name, "largest difference (logits)"] = found.max_logit_diff
table.round(5)

# %%
# Which should I use?
# ===================
#
# For ONNX Runtime, ``"fused"``: it has far fewer operators, as counted above, and its cache is not copied.
# :ref:`l-plot-onnx-speed` measures what that saves. For any other runtime ``"dynamo"``, since its operators are the
# standard's. Where a model is traced, mark what varies and let no example size be 0 or 1; verify any graph at a size
# that the export has not seen. :doc:`/which` compares the exporters.
#
# Measured on
# ===========

figures = {f"{n}: {label}": v for label, c in table.items() for n, v in c.items()}
provider = decodeloop.OnnxDecoder(reports["fused"].path)
decodeloop.provenance(model=loaded, provider=provider, figures=figures)
