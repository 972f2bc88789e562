"""
.. _l-plot-generate:

=================================
From a LLM to processing a prompt
=================================

A large language model does one thing: given a text, it says how likely each token is to come next. Everything else is
a loop around it. This page follows one prompt through three such loops: the one in ``transformers``, one of our own
in eight lines, and the same loop around an ONNX graph. All write the same tokens; at the end we see how long each
takes.

Load a model and its tokenizer
==============================

The model is a small one of the architecture of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_, trained to
write short Python functions. It comes with the package, so nothing is downloaded. Give :func:`decodeloop.load`
another name, such as ``"microsoft/phi-1_5"``, and the rest of this page runs on that model.
"""

import argparse
import tempfile
from pathlib import Path

import pandas
import torch

import decodeloop
from decodeloop import string_type

FAST = decodeloop.unit_test_going()  # smaller sizes, the same code

loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
millions = sum(p.numel() for p in model.parameters()) / 1e6
print(f"{type(model).__name__} on {model.device}:")
print(f"{millions:.1f} million weights, {loaded.weights}, {model.dtype}")

# %%
# Tokenize the prompt
# ===================
#
# A model reads numbers. The tokenizer cuts the text into pieces it knows, its *tokens*, and gives the number of each.

prompt = '''def print_prime(n):
   """
   Print all primes between 1 and n
   """'''
inputs = tokenizer(prompt, return_tensors="pt", return_attention_mask=False)
input_ids = inputs.input_ids.to(model.device)
print([tokenizer.decode(token) for token in input_ids[0, :12]], "...")
print(string_type(input_ids, with_shape=True, with_min_max=True))

# %%
# The last line is a summary that we will use throughout: ``T7`` is a torch tensor of 64-bit integers (type number 7
# in ONNX), ``s`` its shape, one row with one number per token, in brackets its smallest and largest value and its
# mean.
#
# The answer of ``generate``
# ==========================
#
# ``generate`` is the loop that everybody uses. Without sampling it is *greedy*: it always takes the most likely token.
# We allow 100 new tokens. The answer ends earlier, with the *end-of-sequence* token, which a model is trained to write
# when it is done; a loop that does not look for it goes on until the limit.

outputs = model.generate(input_ids, max_new_tokens=100, do_sample=False)
eos_token_id = tokenizer.eos_token_id
new_tokens = outputs.shape[1] - input_ids.shape[1]
assert outputs[0, -1] == eos_token_id
print(string_type(outputs, with_shape=True, with_min_max=True))
print(f"{new_tokens} new tokens, the last one is {int(outputs[0, -1])}:")
print(tokenizer.decode(outputs[0]))

# %%
# Our own loop
# ============
#
# To predict the next token, the model compares the last token with all those before it. For that it needs two vectors
# of each earlier token in each layer, its *key* and its *value*. They never change once computed, so the model hands
# them back as ``past_key_values``, the *KV cache*, and takes them at the next call. That gives the loop two phases.
# The first call, the *prefill*, reads the whole prompt. Each later call, a *decode* step, reads just the one new
# token.


@torch.no_grad()
def simple_generate_with_cache(
    model, input_ids, eos_token_id, max_new_tokens=100
):
    unread, cache = input_ids, None  # not seen yet; kept of what was seen
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        unread = outputs.logits[:, -1, :].argmax(dim=-1, keepdim=True)
        input_ids = torch.cat([input_ids, unread], dim=-1)
        if unread.item() == eos_token_id:
            break
    return input_ids


custom = simple_generate_with_cache(model, input_ids, eos_token_id)
assert torch.equal(custom, outputs)

# %%
# The tokens are the same. :func:`decodeloop.generate` is this loop with batches, padding and several end tokens. What
# does one call return?

assert torch.equal(decodeloop.generate(model, input_ids), outputs)

with torch.no_grad():
    first = model(input_ids, use_cache=True)
keys = first.past_key_values.layers[0].keys
print("logits:", string_type(first.logits, with_shape=True))
print("keys of the first layer:", string_type(keys, with_shape=True))

# %%
# The *logits* are one number per position and token of the vocabulary, the higher the likelier; only the last
# position's say what comes next, and :ref:`l-plot-sampling` shows other ways to choose from them. A layer's keys are
# batch x heads x tokens so far x size of a head, and so are its values.
#
# The model as an ONNX graph
# ==========================
#
# `ONNX <https://onnx.ai>`_ describes a model as a graph of operators, which `ONNX Runtime <https://onnxruntime.ai>`_
# executes without Python. The export runs the model once on example inputs and records the operators. It must be told
# which dimensions vary, or it takes those of the example for constants.

example, dynamic_shapes = decodeloop.export_inputs(model)
print(string_type(example["input_ids"], with_shape=True), end=" ")
print("varies in", dynamic_shapes["input_ids"])

parser = (
    argparse.ArgumentParser()
)  # python plot_generate.py --exporter onnx-fused
parser.add_argument("--exporter", default="onnx-dynamo")
exporter = parser.parse_known_args()[0].exporter.removeprefix("onnx-")

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
report = decodeloop.export_onnx(model, path, exporter=exporter)
print(f"{report.bytes / 2**20:.1f} MiB, opset {report.opset},", end=" ")
print(f"{sum(report.operators.values())} operators in {report.seconds:.0f} s")

