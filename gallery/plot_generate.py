"""
.. _l-plot-generate:

=================================
From a LLM to processing a prompt
=================================

A large language model does one thing: given a text, it says how likely each token is to come next. Everything else is
a loop around it. This page follows one prompt through three such loops: the one in ``transformers``, one of our own
in eight lines, and the same loop around an ONNX model. All three write the same tokens; at the end we see how long
each takes.

Load a model and its tokenizer
==============================

The model is a small one of the architecture of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_, trained to
write short Python functions. It comes with the package, so nothing is downloaded. Give :func:`decodeloop.load`
another name, such as ``"microsoft/phi-1_5"``, and the rest of this page runs on that model.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch

import decodeloop
from decodeloop import max_diff, string_type

FAST = decodeloop.unit_test_going()  # fewer repeats, the same code

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
# ``generate`` is the loop that everybody uses. Without sampling it is *greedy*: it always takes the most likely
# token.

outputs = model.generate(input_ids, max_new_tokens=100, do_sample=False)
print(string_type(outputs, with_shape=True, with_min_max=True))
print(tokenizer.decode(outputs[0]))

# %%
# What ended the answer?
# ======================
#
# We allowed 100 new tokens. The answer ended earlier if its last token is the *end-of-sequence* token, which a model
# is trained to write when it is done. A loop that does not look for it goes on until the limit.

eos_token_id = tokenizer.eos_token_id
new_tokens = outputs.shape[1] - input_ids.shape[1]
print(f"{eos_token_id = }, {tokenizer.decode(eos_token_id)!r}")
print(f"{new_tokens} new tokens, the last one is {int(outputs[0, -1])}")

# %%
# Our own loop
# ============
#
# To predict the next token, the model compares the last token with all those before it. For that it needs two vectors
# of each earlier token in each layer, its *key* and its *value*. They never change once computed, so the model hands
# them back as ``past_key_values``, the *KV cache*, and takes them at the next call. That gives the loop two phases.
# The first call, the *prefill*, reads the whole prompt. Each later call, a *decode* step, reads just the one new
# token.


def most_likely(logits):
    return torch.argmax(logits, dim=-1, keepdim=True)


@torch.no_grad()
def simple_generate_with_cache(
    model, input_ids, eos_token_id, max_new_tokens=100, choose=most_likely
):
    unread, cache = input_ids, None  # not seen yet; kept of what was seen
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        unread = choose(outputs.logits[:, -1, :])
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
# position's say what comes next. A layer's keys are batch x heads x tokens so far x size of a head, and so are its
# values.
#
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
sampled = simple_generate_with_cache(model, input_ids, eos_token_id, choose=draw)
print(tokenizer.decode(sampled[0]))

# %%
# The model as an ONNX graph
# ==========================
#
# `ONNX <https://onnx.ai>`_ describes a model as a graph of operators, which `ONNX Runtime <https://onnxruntime.ai>`_
# executes without Python. The export runs the model once on example inputs and records the operators. It must know
# which dimensions vary, or it takes those of the example for constants. No size in the example is 0 or 1, which
# exporters treat as special.

example, dynamic_shapes = decodeloop.export_inputs(model)
for name, value in example.items():
    print(f"{name}: {string_type(value, with_shape=True)}")

# %%
# One graph serves both phases. ``input_ids`` is what the model has not read yet, the prompt or one token. The cache
# comes in as ``past_key_values`` and leaves as ``present``, longer by what was read. ``attention_mask`` covers past
# and new tokens: 0 hides the padding of a shorter row. ``position_ids`` says where each new token stands in its text.
# As a script, this page takes another exporter: ``python plot_generate.py --exporter onnx-gqa``.

parser = argparse.ArgumentParser()
parser.add_argument("--exporter", default="onnx-dynamo")
exporter = parser.parse_known_args()[0].exporter.removeprefix("onnx-")

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
report = decodeloop.export_onnx(model, path, exporter=exporter)
print(f"{report.bytes / 2**20:.1f} MiB, opset {report.opset}")
print(f"{sum(report.operators.values())} operators in {report.seconds:.0f} s")

shapes = report.inputs | report.outputs
table = pandas.DataFrame(index=shapes)
table["is an"] = ["input" if n in report.inputs else "output" for n in shapes]
table["shape"] = [" x ".join(map(str, shape)) for shape in shapes.values()]
table.filter(regex=r"ids|mask|logits|\.0\.", axis=0)

# %%
# The table shows the first layer's cache; the others look alike. A name in a shape stands for a dimension that
# varies.
#
# How far are the graph's outputs from PyTorch's? We run both on the first row of the example, a batch of a size that
# the export did not see, and compare everything that comes out: logits, keys and values.

session = decodeloop.OnnxDecoder(path)
*others, cache = example.values()
row = [t[:1] for t in (*others, *decodeloop.cache_to_tensors(cache))]
feeds = {n: t.cpu().numpy() for n, t in zip(report.inputs, row, strict=True)}
got = session.session.run(None, feeds)

past = decodeloop.tensors_to_cache(row[len(others) :])
one_row = {name: t[:1] for name, t in zip(example, others, strict=False)}
with torch.no_grad():
    expected = model(**one_row, past_key_values=past)
present = decodeloop.cache_to_tensors(expected.past_key_values)
difference = max_diff([expected.logits, *present], got)["abs"]
print(f"largest absolute difference: {difference:.2g}")
print(f"largest logit: {expected.logits.abs().max():.0f}")
assert difference < (1e-3 if model.dtype == torch.float32 else 0.5)

# %%
# The same loop around the graph
# ==============================
#
# :func:`decodeloop.onnx_generate` is the loop from above with the graph in the model's place. It opens a *session*,
# which optimises the graph for this machine; that takes longer than writing a few tokens. So we first ask for two
# tokens and keep the session.

short, session, last_feeds = decodeloop.onnx_generate(
    path, input_ids, max_new_tokens=2, return_session=True
)
print(session.providers[0], "was last fed with:")
for name in list(last_feeds)[:4]:
    print(f"  {name}: {string_type(last_feeds[name], with_shape=True)}")

# %%
# With that session we get the whole answer. The graph's metadata tell which token ends it.

onnx_outputs = decodeloop.onnx_generate(session, input_ids, max_new_tokens=100)
assert torch.equal(onnx_outputs, outputs)
print(string_type(onnx_outputs, with_shape=True, with_min_max=True))

# %%
# How long does each take?
# ========================
#
# All three write the same tokens, in the same precision. Each loop is warmed up, then they take turns, so that a busy
# moment of the machine does not hit one of them alone. A run of one token gives the time of the prefill.


def compare(model, session, input_ids, new_tokens):
    eos = model.generation_config.eos_token_id
    loops = {
        "generate": lambda k: model.generate(
            input_ids, max_new_tokens=k, do_sample=False
        ),
        "custom": lambda k: simple_generate_with_cache(model, input_ids, eos, k),
        "onnx": lambda k: session.generate(input_ids, max_new_tokens=k),
    }
    timings = decodeloop.prefill_and_decode_all(
        loops, new_tokens, repeats=5 if FAST else 15
    )
    df = pandas.DataFrame(index=loops)
    df["seconds"] = [t.whole.median for t in timings.values()]
    df["fastest"] = [t.whole.min for t in timings.values()]
    df["slowest"] = [t.whole.max for t in timings.values()]
    df["first token (ms)"] = [1000 * t.prefill.median for t in timings.values()]
    df["next token (ms)"] = [1000 * t.decode.median for t in timings.values()]
    df["tokens/s"] = new_tokens / df["seconds"]
    df["speed-up"] = df["seconds"]["generate"] / df["seconds"]
    return df


def plot(df, subtitle):
    _, ax = plt.subplots()
    low, high = df["seconds"] - df["fastest"], df["slowest"] - df["seconds"]
    bars = ax.bar(df.index, df["seconds"], yerr=[low, high], ecolor="gray")
    ax.bar_label(bars, [f"{v:.0f} tokens/s" for v in df["tokens/s"]], padding=4)
    ax.set_title(f"Time (s) comparison to generate a prompt\n{subtitle}")
    ax.set_ylabel("seconds")
    ax.margins(y=0.15)


df = compare(model, session, input_ids, new_tokens)
df.round(3)

# %%
# The bars are medians; the whiskers go from the fastest run to the slowest.

plot(df, f"{loaded.name} model, {new_tokens} tokens, {model.device.type}")

# %%
# At the scale of phi-1_5
# =======================
#
# With a model this small, most of the time is overhead: Python, and the start of one small operator after the other.
# A model of phi-1_5's size, 1.4 billion weights, has more to compute. That asks for a GPU, so this part runs where
# there is one. If the weights cannot be had, random ones of the same shape take the same time, and write nonsense.

if torch.cuda.is_available():
    name = "arnir0/Tiny-LLM" if FAST else "microsoft/phi-1_5"
    try:
        large = decodeloop.load(name, dtype=model.dtype)
    except OSError as error:
        print(error)
        large = decodeloop.load(name, dtype=model.dtype, random_weights=True)
    ids = large.tokenizer(prompt, return_tensors="pt").input_ids
    ids = ids.to(large.model.device)
    path = Path(folder.name) / "large.onnx"
    decodeloop.export_onnx(large.model, path, exporter=exporter)
    large_session = decodeloop.OnnxDecoder(path)
    found = decodeloop.verify(large.model, large_session, ids)
    assert found.same_tokens or found.divergence.near_tie
    print(f"{name}, {large.weights} weights, {large.model.dtype}: {found}")
    large_df = compare(large.model, large_session, ids, 100)
    print(large_df.round(3).to_string())
    plot(large_df, f"{name}, {large.weights} weights, 100 tokens, cuda")
else:
    print("No GPU here: this part was skipped.")

# %%
# Which should I use?
# ===================
#
# To get an answer, ``generate``: it does everything, beams and stop strings included. To learn or to change how
# decoding works, a loop of your own: eight lines, at about the speed of ``generate``. To serve a model, the graph: the
# same tokens without Python around each operator, and these lines say what that saves here.

for name, row in df.sort_values("seconds").iterrows():
    print(
        f"{name}: {row['seconds']:.3f} s, {row['tokens/s']:.0f} tokens/s, "
        f"{row['speed-up']:.1f} x the speed of generate"
    )

# %%
# Measured on
# ===========

decodeloop.provenance(model=loaded.name, provider=session.providers[0])
