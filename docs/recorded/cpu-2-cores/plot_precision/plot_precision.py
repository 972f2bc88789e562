"""
.. _l-plot-precision:

===============================
How few bits does a model need?
===============================

To write one token, a model reads nearly all its weights once. Weights in half the bits are half the bytes to read, so
the :term:`limit` on its speed nearly doubles. This page stores a model in 8 and in 4 bits per weight, beside the 16
that it has on a GPU or the 32 on a CPU, and rounds it to 2 by hand. It measures what that costs, on trained weights,
and what it saves, on a model large enough for it to matter.

.. image:: /drawings/blocks.svg
   :alt: A block of 32 weights, three times. In float16 it takes 64 bytes, two for each weight. In int8 it takes 34, one
      for each weight and two for the scale. In int4 it takes 18: two weights in a byte, and the scale. The weight 0.073
      becomes 0.0725 in int8 and 0.08 in int4.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. What bits cost is measured on the bundled
model, which is trained; what they save, on a *large* one with random weights: the shape of phi-1_5 (1.4 billion
weights) on a GPU, that of the largest llama2.c (0.1 billion) on a CPU.
"""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pandas
import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer sizes, no large model
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
on_gpu = model.device.type == "cuda"
whole = "float16" if on_gpu else "float32"  # the type of graphs that are rounded
source = "microsoft/phi-1_5" if on_gpu else "Xenova/llama2.c-stories110M"
if FAST:
    source = "bundled"
untrained = decodeloop.load(source, random_weights=True, dtype=whole)
large = untrained.model
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
print(f"trained: bundled, large: {source}, on {model.device}")

# %%
# A block and a scale
# ===================
#
# 4 bits can tell 16 numbers apart, here -8 to 7. A matrix is cut into *blocks* of, say, 32 weights. Each block has a
# *scale*, and a weight is stored as the nearest whole multiple of it, so it moves by at most half a scale. The scale is
# such that the block's largest weight, positive or negative, becomes exactly -8. (A weight that would be 8 is cut to 7,
# and moves by up to a whole scale.) This is all that :term:`quantization` is:


def round_to_blocks(matrix, bits, block):
    """Whole numbers [outputs, blocks, block], and the scale of each block."""
    half = 2 ** (bits - 1)
    blocks = matrix.reshape(len(matrix), -1, block)
    high, low = blocks.amax(-1, keepdim=True), blocks.amin(-1, keepdim=True)
    scales = torch.where(high > -low, high, low) / -half
    numbers = (blocks / torch.where(scales == 0, 1, scales)).round()
    return numbers.clamp(-half, half - 1), scales


matrix = model.model.layers[0].mlp.fc1.weight.detach()
numbers, scales = round_to_blocks(matrix, bits=4, block=32)
errors = (numbers * scales - matrix.reshape(numbers.shape)).abs() / scales.abs()
assert errors[numbers < 7].max() < 0.501
assert errors.max() < 1.001
print("weights:", matrix[0, :5].numpy(force=True).round(3))
print("numbers:", numbers[0, 0, :5].numpy(force=True))
stored = numbers.numel() // 2 + scales.nbytes  # two numbers fit into a byte
print(f"{matrix.nbytes:,} bytes of float32 have become {stored:,}")

# %%
# What a model loses by it
# ========================
#
# The model answers six prompts, of which half are of a kind that it was trained on. A quantized model reads these
# answers, and we compare what the two expect at each token. :term:`Perplexity <perplexity>` says among how many equally
# likely tokens a model would have to guess, on average: how good it is at a text. (At a short text, a rounded model may
# be better by chance.) *KL*, the :term:`Kullback-Leibler divergence`, says how far two distributions of the next token
# are apart: the worst of the six texts at each step, and the mean over steps. *Changed* counts the tokens that the
# quantized model would have written differently, and *largest change* is the furthest that a logit moved.

tasks = {
    "print_prime(n)": "Print all primes between 1 and n",
    "fibonacci(n)": "Return the first n Fibonacci numbers",
    "reverse_words(sentence)": "Reverse the order of the words",
    "zip_with_gap(rows, fill)": "Rotate a matrix and mark every hole in it",
    "money(amount)": "Format an amount in the smallest unit of a currency",
    "schedule(jobs, day)": "Plan the jobs of a day so that none overlap",
}
prompts = [f'def {f}:\n    """\n    {text}\n    """' for f, text in tasks.items()]


def batch(texts):
    padded = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    return tokenizer(texts, **padded).to(model.device)


rows = batch(prompts)
options = {"attention_mask": rows.attention_mask, "max_new_tokens": 40}
answers = decodeloop.generate(model, rows.input_ids, **options)
texts = batch(tokenizer.batch_decode(answers, skip_special_tokens=True))


def losses(decoder):
    """What a decoder makes of the answers, and what it would have changed."""
    report = decodeloop.verify(model, decoder, rows.input_ids, **options)
    assert all(d.margin <= 2 * report.max_logit_diff for d in report.divergences)
    return {
        "perplexity": decodeloop.perplexity(decoder, **texts),
        "KL": np.mean(report.kls),
        "largest change": report.max_logit_diff,
        "changed": report.tokens - report.agreed,
    }


# %%
# The assertion in ``losses`` is arithmetic. The model takes the token with the largest :term:`logit <logits>`. If
# rounding moves none by more than ``d``, a token can only change where the best one leads by ``2 d`` or less: where the
# model was in doubt.
#
# :func:`decodeloop.quantize_onnx` rounds an ONNX graph. ONNX Runtime's fast product on a CPU also rounds the
# :term:`activations`, the numbers that are multiplied by the weights, to 8 bits, so as to compute in whole numbers.
# ``accuracy_level=0`` leaves them as they are, which a GPU always does. That makes a CPU slower, so keep the default
# there; the reference of the function says by how much.

