"""
.. _l-plot-batch:

=======================
Several prompts at once
=======================

A decoder can answer several prompts in one go, as the rows of a *batch*. Prompts differ in length and answers end at
different steps, so shorter rows are filled up with *padding*, which must change nothing. This page builds such a batch,
proves that each row gets the answer that it gets alone, shows what breaks it, and measures what a batch gains.

.. image:: /drawings/left-padding.svg
   :alt: Three prompts of different lengths, one below the other. The shorter ones have padding on their left, so that
         all of them end in the same column, and the next one has a new token of each. Below each row stand its
         attention mask, 0 for padding and 1 for a token, and its position ids, which count from 0 at its first token.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. Tokens are compared on the small model
that comes with the package, in float32, so that rounding does not blur them. Times are measured on a larger one with
random weights (phi-1_5's shape on a GPU, that of the largest llama2.c on a CPU), and on its graph.
"""

import tempfile
from functools import partial
from pathlib import Path

import pandas
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import decodeloop

FAST = decodeloop.unit_test_going()  # a smaller model and fewer rows
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
shape, sizes, count = "Xenova/llama2.c-stories110M", [1, 4, 16], 12
if torch.cuda.is_available():
    shape, sizes = "microsoft/phi-1_5", [1, 4, 16, 64]
if FAST:
    shape, sizes, count = "bundled", [1, 4, 16], 6
large = decodeloop.load(shape, random_weights=True)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
decodeloop.export_onnx(large.model, path, exporter="fused")
decoder, endless = decodeloop.OnnxDecoder(path), {"eos_token_id": None}
prompts = [
    'def factorial(n):\n    """Return the factorial of n."""',
    'def print_prime(n):\n    """\n    Print all primes between 1 and n\n    """',
    'def is_even(n):\n    """Return True if n is even."""',
    'def count_vowels(text):\n    """Return the number of vowels in text.\n\n    Args:\n'
    '        text: A string.\n\n    Returns:\n        int: The number of vowels.\n    """',
    'def reverse(text):\n    """Return the text reversed."""',
    'def fibonacci(n):\n    """Yield the first n Fibonacci numbers."""',
    'class Stack:\n    """A stack: push, pop, peek and a length."""',
    'def gcd(a, b):\n    """Return the greatest common divisor of a and b."""',
]

# %%
# Padding goes on the left
# ========================
#
# A tensor has one width, and the next token is appended at its right end. So that is where every prompt must end, and
# the shorter ones get padding tokens in front: :term:`left padding`. The :term:`attention mask` says which tokens are
# real. The :term:`position ids` count them, so that a row's first real token is number 0 wherever it stands. Here are
# the last 24 columns of three of the rows, and the end of their text.

tokenizer.padding_side = "left"
batch = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
ids, mask = batch.input_ids, batch.attention_mask
positions = (mask.cumsum(-1) - 1).clamp(min=0)
for row in (0, 3, 4):
    print(repr(tokenizer.decode(ids[row, -15:])))
    print("  mask     ", *(f"{v:2}" for v in mask[row, -24:].tolist()))
    print("  positions", *(f"{v:2}" for v in positions[row, -24:].tolist()))

# %%
# The loop
# ========
#
# It is the loop of :ref:`l-plot-generate` with three additions. The mask grows by a 1 with every token, the new
# positions are counted from it, and a row that has written its end-of-sequence token writes padding until the last row
# has ended. Two switches let us break the loop later.

pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id


@torch.no_grad()
def batch_loop(model, ids, mask, new_tokens, use_mask=True, positions="always"):
    unread, cache = ids, None
    ended = torch.zeros_like(ids[:, :1], dtype=torch.bool)
    for step in range(new_tokens):
        given = {"attention_mask": mask} if use_mask else {}
        if positions == "always" or (positions == "prompt only" and step == 0):
            count = (mask.cumsum(-1) - 1).clamp(min=0)
            given["position_ids"] = count[:, -unread.shape[1] :]
        out = model(unread, past_key_values=cache, logits_to_keep=1, **given)
        cache, best = out.past_key_values, out.logits[:, -1].argmax(-1)
        unread = best[:, None].masked_fill(ended, pad)
        ended |= unread == eos
        ids = torch.cat([ids, unread], dim=-1)
        mask = torch.cat([mask, torch.ones_like(unread)], dim=-1)
        if ended.all():
            break
    return ids


answers = batch_loop(model, ids, mask, 100)
assert torch.equal(answers, decodeloop.generate(model, ids, attention_mask=mask))

# %%
# :func:`decodeloop.generate` gives the same tokens. Now every prompt alone, without padding and without a mask: each
# answer must be its row of the batch, token for token, with nothing but padding after it.

width, lengths = ids.shape[1], mask.sum(-1).tolist()
solos = [ids[[row], width - length :] for row, length in enumerate(lengths)]
new = []
for row, solo, length in zip(answers, solos, lengths, strict=True):
    text = decodeloop.generate(model, solo)[0]
    new.append(len(text) - length)
    assert torch.equal(text, row[width - length : width + new[-1]])
    assert (row[width + new[-1] :] == pad).all()
print(f"prompts of {lengths} tokens,\nanswers of {new}")
print(f"{(answers == pad).float().mean():.0%} of the batch is padding")

# %%
# What goes wrong
# ===============
#
# We leave something out, and mark with x the rows whose first 30 new tokens change. A model that is given no position
# ids counts by itself, padding included. What that does depends on the model. Ours encodes positions by rotation
# (:term:`RoPE`), so that only the *distance* between two tokens counts. GPT-2 *learns* a vector for each position. We
# take a tiny one with random weights.