shapes = report.inputs | report.outputs
table = pandas.DataFrame(index=shapes)
table["is an"] = ["input" if n in report.inputs else "output" for n in shapes]
table["shape"] = [" x ".join(map(str, shape)) for shape in shapes.values()]
table.filter(regex=r"ids|mask|logits|\.0\.", axis=0)

# %%
# A name in a shape stands for a dimension that varies. One graph serves both phases: ``input_ids`` is what the model
# has not read yet, the prompt or one token. The cache comes in as ``past_key_values`` and leaves as ``present``, longer
# by what was read; the table shows the first layer's. ``attention_mask`` covers past and new tokens: 0 hides the
# padding of a shorter row. ``position_ids`` says where each new token stands in its text.
#
# The same loop around the graph
# ==============================
#
# :func:`decodeloop.onnx_generate` is the loop from above with the graph in the model's place. It opens a *session*,
# which optimises the graph for this machine. We keep it, so that later calls need not open another.

onnx_outputs, session, last_feeds = decodeloop.onnx_generate(
    path, input_ids, max_new_tokens=100, return_session=True
)
print(session.providers[0], "was last fed with:")
for name in list(last_feeds)[:4]:
    print(f"  {name}: {string_type(last_feeds[name], with_shape=True)}")

# %%
# Two programs add numbers in different orders, so their logits differ in the last digits, and where two tokens are
# almost equally likely either may win. :func:`decodeloop.verify` lets both read the same text and compares the logits
# of each step. At every step both choose the same token.

found = decodeloop.verify(model, session, input_ids, max_new_tokens=100)
print(found)
assert found.same_tokens
assert torch.equal(onnx_outputs, outputs)

# %%
# A faster graph
# ==============
#
# ONNX Runtime also has larger operators than those of this graph, such as one for all of a layer's attention, which
# writes new keys and values in place instead of making the cache anew. ``exporter="fused"`` builds the graph from
# these. On a GPU its steps are recorded once and replayed by a single call, a *CUDA graph*.

fused_path = Path(folder.name) / "fused.onnx"
fused_report = decodeloop.export_onnx(model, fused_path, exporter="fused")
fused = decodeloop.OnnxDecoder(fused_path)
assert torch.equal(fused.generate(input_ids), outputs)
for name, r in {"this graph": report, "larger operators": fused_report}.items():
    print(f"{name}: {sum(r.operators.values())} operators")

# %%
# How long does each take?
# ========================
#
# Each loop is warmed up, then they take turns, five times, so that a busy moment of the machine does not hit one of
# them alone. A run of one token gives the time of the prefill. The :term:`limit`
# holds for every loop: a step cannot take less time than this machine needs to read all weights and the cache
# (:func:`decodeloop.roofline`).


options = {"do_sample": False, "eos_token_id": None}  # never stops early


def loop_of(decoder):
    return lambda k: decoder.generate(
        input_ids, max_new_tokens=k, eos_token_id=None
    )


loops = {
    "generate": lambda k: model.generate(input_ids, max_new_tokens=k, **options),
    "own loop": lambda k: simple_generate_with_cache(model, input_ids, None, k),
    "ONNX": loop_of(session),
    "ONNX, fused graph": loop_of(fused),
}
timed = 20 if FAST else new_tokens
timings = decodeloop.prefill_and_decode_all(loops, timed)
half = input_ids.shape[1] + timed // 2
limit = decodeloop.roofline(model, length=half)
print(f"limit: {limit}")
df = timings.table(limit)
df.round(3)

# %%
# *First token* is the time of the prefill, *next token* that of each further one, and the *spread* is how far the runs
# lie apart: (slowest - fastest) / median. A model this small has little to read, so what counts is the rest: Python,
# and the start of one operator after the other. :ref:`l-plot-limit` climbs to the limit with a large model.

timings.plot(
    limit, title=f"Tokens per second\n{loaded.name} model, {model.device.type}"
)

# %%
# Which should I use?
# ===================
#
# To get an answer, ``generate``: it does everything, beams and stop strings included. To learn or to change how
# decoding works, a loop of your own. To serve a model, a graph: the same tokens without Python around each operator.
# These lines say what that saves here.

speed = df["tokens/s"]
for name in speed.sort_values(ascending=False).index:
    faster = speed[name] / speed["generate"]
    print(f"{name}: {faster:.1f} x the tokens/s of generate")

# %%
# Each step of this page has a page that goes further: :ref:`l-plot-kv-cache` on what the cache saves and costs,
# :ref:`l-plot-sampling` on drawing tokens, :ref:`l-plot-batch` on several prompts at once,
# :ref:`l-plot-streaming-and-lookup` on tokens as they come, :ref:`l-plot-guess-ahead` on several tokens a pass,
# :ref:`l-plot-long-text` on long prompts, :ref:`l-plot-export` on what the export does,
# :ref:`l-plot-precision` on weights of 8 and 4 bits, :ref:`l-plot-onnx-speed` on where the milliseconds go,
# :ref:`l-plot-engines` on more engines side by side, :ref:`l-plot-limit` on how fast they can be at all, and
# :ref:`l-plot-traps` on mistakes that look like success.
#
# Measured on
# ===========

figures = speed.add_suffix(" (tokens/s)")
figures["limit (tokens/s)"] = limit.tokens_per_second
decodeloop.provenance(model=loaded, provider=session, figures=figures)