kinds = {
    "int8, block 32": {"bits": 8},
    "int4, block 32": {"bits": 4},
    "int4, block 128": {"bits": 4, "block_size": 128},
}


def graphs_of(model, name, kinds, logits):
    paths = {whole: folder / f"{name}.onnx"}
    decodeloop.export_onnx(model, paths[whole], exporter="fused", logits=logits)
    for kind, settings in kinds.items():
        paths[kind] = folder / f"{name}, {kind}.onnx"
        decodeloop.quantize_onnx(paths[whole], paths[kind], **settings)
    return paths


exact = {"int8, exact activations": {"bits": 8, "accuracy_level": 0}}
small = decodeloop.load(dtype=whole).model
graphs = graphs_of(small, "small", kinds | exact, logits="all")
cost = pandas.DataFrame({kind: losses(path) for kind, path in graphs.items()}).T
kl, perplexity = cost["KL"], cost["perplexity"]
assert 5 * kl["int8, block 32"] < kl["int4, block 32"] < kl["int4, block 128"]
assert on_gpu or kl["int8, exact activations"] < kl["int8, block 32"]
assert (perplexity / perplexity[whole] - 1).abs().max() < 0.05
cost.round(4)

# %%
# 8 bits are far nearer to the model than 4, small blocks nearer than large ones, and on a CPU rounded activations cost
# something by themselves: all of this was asserted, the last of it where a CPU runs the page.
#
# Where is the cliff?
# ===================
#
# The files end at 4 bits. Our own lines do not. We round all matrices of the PyTorch model, and read the answers again.


@torch.no_grad()
def rounded_model(bits, block):
    copied = copy.deepcopy(model)
    copied.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    for layer in copied.modules():
        if isinstance(layer, torch.nn.Linear):
            numbers, scales = round_to_blocks(layer.weight, bits, block)
            layer.weight.copy_((numbers * scales).reshape(layer.weight.shape))
    return copied


own = decodeloop.perplexity(model, **texts)
curves = pandas.DataFrame(dtype=float)
for bits in (4, 2) if FAST else (8, 6, 5, 4, 3, 2):
    for block in (32, 128):
        rounded = decodeloop.perplexity(rounded_model(bits, block), **texts)
        curves.loc[bits, f"blocks of {block}"] = rounded / own
small_blocks, large_blocks = curves["blocks of 32"], curves["blocks of 128"]
in_file = perplexity["int4, block 32"] / own
assert abs(in_file / small_blocks[4] - 1) < 0.03  # our lines and the file agree
assert large_blocks.drop(2).max() < 1.1 < small_blocks[2] < large_blocks[2]

title, ylabel = "Perplexity against bits", "perplexity / the model's"
ax = curves.plot(style="o-", title=title, xlabel="bits", ylabel=ylabel)
ax.set_xticks(curves.index)
ax.invert_xaxis()

# %%
# Down to 3 bits the perplexity stays below 1.1 times the model's, and at 2 bits it has left that, further with large
# blocks. Another model has its cliff elsewhere, and you find it in the same way.
#
# What it saves
# =============
#
# Now the large model. Before the clock starts, its graph must choose the model's tokens. The limit is the time to read
# what a step must read, as it is stored in each graph, scales included.

large_graphs = graphs_of(large, "large", kinds, logits="last")
ids = torch.arange(3, 27, device=large.device)[None]
assert decodeloop.verify(large, large_graphs[whole], ids).agrees


def loop(path):
    decoder = decodeloop.OnnxDecoder(path)
    return lambda k: decoder.generate(ids, max_new_tokens=k, eos_token_id=None)


runs = {kind: loop(path) for kind, path in large_graphs.items()}
timings = decodeloop.prefill_and_decode_all(runs, 8 if FAST else 32)
limits = {k: decodeloop.roofline(p, length=40) for k, p in large_graphs.items()}
timings.plot(limit=limits, title=f"Tokens per second\n{source}")
saved = timings.table(limit=limits)
saved["MB read"] = [limit.bytes / 1e6 for limit in limits.values()]
speeds = saved["tokens/s"]
assert FAST or speeds["int4, block 32"] > speeds[whole]
saved.round(2)

# %%
# A higher limit is not yet speed. Where the share of the limit falls, a step spends its time on other things than
# reading: on starting operators, or on a product that is not made for so few bits.
#
# Which should I use?
# ===================
#
# On a GPU begin with 16 bits, which it multiplies as they are. Most CPUs have to widen them to 32 first: begin with 8
# bits there. Take 4 bits where speed or memory matter more than the tokens that change, and read answers of your own
# model first. Blocks of 32, the default, lose less than larger ones, which are worth a trial where they are faster.
# :doc:`/which` compares these and other ways. In this run:

for kind, speed in speeds.items():
    print(f"{kind}: {speed / speeds[whole]:.2f} x the speed of {whole};", end=" ")
    print(f"KL {kl[kind]:.4f}, {cost['changed'][kind]:.0f} tokens changed")

# %%
# Measured on
# ===========

figures = saved["next token (ms)"].add_suffix(" (ms/token)").to_dict()
figures |= cost["largest change"].add_suffix(": largest change (logits)")
figures |= cost["changed"].add_suffix(": changed (tokens)")
provider, models = decodeloop.OnnxDecoder(graphs[whole]), [loaded, untrained]
decodeloop.provenance(model=models, provider=provider, figures=figures)
