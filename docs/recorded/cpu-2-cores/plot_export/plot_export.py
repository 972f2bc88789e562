"""
.. _l-plot-export:

===========================
What happens in the export?
===========================

An ONNX file holds a graph: operators, the tensors between them, and no Python. This page makes one from the model,
first in a way that fails, then in one that quietly gives a graph for a single size, then right. At the end it compares
what different exporters make of the same weights, and draws one layer.
"""

import copy
import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import onnx
import onnxruntime
import pandas
import torch
import transformers

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer layers, the same code
warnings.simplefilter("ignore")  # the exporter's remarks on itself
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
logging.getLogger("torch._export").setLevel(logging.ERROR)

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
print(
    f"{loaded.name}: {len(model.model.layers)} layers, {model.dtype}, on {device}"
)

# %%
# The first try
# =============
#
# To export, PyTorch runs the model on example inputs and records each operator: it *traces* it. The inputs of a decode
# step are the new tokens, the mask, their positions, and the KV cache, the keys and values of all earlier tokens.
# transformers keeps these in a ``DynamicCache``. :func:`decodeloop.export_inputs` makes an example.

example, dynamic_shapes = decodeloop.export_inputs(model)
for name, value in example.items():
    print(f"{name}: {decodeloop.string_type(value, with_shape=True)}")
try:
    torch.onnx.export(model, kwargs=example, dynamo=True, verbose=False)
except torch.onnx.errors.OnnxExporterError as error:
    print("\nThe export failed:", str(error.__cause__).partition(". ")[0])
else:
    raise AssertionError("PyTorch exports a cache now: this page is out of date")

# %%
# A tracer knows tensors, and lists, tuples and dictionaries of them. A cache is an object of its own, so the tracer
# does not know what in it is data.
#
# Flat tensors
# ============
#
# The way out is a module around the model. It takes the keys and values as a flat list of tensors, builds the cache
# inside, where it is but Python that the trace runs through, and returns flat tensors again.