torch.manual_seed(0)
tiny = GPT2Config(n_embd=64, n_layer=2, n_head=2, initializer_range=0.3)
gpt2 = GPT2LMHeadModel(tiny).eval().to(model.device)
breakages = {
    "rotary, no position ids at all": (model, {"positions": "never"}),
    "rotary, in the prompt only": (model, {"positions": "prompt only"}),
    "learned, no position ids at all": (gpt2, {"positions": "never"}),
    "learned, in the prompt only": (gpt2, {"positions": "prompt only"}),
    "rotary, no mask": (model, {"use_mask": False}),
}
changed, broken = {}, {}
for name, (m, options) in breakages.items():
    right = batch_loop(m, ids, mask, 30)
    broken[name] = batch_loop(m, ids, mask, 30, **options)
    changed[name] = (broken[name] != right).any(-1).tolist()
    assert not changed[name][lengths.index(width)]  # the row without padding
    assert any(changed[name]) == (name != "rotary, no position ids at all")
pandas.DataFrame(changed).rename_axis("row").T.replace({True: "x", False: "-"})

# %%
# So count the position ids from the mask in every step. A rotary model does not miss them where they are left out in
# every step: all positions of a row are then shifted by its padding, and the distances stay. A model with learned
# positions goes wrong. Given in some steps and left out in others, they break both, because the text jumps from one way
# of counting to the other.
#
# Without the mask a row attends to its padding, and whether that changes a token is chance. Row 3, the longest, has no
# padding and never changes, so a test with a single prompt passes. No error is raised either: only the answer shows it.
# Here is a row that changed, with the mask and without it:

row = changed["rotary, no mask"].index(True)
for tokens in (answers[row], broken["rotary, no mask"][row]):
    print(tokenizer.decode(tokens, skip_special_tokens=True))

# %%
# What a batch gains
# ==================
#
# All rows use the same weights, which a step reads once, however many rows there are. Each row adds its own cache to be
# read (:ref:`l-plot-cache-memory`), and its own arithmetic. So the :term:`limit`, the time to read both, hardly grows
# with the rows while the caches are small. A real step grows once what each row adds, its arithmetic, its attention and
# the choice of its token, shows beside reading and starting operators. Model and graph must agree on the batch above;
# rows without padding are timed. (On a GPU, the graph's steps are recorded.)

assert decodeloop.verify(large.model, decoder, ids, attention_mask=mask).agrees
text = solos[1].repeat(max(sizes), 1)
loops = {"generate": partial(decodeloop.generate, large.model)}
loops["ONNX"] = decoder.generate


def loop_of(write, rows):
    return lambda k: write(text[:rows], max_new_tokens=k, **endless)


runs, limit, half = {}, {}, text.shape[1] + count // 2
for rows in sizes:
    for name, write in loops.items():
        runs[name, rows] = loop_of(write, rows)
    limit[rows] = decodeloop.roofline(large.model, length=half, batch=rows)

timings = decodeloop.prefill_and_decode_all(runs, count)
ms = timings.table()["next token (ms)"].unstack(0).rename_axis("rows")
ms["limit"] = [1000 * limit[rows].seconds for rows in sizes]
speed = 1000 / ms.div(ms.index, axis=0)  # a token for each row
ax = speed.plot(style=["o-", "s-", ":"], loglog=True, title=f"All rows, {shape}")
ax.set(ylabel="tokens/s", xticks=sizes, xticklabels=sizes)
ax.minorticks_off()
pandas.concat({"ms per step": ms, "tokens/s": speed}, axis=1).round(1)

# %%
# Is a batch worth it when answers differ in length? All at once, there are as many steps as the longest has tokens.
# One by one, nothing is wasted, but a step reads the weights for one token. We time answers of the lengths above.


def one_by_one():
    for solo, tokens in zip(solos, new, strict=True):
        decoder.generate(solo, max_new_tokens=tokens, **endless)


def all_at_once():
    decoder.generate(ids, attention_mask=mask, max_new_tokens=max(new), **endless)


ways = {"one by one": one_by_one, "all at once": all_at_once}
took = decodeloop.measure_all(ways)
gain = took["one by one"].median / took["all at once"].median
print(f"{sum(new)} steps one by one, {max(new)} steps all at once:", end=" ")
print(f"{gain:.1f} x as fast")

# %%
# Prompts can be sorted by their length. Answers cannot, since nobody knows beforehand how long they will be. So servers
# let a row that has ended leave at once and give its place to the next prompt: :term:`continuous batching`.
#
# Which should I use?
# ===================
#
# For each answer as fast as possible, no more rows than leave a step's time as it is. For many answers, a batch as
# large as memory and patience allow, but not much beyond the size at which a step's time grows as fast as its rows (it
# may not be reached here). Pad on the left, pass the mask in every step, count positions. (Below 1 is noise.)

for name in loops:
    longer, more = ms[name][16] / ms[name][1], speed[name][16] / speed[name][1]
    assert FAST or more > 2
    print(f"{name}: a step for 16 rows takes {longer:.1f} x one for 1 row,")
    print(f"  so 16 rows get {more:.1f} x the tokens/s.", end=" ")
    print(f"Of {sizes} rows, {speed[name].idxmax()} get the most.")

# %%
# Measured on
# ===========

figures = {}
for rows in (1, 16):
    for name, tokens in speed.loc[rows].items():
        figures[f"{name}, rows: {rows} (tokens/s)"] = tokens
for way, timing in took.items():
    figures[f"eight prompts, {way} (ms)"] = 1000 * timing.median
decodeloop.provenance(model=[loaded, large], provider=decoder, figures=figures)
