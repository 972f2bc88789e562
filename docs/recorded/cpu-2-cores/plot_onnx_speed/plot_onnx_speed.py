"""
.. _l-plot-onnx-speed:

=============================
Where do the milliseconds go?
=============================

How long a decode step takes in ONNX Runtime depends on how the KV cache is handed to it, and on how many operators it
has to start. This page runs one step in three ways: with numpy arrays, with buffers on the device, and with one buffer
that is written in place. It measures each at short and at long texts, beside the least time that reading takes.

.. image:: /drawings/shared-buffer.svg
   :alt: Above, past and present are two buffers: each step copies all of the past into the present, and adds one
      position. Below there is one buffer with room left: a step writes one position, and nothing moves.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. The model has random weights. Its shape is
that of phi-1_5 on a GPU (1.4 billion weights, float16), that of the largest llama2.c on a CPU (0.1 billion, float32).
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch.nn.functional import pad

import decodeloop

FAST = decodeloop.unit_test_going()  # one layer, and shorter texts
source = "Xenova/llama2.c-stories110M"
if torch.cuda.is_available():
    source = "microsoft/phi-1_5"
if FAST:
    source = "bundled"
loaded = decodeloop.load(source, random_weights=True)
model = loaded.model
if FAST:
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]
torch.manual_seed(0)
config, device = model.config, model.device
where = {"dtype": model.dtype, "device": device}
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
print(f"{source}, {model.dtype}, {device}")

# %%
# Two graphs of one model
# =======================
#
# :ref:`l-plot-export` tells how a model becomes a graph. That of ``exporter="dynamo"`` holds PyTorch's operators one by
# one, and what comes out as :term:`present` is a new tensor, one position longer than the :term:`past`. In that of
# ``exporter="fused"`` a whole attention is one operator, neighbours are merged, and present is the buffer that went in
# as past. A :term:`session` is a graph that ONNX Runtime has opened on a device.

paths = {name: folder / f"{name}.onnx" for name in ("dynamo", "fused")}
count = {}
for name, path in paths.items():
    report = decodeloop.export_onnx(model, path, exporter=name, logits="last")
    count[name] = sum(report.operators.values())
decoders = {name: decodeloop.OnnxDecoder(path) for name, path in paths.items()}
print("operators:", count)
assert count["fused"] < count["dynamo"] / 3

# %%
# 1. Numpy arrays
# ===============
#
# ``session.run`` takes numpy arrays by name and returns numpy arrays, and nothing is simpler. Here are the inputs of a
# step that reads one token after a text of some length. For the time of a step it does not matter what stands in the
# cache, so we fill it with random numbers.


def text_of(length):
    """What a step reads: the new token's inputs, and the past, each by name."""
    ids = torch.tensor([[7]], device=device)
    mask = torch.ones(1, length + 1, dtype=torch.int64, device=device)
    new = {"input_ids": ids, "attention_mask": mask}
    new["position_ids"] = torch.full_like(ids, length)
    cache = decodeloop.empty_tensors(config, length=length, **where)
    inputs = [each.name for each in decoders["dynamo"].session.get_inputs()]
    return new, {n: t.normal_() for n, t in zip(inputs[3:], cache, strict=True)}


def numpy_step(new, past):
    feeds = {n: tensor.numpy(force=True) for n, tensor in (new | past).items()}
    return lambda: decoders["dynamo"].session.run(None, feeds)[0]


# %%
# On a GPU, the whole past is copied from the host to the device in each step, and the whole present back.
#
# 2. Buffers on the device
# ========================
#
# With :term:`IO binding` a session is given addresses: inputs and outputs are tensors that stay on the device.


def bound_step(session, new, past, present):
    logits = torch.empty(1, 1, config.vocab_size, **where)
    inputs, outputs = new | past, {"logits": logits}
    for name, t in present.items():
        outputs[name.replace("past_key_values", "present")] = t
    binding = session.io_binding()
    binding.tensors = inputs, outputs  # an address is good while its tensor lives
    pairs = (binding.bind_input, inputs), (binding.bind_output, outputs)
    for bind, tensors in pairs:
        for name, t in tensors.items():
            kind = t[:0].numpy(force=True).dtype.type  # numpy's name of it
            bind(name, device.type, 0, kind, t.shape, t.data_ptr())
    if device.type == "cuda":  # the session works on a stream of its own
        torch.cuda.synchronize()

    def step():
        session.run_with_iobinding(binding)
        return logits

    return step


def longer(past, by):
    return {name: pad(keys, (0, 0, 0, by)) for name, keys in past.items()}


def binding_step(new, past):
    return bound_step(decoders["dynamo"].session, new, past, longer(past, by=1))


# %%
# The cache does not leave the device any more, but each step still reads all of the past and writes all of the present.
#
# 3. One buffer
# =============
#
# The fused graph's attention writes the new keys and values into the buffer that holds the old ones. It finds their
# place by the mask, which has as many ones as the text has tokens. So past and present are the same tensors, with room.


def shared_step(new, past, room=64):
    buffers = longer(past, by=room)
    mask = pad(new["attention_mask"], (0, room - 1))
    new = {"input_ids": new["input_ids"], "attention_mask": mask}
    return bound_step(decoders["fused"].session, new, buffers, buffers)