class Flat(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        cache = transformers.DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        outputs = self.model(input_ids, attention_mask, position_ids, cache)
        return outputs.logits, decodeloop.cache_to_tensors(
            outputs.past_key_values
        )


# %%
# The 0/1 trap
# ============
#
# A *dynamic dimension* is one whose size the graph leaves open. A trace has seen one size of each. Which may vary? We
# allow all of them to (``Dim.AUTO``), and look at what the tracer makes of four examples. One layer is enough for that.

flat = Flat(cut(model, 1)).eval()


def inputs_of(batch, new, past):
    total = torch.ones(batch, past + new, dtype=torch.int64, device=device)
    positions = torch.arange(past, past + new, device=device).repeat(batch, 1)
    where = {"dtype": model.dtype, "device": device}
    cache = decodeloop.empty_tensors(
        flat.model.config, batch, length=past, **where
    )
    return total[:, past:].contiguous(), total, positions, cache


def trace(sizes, dim):
    shapes = (
        {0: dim, 1: dim},
        {0: dim, 1: dim},
        {0: dim, 1: dim},
        2 * [{0: dim, 2: dim}],
    )
    with torch.no_grad():
        return torch.export.export(
            flat, inputs_of(*sizes), dynamic_shapes=shapes, strict=False
        )


def kept(program):
    """What became of batch, new tokens and past."""
    found = [
        n.meta["val"].shape for n in program.graph.nodes if n.op == "placeholder"
    ]
    ids, _, _, keys, _ = found[-5:]
    sizes = [ids[0], ids[1], keys[2]]
    return [f"always {s}" if isinstance(s, int) else "varies" for s in sizes]


rows, programs = {}, {}
for sizes in ((2, 3, 5), (1, 3, 5), (2, 1, 5), (2, 3, 0)):
    programs[sizes] = trace(sizes, torch.export.Dim.AUTO)
    rows["{} x {} after {}".format(*sizes)] = kept(programs[sizes])
table = pandas.DataFrame(rows, ["batch", "new tokens", "past"]).T
assert (table.iloc[0] == "varies").all()
assert (table.iloc[1:] != "varies").any(axis=1).all()
table.rename_axis("traced on")

# %%
# Nothing was said, yet each of the last three programs fixes a size. A tracer takes a size of 0 or 1 for a constant:
# PyTorch treats these two apart, since a size of 1 is broadcast, and an empty tensor often takes another way through
# the code. An example of one prompt, or of one without a past, is what one would try first. Such a program refuses
# other sizes. The first runs at them, and gives what the model gives.

other = inputs_of(3, 2, 4)
try:
    programs[1, 3, 5].module()(*other)
except Exception as error:  # its class differs from version to version
    print("traced on a batch of 1:", str(error).splitlines()[0])
else:
    raise AssertionError("the trace of batch 1 took a batch of 3")
with torch.no_grad():
    expected, got = flat(*other)[0], programs[2, 3, 5].module()(*other)[0]
print("traced on a batch of 2:", decodeloop.string_type(got, with_shape=True))
exact = model.dtype == torch.float32
assert decodeloop.max_diff(expected, got)["abs"] < (1e-4 if exact else 0.2)

# %%
# The safe way is to *demand* that a size varies, with ``Dim.DYNAMIC`` or a name: then the tracer complains.

try:
    trace((1, 3, 5), torch.export.Dim.DYNAMIC)
except Exception as error:  # its class differs from version to version
    print(textwrap.fill("".join(str(error).splitlines()[:2]), 80))
else:
    raise AssertionError("a batch of 1 was traced as dynamic")

# %%
# ``torch.onnx.export`` asks the same tracer not to treat 0 and 1 apart. That is no help where the model's own code asks
# whether a size is 1, as attention does: one new token needs no causal mask. The answer would become part of the graph.
# Here is what the export says. So no size in an example should be 0 or 1.

names = {0: "batch", 1: "new"}, {0: "batch", 1: "total"}, {0: "batch", 1: "new"}
shapes = *names, 2 * [{0: "batch", 2: "past"}]
try:
    given = inputs_of(2, 1, 5)
    torch.onnx.export(
        flat, given, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    print("one new token: exported")
except torch.onnx.errors.OnnxExporterError as error:
    reason = str(error.__cause__).splitlines()[0]
    print(textwrap.fill(f"one new token: {reason}", 80))

# %%
# The whole model
# ===============
#
# :func:`decodeloop.export_onnx` does this for all layers, and runs the graph beside the model before it writes it; what
# it compared is in ``ExportReport.checked``. That is its exporter ``"dynamo"``, after the argument ``dynamo=True``
# above. Its graph has standard operators only. The exporter ``"fused"`` does not trace this model: it writes the graph
# operator by operator, with ONNX Runtime's own fused ones.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
reports = {}
for name in ("dynamo", "fused"):
    path = folder / f"{name}.onnx"
    reports[name] = decodeloop.export_onnx(model, path, exporter=name)
dynamo, fused = reports.values()
shapes = pandas.DataFrame({n: r.inputs | r.outputs for n, r in reports.items()})
shapes = shapes.map(lambda s: " x ".join(map(str, s)) if s == s else "")
shapes.filter(regex=r"ids|mask|logits|\.0\.", axis=0)

# %%
# A name stands for a dynamic dimension. The traced graph's cache grows: ``past`` comes in, and what leaves is longer by
# the new tokens. The other's has a fixed ``capacity``, and what leaves is the same buffer. It needs no positions,
# since it counts the mask, and gives the logits of the last token only, unless it is told otherwise.
#
# What is in the graphs?
# ======================
#
# Their operators, those that stand there at least once for each layer:

assert "GroupQueryAttention" not in dynamo.operators
assert fused.operators["GroupQueryAttention"] == len(model.model.layers)
counts = pandas.DataFrame({name: r.operators for name, r in reports.items()})
counts = counts.fillna(0).astype(int).sort_values("dynamo", ascending=False)
counts[(counts >= len(model.model.layers)).any(axis=1)]

# %%
# The traced graph spells attention out: slices, products and concatenations for the rotary positions, a softmax, and
# shapes computed on the way. In the other, each layer's attention is one ``GroupQueryAttention``.
#
# Do they compute the same?
# =========================
#
# :func:`decodeloop.verify` lets PyTorch and a graph read the same text, step by step, and compares their *logits*, the
# scores that the next token is chosen by. The seconds are of one export, and no fair race: only one of them traces.

prompt = 'def factorial(n):\n    """Return the factorial of n"""'
ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids.to(device)
rows = {}
for name, r in reports.items():
    found = decodeloop.verify(model, decodeloop.OnnxDecoder(r.path), ids)
    assert found.agrees
    assert found.max_logit_diff < (1e-3 if exact else 0.2)
    agreed = f"{found.agreed} of {found.tokens}"
    nodes = sum(r.operators.values())
    rows[name] = r.seconds, r.bytes / 2**20, nodes, agreed, found.max_logit_diff

# %%
# onnxruntime-genai has an exporter too, its *model builder*. It writes a graph from a checkpoint on disk. Where it is
# installed it joins the table. Its logits are compared on the prompt.


def build(folder):
    """onnxruntime-genai's builder, in a process of its own."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    part = config["rope_parameters"]["partial_rotary_factor"]
    config["partial_rotary_factor"] = part  # where the builder looks for it
    (folder / "config.json").write_text(json.dumps(config))
    kind = "-p fp16 -e cuda" if device.type == "cuda" else "-p fp32 -e cpu"
    where = ["-i", folder, "-o", folder / "built", "-c", folder / "cache"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *where]
    subprocess.run(command + kind.split(), check=True, capture_output=True)
    return folder / "built" / "model.onnx"


def prompt_logits(path):
    providers = decodeloop.OnnxDecoder(fused.path).providers
    session = onnxruntime.InferenceSession(path, providers=providers)
    past = decodeloop.empty_tensors(model.config, dtype=model.dtype)
    positions = torch.arange(ids.shape[1])[None]
    given = [ids, torch.ones_like(ids), positions, *past]
    feeds = dict(zip(dynamo.inputs, given, strict=True))
    feeds = {i.name: feeds[i.name].cpu().numpy() for i in session.get_inputs()}
    return torch.tensor(session.run(["logits"], feeds)[0])


if importlib.util.find_spec("onnxruntime_genai"):
    target = folder / "genai"
    timing = decodeloop.measure(lambda: build(target), repeats=1, warmup=0)
    got = prompt_logits(timing.result)
    with torch.no_grad():
        expected = model(ids).logits.cpu()
    agreed = int((got.argmax(-1) == expected.argmax(-1)).sum())
    agreed = f"{agreed} of {ids.shape[1]}, prompt"
    size = sum(f.stat().st_size for f in timing.result.parent.glob("model.onnx*"))
    nodes = len(onnx.load(timing.result, load_external_data=False).graph.node)
    difference = decodeloop.max_diff(expected, got)["abs"]
    rows["builder"] = timing.median, size / 2**20, nodes, agreed, difference
else:
    print("onnxruntime-genai is not installed: its builder was skipped.")

columns = ["seconds", "MiB", "operators", "same next token", "largest difference"]
table = pandas.DataFrame(rows, columns).T
table.assign(
    seconds=[f"{s:.2f}" for s in table["seconds"]],
    MiB=[f"{m:.1f}" for m in table["MiB"]],
    **{columns[-1]: [f"{d:.1g}" for d in table[columns[-1]]]},
)

# %%
# One layer, drawn
# ================
#
# The second layer in the graph of ``"fused"``. Boxes are operators, from top to bottom in the order in which they run;
# arrows are tensors. On the right, on the same line, stand the weights or the cache that an operator
# reads.

nodes = onnx.load(fused.path, load_external_data=False).graph.node
norms = [i for i, n in enumerate(nodes) if n.op_type == "SkipLayerNormalization"]
layer = nodes[norms[0] : norms[1] + 1]
column = {"FastGelu": 1, "Add": -1, "GroupQueryAttention": -1}
places = [(column.get(n.op_type, 0), -i) for i, n in enumerate(layer)]
made_by = {name: i for i, n in enumerate(layer) for name in n.output if name}
box = {"boxstyle": "round", "facecolor": "none", "edgecolor": "C0"}

_, ax = plt.subplots(figsize=(7, 6))
for i, (node, place) in enumerate(zip(layer, places, strict=True)):
    read = [n.removeprefix("layers.1.") for n in node.input if "." in n]
    read = [n for n in read if not n.startswith("constant")][:2]
    ax.annotate(node.op_type, place, ha="center", va="center", bbox=box)
    ax.annotate("\n".join(read), (2, place[1]), va="center", color="C5", size=8)
    for start in {made_by[n] for n in node.input if made_by.get(n, i) < i}:
        arrow = {"arrowstyle": "->", "color": "C1", "shrinkA": 12, "shrinkB": 12}
        arrow["connectionstyle"] = f"arc3,rad={-1.1 * (i - start > 4)}"
        ax.annotate("", place, places[start], arrowprops=arrow)
ax.set_title('One layer in the graph of exporter="fused"')
ax.set(xlim=(-1.6, 2.9), ylim=(0.5 - len(layer), 0.5))
ax.set_axis_off()

# %%
# Phi's attention and feed-forward part read the same input. So one matrix product makes queries, keys, values and the
# first half of the feed-forward part, and one makes both outputs. The traced graph has all of them apart.

for name, report in reports.items():
    products = report.operators["MatMul"] - 1  # the last one gives the logits
    print(
        f"{name}: {products / len(model.model.layers):.0f} matrix products per layer"
    )
assert fused.operators["MatMul"] < dynamo.operators["MatMul"]

# %%
# Which should I use?
# ===================
#
# For ONNX Runtime, ``"fused"``: the fewest operators here, and a cache that is not copied; :ref:`l-plot-onnx-speed`
# measures what that saves. For any other runtime, ``"dynamo"``, since its operators are the standard's. Either way,
# mark what varies, let no example size be 0 or 1, and verify the graph at a size that the export has not seen.

for name, row in table.iterrows():
    print(
        f"{name}: {row['operators']:.0f} operators, {row['seconds']:.2f} s, "
        f"the same token {row['same next token']}"
    )

# %%
# Measured on
# ===========

figures = {}
for name, row in table.iterrows():
    figures[f"{name}: operators (nodes)"] = row["operators"]
    figures[f"{name}: export (s)"] = row["seconds"]
    figures[f"{name}: size (MiB)"] = row["MiB"]
    figures[f"{name}: largest difference (logits)"] = row[columns[-1]]
decodeloop.provenance(
    model=loaded,
    provider=decodeloop.OnnxDecoder(fused.path),
    figures=figures,
)
