"""
.. _l-plot-generate:

=================================
From a LLM to processing a prompt
=================================

A large language model does one thing: given a text, it says how likely each token is to come next. Everything else is
a loop around it. This page follows one prompt through three such loops: the one in ``transformers``, one of our own in
eight lines, and the same loop around an ONNX model. All three write the same tokens; at the end we see how long each
takes.

Load a model and its tokenizer
==============================

The model is a small one of the architecture of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_, trained to write
short Python functions. It comes with the package, so nothing is downloaded. Give :func:`decodeloop.load` another name,
such as ``"microsoft/phi-1_5"``, and the rest of this page runs on that model.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch

import decodeloop
from decodeloop import max_diff, string_type

FAST = decodeloop.unit_test_going()  # the fast path: fewer repeats, the same code

parser = argparse.ArgumentParser()
parser.add_argument("--exporter", default="onnx-dynamo", help="onnx- and an exporter's name, as export_onnx takes it")
exporter = parser.parse_known_args()[0].exporter

loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
parameters = sum(p.numel() for p in model.parameters())
print(f"{type(model).__name__}, {parameters / 1e6:.1f} million {loaded.weights} weights, on {model.device}")

# %%
# Tokenize the prompt
# ===================
#
# A model reads numbers. The tokenizer cuts the text into pieces it knows, its *tokens*, and gives the number of each.

prompt = '''def print_prime(n):
   """
   Print all primes between 1 and n
   """'''
inputs = tokenizer(prompt, return_tensors="pt", return_attention_mask=False).to(model.device)
print([tokenizer.decode(token) for token in inputs.input_ids[0]])
print("input_ids:", string_type(inputs.input_ids, with_shape=True, with_min_max=True))

# %%
# The last line is a summary that we will use throughout: ``T7`` is a torch tensor of 64-bit integers (type number 7 in
# ONNX), ``s`` its shape, one row with one number per token, in brackets its smallest and largest value and its mean.
#
# The answer of ``generate``
# ==========================
#
# ``generate`` is the loop that everybody uses. Without sampling it is *greedy*: it always takes the most likely token.

outputs = model.generate(**inputs, max_new_tokens=100, do_sample=False)
print("outputs:", string_type(outputs, with_shape=True, with_min_max=True))
print(tokenizer.decode(outputs[0]))

# %%
# What ended the answer?
# ======================
#
# We allowed 100 new tokens and got fewer. The last one is special: the *end-of-sequence* token, which the model was
# trained to write when it is done. A loop that does not look for it goes on until the limit.

eos_token_id = tokenizer.eos_token_id
new_tokens = outputs.shape[1] - inputs.input_ids.shape[1]
print(f"{eos_token_id = }, {tokenizer.decode(eos_token_id)!r}")
print(f"{new_tokens} new tokens, the last one is {int(outputs[0, -1])}")

# %%
# Our own loop
# ============
#
# To predict the next token, the model compares the last token with all those before it. For that it needs two vectors
# of each earlier token in each layer, its *key* and its *value*. They never change once computed, so the model hands
# them back as ``past_key_values``, the *KV cache*, and takes them at the next call. That gives the loop two phases. The
# first call, the *prefill*, reads the whole prompt. Each later call, a *decode* step, reads just the one new token.


def most_likely(logits):
    return torch.argmax(logits, dim=-1, keepdim=True)


def simple_generate_with_cache(model, input_ids, eos_token_id, max_new_tokens=100, choose=most_likely):
    unread, cache = input_ids, None  # what the model has not seen yet, and what it keeps of the rest
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        unread, cache = choose(outputs.logits[:, -1, :]), outputs.past_key_values
        input_ids = torch.cat([input_ids, unread], dim=-1)
        if unread.item() == eos_token_id:
            break
    return input_ids


with torch.no_grad():
    custom = simple_generate_with_cache(model, inputs.input_ids, eos_token_id)
    first = model(inputs.input_ids, use_cache=True)
assert torch.equal(custom, outputs)
print("logits:", string_type(first.logits, with_shape=True))
print("cache of the first layer:", string_type(first.past_key_values.layers[0].keys, with_shape=True))

# %%
# The tokens are the same. The *logits* are one number per position and token of the vocabulary, the higher the
# likelier; only the last position's say what comes next. The cache holds keys and values for each layer: batch x heads
# x tokens so far x size of a head. :func:`decodeloop.generate` is this loop with batches, padding, several end tokens.

assert torch.equal(decodeloop.generate(model, inputs.input_ids), outputs)

# %%
# Or choose at random
# ===================
#
# The most likely token is one choice. Another is to draw from the likeliest ten with the probabilities that the model
# gives them. A *temperature* below 1 sharpens these, above 1 flattens them. This model is sure of itself: it takes a
# high temperature to make it write anything else, and what it then writes is not always right.


def draw(logits, temperature=2.0, top_k=10):
    top, tokens = torch.topk(logits / temperature, top_k)
    return tokens.gather(-1, torch.multinomial(torch.softmax(top, dim=-1), 1))


torch.manual_seed(0)
with torch.no_grad():
    sampled = simple_generate_with_cache(model, inputs.input_ids, eos_token_id, choose=draw)
print(tokenizer.decode(sampled[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))

# %%
# The model as an ONNX graph
# ==========================
#
# `ONNX <https://onnx.ai>`_ describes a model as a graph of operators, which `ONNX Runtime
# <https://onnxruntime.ai>`_ executes without Python. The export runs the model once on example inputs and records the
# operators. It must know which dimensions vary, or it takes those of the example for constants; that is why no size
# below is 0 or 1, sizes which exporters treat as special.

export_inputs, dynamic_shapes = decodeloop.export_inputs(model)
for name, value in export_inputs.items():
    print(f"{name}: {string_type(value, with_shape=True)}")

# %%
# One graph serves both phases. ``input_ids`` is what the model has not read yet, the prompt or one token. The cache
# comes in as ``past_key_values`` and leaves as ``present``, one token longer. ``attention_mask`` covers past and new
# tokens: 0 hides the padding of a shorter row. ``position_ids`` says where each new token stands in its text.

folder = tempfile.TemporaryDirectory()
report = decodeloop.export_onnx(model, Path(folder.name) / "model.onnx", exporter=exporter.removeprefix("onnx-"))
print(f"{report.bytes / 2**20:.1f} MiB, {sum(report.operators.values())} operators, opset {report.opset}")
shapes = report.inputs | report.outputs
pandas.DataFrame(
    {"role": ["input" if name in report.inputs else "output" for name in shapes], "shape": map(str, shapes.values())},
    index=shapes,
).filter(regex="ids|mask|logits|\\.0\\.", axis=0)

# %%
# The table shows the first layer's cache; the others look alike. A name in a shape stands for a dimension that varies.
#
# How far are the graph's outputs from PyTorch's? We continue three texts of seven tokens by two, sizes that the export
# never saw, and compare everything that comes out: logits, keys and values.

decoder = decodeloop.OnnxDecoder(report.path)
batch = inputs.input_ids[:, :9].repeat(3, 1)
with torch.no_grad():
    past = decodeloop.cache_to_tensors(model(batch[:, :7], use_cache=True).past_key_values)
    cache = decodeloop.tensors_to_cache(past, model.config)
    expected = model(batch[:, 7:], past_key_values=cache, use_cache=True)
feeds = {
    "input_ids": batch[:, 7:],
    "attention_mask": torch.ones_like(batch),
    "position_ids": torch.arange(7, 9).expand(3, 2),
} | dict(zip([name for name in report.inputs if name.startswith("past")], past, strict=True))
got = decoder.session.run(None, {name: tensor.cpu().numpy() for name, tensor in feeds.items() if name in report.inputs})
difference = max_diff([expected.logits, *decodeloop.cache_to_tensors(expected.past_key_values)], got)
print(f"largest absolute difference: {difference['abs']:.2g}, logits up to {expected.logits.abs().max():.0f}")
assert difference["abs"] < (1e-3 if model.dtype == torch.float32 else 0.5)

# %%
# The same loop around the graph
# ==============================
#
# :func:`decodeloop.onnx_generate` is the loop of above with the graph in the model's place. Opening a *session*, which
# optimises the graph for this machine, takes longer than writing a few tokens. So we ask for two tokens and keep the
# session.

short, session, last_feeds = decodeloop.onnx_generate(
    report.path, inputs.input_ids, max_new_tokens=2, return_session=True
)
print(f"{session.providers[0]}; the last step was fed input_ids of shape {tuple(last_feeds['input_ids'].shape)}")

# %%
# With that session we get the whole answer. The model's own end token is in the graph's metadata.

onnx_outputs = decodeloop.onnx_generate(session, inputs.input_ids, max_new_tokens=100)
assert torch.equal(onnx_outputs, outputs)
print("The three loops wrote the same tokens:", string_type(onnx_outputs, with_shape=True, with_min_max=True))

# %%
# How long does each take?
# ========================
#
# Each loop is warmed up, then all take turns, so that a busy moment of the machine does not hit one of them alone. They
# write the same tokens, in the same precision.


def compare(model, session, input_ids, new_tokens):
    loops = {
        "generate": lambda k: model.generate(input_ids, max_new_tokens=k, do_sample=False),
        "custom": lambda k: simple_generate_with_cache(model, input_ids, eos_token_id, max_new_tokens=k),
        "onnx": lambda k: decodeloop.onnx_generate(session, input_ids, max_new_tokens=k),
    }
    runs = {(name, k): partial(loop, k) for name, loop in loops.items() for k in (1, new_tokens)}
    with torch.no_grad():
        timings = decodeloop.measure_all(runs, repeats=5 if FAST else 15)
    whole = {name: timings[name, new_tokens] for name in loops}
    df = pandas.DataFrame({name: {"seconds": t.median, "min": t.min, "max": t.max} for name, t in whole.items()}).T
    df["first token (s)"] = [timings[name, 1].median for name in loops]
    df["ms per further token"] = (df["seconds"] - df["first token (s)"]) / (new_tokens - 1) * 1000
    df["tokens/s"] = new_tokens / df["seconds"]
    df["speed-up"] = df.loc["generate", "seconds"] / df["seconds"]
    return df


def plot(df, subtitle):
    fig, ax = plt.subplots()
    whiskers = [df["seconds"] - df["min"], df["max"] - df["seconds"]]
    bars = ax.bar(df.index, df["seconds"], yerr=whiskers, capsize=4)
    ax.bar_label(bars, labels=[f"{speed:.0f} tokens/s" for speed in df["tokens/s"]], padding=4)
    ax.set(title=f"Time (s) comparison to generate a prompt\n{subtitle}", ylabel="seconds")
    ax.margins(y=0.15)


df = compare(model, session, inputs.input_ids, new_tokens)
df.round(3)

# %%
# The bars are medians; the whiskers go from the fastest run to the slowest.

plot(df, f"{loaded.name} model, {new_tokens} tokens, {model.device.type}")

# %%
# At the scale of phi-1_5
# =======================
#
# With a model this small, most of the time is overhead: Python, and the launch of one small operator after the other. A
# model of phi-1_5's size, 1.4 billion weights, has more to compute. It asks for a GPU, so this part runs where there is
# one. If the weights cannot be had, random ones of the same shape take the same time, and write nonsense.

if torch.cuda.is_available():
    name = "arnir0/Tiny-LLM" if FAST else "microsoft/phi-1_5"
    try:
        large = decodeloop.load(name)
    except OSError as error:
        print(error)
        large = decodeloop.load(name, random_weights=True)
    input_ids = large.tokenizer(prompt, return_tensors="pt").input_ids.to(large.model.device)
    large_report = decodeloop.export_onnx(large.model, Path(folder.name) / "large.onnx")
    large_session = decodeloop.OnnxDecoder(large_report.path)
    agreement = decodeloop.verify(large.model, large_session, input_ids, max_new_tokens=100)
    assert agreement.same_tokens or agreement.divergence.near_tie
    print(f"{name}, {large.weights} weights, {decodeloop.get_weight_type(large.model)}: {agreement}")
    large_df = compare(large.model, large_session, input_ids, new_tokens=100)
    print(large_df.round(3).to_string())
    plot(large_df, f"{name}, {large.weights} weights, 100 tokens, cuda")
else:
    print("No GPU here: this part was skipped.")

# %%
# Which should I use?
# ===================
#
# To get an answer, ``generate``: it does everything, beams and stop strings included. To learn or to change how
# decoding works, a loop of your own: it needs eight lines and costs nothing, as the table says. To serve a model, the
# graph: it runs without Python around every operator, and the smaller the model, the more that saves.

for name, row in df.sort_values("seconds").iterrows():
    print(f"{name}: {row['seconds']:.3f} s, {row['tokens/s']:.0f} tokens/s, {row['speed-up']:.1f} x generate's speed")

# %%
# Measured on
# ===========

decodeloop.provenance(model=loaded.name, weights=loaded.weights, provider=session.providers[0])