# %%
# Do they compute the same?
# =========================
#
# Before the clock starts, all three are compared with PyTorch, which reads the same token after the same past.

steps = {"numpy feeds": numpy_step, "IO binding": binding_step}
steps["fused graph"] = shared_step
new, past = text_of(length=40)
keys_and_values = [tensor.clone() for tensor in past.values()]
cache = decodeloop.tensors_to_cache(keys_and_values, config)
with torch.no_grad():
    expected = model(new["input_ids"], past_key_values=cache).logits
rounding = 32 * torch.finfo(model.dtype).eps * expected.abs().max().item()
for name, make in steps.items():
    logits = torch.as_tensor(make(new, past)())
    assert decodeloop.max_diff(expected, logits)["abs"] <= rounding, name

# %%
# By the length of the text
# =========================
#
# The steps take turns. The :term:`limit` is the least time in which this machine reads the weights, and the keys and
# values of that many positions.

lengths, runs = (24, 88) if FAST else (24, 512, 960), {}
for length in lengths:
    text = text_of(length)
    runs |= {(name, length): make(*text) for name, make in steps.items()}
timings = decodeloop.measure_all(runs, repeats=15, warmup=3)
times = timings.table()["median (ms)"].unstack(0)[list(steps)]
limits = [decodeloop.roofline(paths["fused"], length=n) for n in lengths]
times["limit"] = [1e3 * limit.seconds for limit in limits]
ax = times.plot(style=["o-", "s--", "^-.", ":"], ylabel="ms per token", ylim=0)
ax.set(title=f"Time of a step, {source}", xlabel="positions in the cache")
slopes = (times.iloc[-1] - times.iloc[0]) / (lengths[-1] - lengths[0])
assert FAST or slopes["fused graph"] < slopes["numpy feeds"]
for name, slope in slopes[list(steps)].items():
    print(f"{name}: {1e5 * slope:+.0f} µs for each 100 positions, on average")
times.round(3)

# %%
# Where a line rises steadily, its slope is what the cache costs, and its height at a short text the rest. (On a GPU,
# starting operators may take longer than moving the cache: then the slope says nothing, and may be negative.) Steps
# that move the cache read and write each position, in small operators more than once; in the shared buffer attention
# only reads it, which may take longer than reading alone would.
#
# What does an operator cost that does nothing?
# =============================================
#
# ONNX Runtime has to start each operator: find its inputs and outputs, call its code, on a GPU launch a :term:`kernel`.
# We chain 500 operators that each negate one number. Nearly all of their time is spent on starting them.


def cost_of_starting(count=500):
    make, one = helper.make_node, helper.make_tensor_value_info
    nodes = [make("Neg", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    first, last = (one(f"x{i}", TensorProto.FLOAT, [1]) for i in (0, count))
    graph = helper.make_graph(nodes, "chain", [first], [last])
    opset = [helper.make_opsetid("", 21)]
    chain = helper.make_model(graph, opset_imports=opset, ir_version=10)
    providers, chain = decoders["dynamo"].providers, chain.SerializeToString()
    session = onnxruntime.InferenceSession(chain, providers=providers)
    feeds = {"x0": np.ones(1, np.float32)}
    runs = decodeloop.measure(lambda: session.run(None, feeds), repeats=9)
    return runs.min / count


start = cost_of_starting()
fewer = count["dynamo"] - count["fused"]
shorter = (times["IO binding"] - times["fused graph"]).iloc[0]
assert FAST or shorter > 0
print(f"to start one operator: {1e6 * start:.2f} µs")
print(f"to start the {fewer} that fusing saves: {1e3 * start * fewer:.2f} ms")
print(f"IO binding less fused graph, at a short text: {shorter:.2f} ms")

# %%
# Starting is a small part of what fusing saves on a CPU, and may be all of it on a GPU. (The chain tells its order of
# magnitude, and may exceed it: each of its operators waits for the one before, those of a graph may not.) The rest is
# products that are merged, and results that one operator writes to memory for the next one to read.
#
# On a GPU one can go further. With one buffer, all that a step starts can be recorded as a :term:`CUDA graph` and
# started by one call. :class:`decodeloop.OnnxDecoder` does so; :ref:`l-plot-engines` has its speed, and
# :ref:`l-plot-limit` tells how it works.
#
# Which should I use?
# ===================
#
# Numpy arrays to try a graph out. To run a model in a program, the fused graph with one buffer for past and present, as
# :class:`decodeloop.OnnxDecoder` runs it. With a graph whose cache grows, bind the cache on a GPU.
# :ref:`l-plot-precision` reads fewer bytes, :doc:`/which` compares all. At the longest text, without a CUDA graph:

for name, ms in times.iloc[-1].items():
    print(f"{name}: {1e3 / ms:.0f} tokens/s")

# %%
# Measured on
# ===========

figures = (1e3 / times.iloc[0]).add_suffix(" (tokens/s)").to_dict()
figures["to start one operator (µs)"] = 1e6 * start
decodeloop.provenance(model=loaded, provider=decoders["fused"], figures=figures)
