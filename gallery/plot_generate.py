"""
.. _l-plot-generate:

==================================
From an LLM to processing a prompt
==================================

A large language model (LLM) does one thing: given a text, it says how likely each piece of text is to come next. All
the rest is a loop around it. This page follows one prompt through three such loops: the one in ``transformers``, one of
our own in a few lines, and the same loop around an ONNX graph. All three write the same answer, and at the end we
measure how long each of them takes.

.. image:: /drawings/loop.svg
   :alt: Four passes of a model, side by side. The first, the prefill, reads the four tokens of a prompt and gives
         logits, and these give the next token. Each later pass, a decode step, reads only the token that the pass
         before it gave. Below stands the text: the prompt, and one more token for each pass.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. The model comes with the package. It is a
small one of the architecture of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_, trained to write short Python
functions. With another name, such as ``decodeloop.load("microsoft/phi-1_5")``, the page runs on that model.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

import decodeloop
from decodeloop import string_type

# As a script, this page takes the exporter of its first graph:
#   python plot_generate.py --exporter onnx-fused
parser = argparse.ArgumentParser()
parser.add_argument("--exporter", default="onnx-dynamo")
exporter = parser.parse_known_args()[0].exporter.removeprefix("onnx-")

FAST = decodeloop.unit_test_going()  # a small model at the end too
shape, count = "Xenova/llama2.c-stories110M", 32
if torch.cuda.is_available():
    shape = "microsoft/phi-1_5"
if FAST:
    shape, count = "bundled", 12
folder = tempfile.TemporaryDirectory()
loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
print(f"{model.num_parameters():,} weights, {model.dtype}, on {model.device}")

# %%
# From text to tokens
# ===================
#
# A model reads numbers. The *tokenizer* cuts the text into pieces that it knows, each of them a :term:`token`, and
# gives the number of each.

prompt = '''def print_prime(n):
   """
   Print all primes between 1 and n
   """'''
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
print([tokenizer.decode(token) for token in input_ids[0, :12]], "...")
print(string_type(input_ids, with_shape=True, with_min_max=True))

# %%
# The last line is a summary that we will use throughout. ``T7`` is a tensor of int64 (type 7 of ONNX; 1 is float32, 10
# float16), ``s`` its shape, one row with one number per token. In brackets are its minimum, its maximum and its mean.
#
# What the model says
# ===================
#
# One call of the model gives one number for each token of its vocabulary, at each position of the text. These numbers
# are the :term:`logits`. The higher the logit, the likelier that token comes next. Only the last position tells us
# something new, because what comes after the others is already in the text.

with torch.no_grad():
    logits = model(input_ids).logits
print("logits:", string_type(logits, with_shape=True))
for token in logits[0, -1].topk(3).indices:
    print(f"{logits[0, -1, token]:6.1f}  {tokenizer.decode(token)!r}")

# %%
# The answer of ``generate``
# ==========================
#
# ``generate`` is the loop that everybody uses. Without sampling it is :term:`greedy`: it always takes the token with
# the highest logit. We allow 100 new tokens. The answer ends earlier, with the :term:`end-of-sequence token`, which a
# model is trained to write when it is done. A loop that does not look for this token goes on until the 100 are written.

outputs = model.generate(input_ids, max_new_tokens=100, do_sample=False)
eos_token_id = tokenizer.eos_token_id
assert outputs[0, -1] == eos_token_id
print(f"{outputs.shape[1] - input_ids.shape[1]} new tokens:")
print(tokenizer.decode(outputs[0]))

# %%
# Our own loop
# ============
#
# To say what comes next, each layer of the model looks back at all earlier tokens. For that it needs two vectors of
# each of them, a *key* and a *value*. They do not change when text is added, so the model hands them back as
# ``past_key_values``, the :term:`KV cache`, and takes them again at the next call. Therefore the loop has two phases.
# The first call, the :term:`prefill`, reads the whole prompt. Each later call, a :term:`decode step`, reads only the
# one token that is new.


@torch.no_grad()
def simple_generate_with_cache(
    model, input_ids, eos_token_id, max_new_tokens=100
):
    unread, cache = input_ids, None  # nothing is read yet, and nothing kept
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
assert torch.equal(decodeloop.generate(model, input_ids), outputs)

# %%
# The tokens are the same. :func:`decodeloop.generate` is this loop with batches, padding and several end tokens.
#
# The model as an ONNX graph
# ==========================
#
# `ONNX <https://onnx.ai>`_ describes a model as a graph of :term:`operators <operator>`, such as products or sums.
# `ONNX Runtime <https://onnxruntime.ai>`_ executes such a graph without Python. The export runs the model once, on
# example inputs, and records the operators. It has to be told which dimensions vary from call to call. All others get
# the size that they have in the example.

_, dynamic_shapes = decodeloop.export_inputs(model)
print("input_ids varies in", dynamic_shapes["input_ids"])

path = Path(folder.name) / "model.onnx"
report = decodeloop.export_onnx(model, path, exporter=exporter)
for name, sizes in (report.inputs | report.outputs).items():
    if "." not in name or ".0." in name:  # of the cache, the first layer's
        print(f"{name:25}", sizes)

# %%
# A name in a shape stands for a dimension that varies. One graph serves both phases, because ``input_ids`` is whatever
# the model has not read yet: the prompt, or one token. The cache goes in as ``past_key_values`` and comes out as
# ``present``, longer by what was read. ``attention_mask`` covers past and new tokens, and has a 0 where a shorter row
# of a batch was filled up. ``position_ids`` says where each new token stands in its text.
#
# The same loop around the graph
# ==============================
#
# :func:`decodeloop.onnx_generate` is the loop from above with the graph in the model's place. It opens a
# :term:`session`: ONNX Runtime loads the graph and rewrites it for this machine. We keep it for later calls. On a GPU
# the loop starts a step before it knows that the last token ended the text, so it was last fed one position more. Two
# programs add numbers in different orders, so their logits differ in the last digits. :func:`decodeloop.verify` lets
# both read the same text and compares what they say at each step.

onnx_outputs, session, last_feeds = decodeloop.onnx_generate(
    path, input_ids, max_new_tokens=100, return_session=True
)
assert torch.equal(onnx_outputs, outputs)
print(decodeloop.verify(model, session, input_ids, max_new_tokens=100))
print(session.providers[0], "was last fed with:")
for name in list(last_feeds)[:4]:
    print(f"  {name}: {string_type(last_feeds[name], with_shape=True)}")

# %%
# A faster graph
# ==============
#
# ONNX Runtime also has larger operators than those that the export recorded. One of them does all of a layer's
# attention, and writes new keys and values into the cache in place instead of copying all of it. With
# ``exporter="fused"`` the graph is made of these. On a GPU its steps are recorded once, as a :term:`CUDA graph`, which
# a single call then replays; on a CPU it gains less.

path = Path(folder.name) / "fused.onnx"
fused = decodeloop.export_onnx(model, path, exporter="fused")
assert torch.equal(decodeloop.onnx_generate(path, input_ids), outputs)
print(f"{sum(report.operators.values())} operators in the graph above,", end=" ")
print(f"{sum(fused.operators.values())} in the fused one")

# %%
# How long does each take?
# ========================
#
# We measure a larger model: on a GPU the shape of phi-1_5, on a CPU that of the largest `llama2.c
# <https://github.com/karpathy/llama2.c>`_. Its weights are random. What such a model writes means nothing, but a step
# does the same work as with trained weights. Both of its graphs must agree with it before anything is timed.

large, decoders = decodeloop.load(shape, random_weights=True), {}
for kind in ("dynamo", "fused"):
    path = Path(folder.name) / f"large-{kind}.onnx"
    decodeloop.export_onnx(large.model, path, exporter=kind)
    decoders[kind] = decodeloop.OnnxDecoder(path)
    assert decodeloop.verify(large.model, decoders[kind], input_ids).agrees

# %%
# Each loop runs once to warm up. Then they take turns, five times, so that a busy moment of the machine does not hit
# one of them alone. The :term:`limit` holds for every loop: a step cannot take less time than this machine needs to
# read the weights and the cache (:func:`decodeloop.roofline`).


def loop_of(write):  # never stops early, so that all write as many tokens
    return lambda k: write(input_ids, max_new_tokens=k, eos_token_id=None)


loops = {
    "generate": loop_of(large.model.generate),
    "own loop": loop_of(partial(simple_generate_with_cache, large.model)),
    "ONNX": loop_of(decoders["dynamo"].generate),
    "ONNX, fused graph": loop_of(decoders["fused"].generate),
}
timings = decodeloop.prefill_and_decode_all(loops, count)
limit = decodeloop.roofline(large.model, length=input_ids.shape[1] + count // 2)
print(f"limit: {limit}")
df = timings.table(limit)
df.round(3)

# %%
# The *first token* takes the time of the prefill, and each *next token* that of a decode step. The *spread* says how
# far the runs lie apart: (slowest - fastest) / median. What a step takes beyond its limit may go to arithmetic, to
# copying the cache, or to starting operators one by one, for which Python's time varies from run to run.
# :ref:`l-plot-onnx-speed` looks for it, and :ref:`l-plot-limit` brings PyTorch nearer to it.

timings.plot(limit, title=f"Tokens per second, random weights\n{shape}")

# %%
# Which should I use?
# ===================
#
# To get an answer, ``generate``, which can do everything, :term:`beam search` included. To learn how decoding works, or
# to change it, a loop of your own. To run a finished model inside a program, a graph: it writes the same tokens without
# Python between the operators. :ref:`l-plot-engines` compares more ways. Here they reached (*x generate* varies):

speed = df["tokens/s"]
for loop in speed.sort_values(ascending=False).index:
    faster = speed[loop] / speed["generate"]
    print(f"{loop}: {speed[loop]:.0f} tokens/s, {faster:.1f} x generate")

# %%
# Measured on
# ===========

figures = speed.add_suffix(" (tokens/s)")
figures["limit (tokens/s)"] = limit.tokens_per_second
decodeloop.provenance(model=[loaded, large], provider=session, figures=figures)
