"""
.. _l-plot-batch:

=======================
Several prompts at once
=======================

A decoder can answer several prompts in one go, a *batch*. Prompts differ in length and answers end at different steps,
so shorter rows are filled up with *padding* that must change nothing. This page builds such a batch, proves that each
row gets the answer it gets alone, shows what breaks it, and measures what a batch gains and what padding costs.

Setup
=====

The small model that comes with the package, in float32, so that rounding does not blur a comparison of tokens. For the
measurements, the same model as it is used: in float32 on a CPU, in float16 on a GPU, and as an ONNX graph
(:ref:`l-plot-export`).
"""

import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from transformers import GPT2Config, GPT2LMHeadModel

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
served = decodeloop.load().model
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
decodeloop.export_onnx(served, path, exporter="fused")
decoder = decodeloop.OnnxDecoder(path)
prompts = [
    'def factorial(n):\n    """Return the factorial of n."""',
    'def print_prime(n):\n    """\n    Print all primes between 1 and n\n    """',
    'def is_even(n):\n    """Return True if n is even."""',
    'def count_vowels(text):\n    """Return the number of vowels in text.\n\n'
    "    Args:\n        text: A string.\n\n"
    '    Returns:\n        int: The number of vowels.\n    """',
    'def reverse(text):\n    """Return the text reversed."""',
    'def fibonacci(n):\n    """Yield the first n Fibonacci numbers."""',
    'class Stack:\n    """A stack: push, pop, peek and a length."""',
    'def gcd(a, b):\n    """Return the greatest common divisor of a and b."""',
]
print(f"{loaded.name} model on {model.device};", end=" ")
print(f"the graph: {served.dtype}, {decoder.providers[0]}")

# %%
# Padding goes on the left
# ========================
#
# A tensor has one width, and the next token is predicted at its right end. So that is where every prompt must end, and
# the shorter ones get padding tokens in front. The *attention mask* says which tokens are real. *Position ids* count
# them: a row's first real token is number 0, wherever it stands. Here are the last 24 columns of three of the rows.

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
# positions follow from it, and a row that wrote its end token writes padding until the last row has ended. Two switches
# let us break it later.

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
        cache = out.past_key_values
        unread = (
            out.logits[:, -1].argmax(-1, keepdim=True).masked_fill(ended, pad)
        )
        ended |= unread == eos
        ids = torch.cat([ids, unread], dim=-1)
        mask = torch.cat([mask, torch.ones_like(unread)], dim=-1)
        if ended.all():
            break
    return ids


answers = batch_loop(model, ids, mask, 100)
assert torch.equal(answers, decodeloop.generate(model, ids, attention_mask=mask))
print(tokenizer.decode(answers[5], skip_special_tokens=True))

# %%
# :func:`decodeloop.generate` gives the same tokens. So does the graph, unless rounding decides between two tokens that
# are almost equally likely; :func:`decodeloop.verify` says whether there is such a *near tie*.

found = decodeloop.verify(
    served, decoder, ids, attention_mask=mask, max_new_tokens=100
)
assert found.agrees
print(found)

# %%
# Each row equals its solo run
# ============================
#
# Now every prompt alone, without padding and without a mask: each answer must be its row, token for token.

width = ids.shape[1]
lengths, new = mask.sum(-1).tolist(), []
for row, length in enumerate(lengths):
    solo = decodeloop.generate(model, ids[row : row + 1, width - length :])[0]
    new.append(len(solo) - length)
    assert torch.equal(solo, answers[row, width - length : width + new[-1]])
    assert (answers[row, width + new[-1] :] == pad).all()
facts = pandas.DataFrame({"prompt": lengths, "answer": new})
facts["padding"] = width - facts["prompt"]
facts["idle steps"] = max(new) - facts["answer"]
facts.rename_axis(index="row")

# %%
# What goes wrong
# ===============
#
# Now we leave things out, and mark the rows whose first 30 new tokens change. One result is a surprise. The model
# encodes positions by `rotation <https://arxiv.org/abs/2104.09864>`_: only the *distance* between two tokens matters.
# Without any position ids, every token of a row is shifted by the same padding, distances stay, and so do the tokens.
# But positions for the prompt only, the model's own count afterwards, tear a gap between prompt and answer. GPT-2
# *learns* a vector for each position; a tiny one with random weights shows that there a shift is enough.

torch.manual_seed(0)
shape = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
shape |= {"vocab_size": 3072, "initializer_range": 0.3}
shape |= {"bos_token_id": 0, "eos_token_id": 0}
gpt2 = GPT2LMHeadModel(GPT2Config(**shape)).eval().to(model.device)
right = {m: batch_loop(m, ids, mask, 30) for m in (model, gpt2)}
assert torch.equal(right[model], answers[:, : width + 30])

breakages = {
    "rotary, no position ids": (model, {"positions": "never"}),
    "rotary, prompt's positions only": (model, {"positions": "prompt only"}),
    "learned positions, no position ids": (gpt2, {"positions": "never"}),
    "rotary, no mask": (model, {"use_mask": False}),
}
changed, broken = {}, {}
for name, (m, options) in breakages.items():
    broken[name] = batch_loop(m, ids, mask, 30, **options)
    changed[name] = (broken[name] != right[m]).any(-1).tolist()
    assert not changed[name][lengths.index(width)]  # the row without padding
rows = pandas.DataFrame(changed).T
assert not any(changed["rotary, no position ids"])
assert rows.iloc[1:].any(axis=1).all()
rows.replace({True: "x", False: "-"})

# %%
# Row 3 is the longest. It has no padding, and nothing hurts it. Without the mask, rows attend to their padding, and
# whether that changes a token is chance: a test with one prompt may pass. This is a row that it did change, and nothing
# but the answer says so:

row = changed["rotary, no mask"].index(True)
print(tokenizer.decode(right[model][row], skip_special_tokens=True))
print("--- without the mask:")
print(tokenizer.decode(broken["rotary, no mask"][row], skip_special_tokens=True))

# %%
# What a batch gains
# ==================
#
# *Latency* is the time of a step, in which every row gets one token; *throughput* counts the tokens of all rows. All
# rows use the same weights, which a step reads from memory once, however many rows there are. What grows with the rows
# is the reading of their caches (:ref:`l-plot-kv-cache`) and the arithmetic, one multiplication and one addition for
# each weight and row. A step takes at least as long as the slower of the two, reading and arithmetic, would at the
# speeds measured on this machine: the :term:`limit`. While that is reading the weights, a further row costs little.

k, sizes = (12, [1, 4, 16]) if FAST else (20, [1, 4, 16, 64])
side = 2048 if model.device.type == "cpu" else 8192
square = torch.ones(side, side, device=model.device, dtype=served.dtype)
flops = 2 * side**3 / decodeloop.measure(lambda: square @ square).min


def limit_of(model, length, rows):  # in ms
    reading = decodeloop.roofline(model, model.device, length=length, batch=rows)
    weights = sum(w.numel() for w in model.parameters())
    return 1000 * max(reading.seconds, 2 * weights * rows / flops)


def step_times(loops, model, text, sizes):
    runs = {}
    for name, loop in loops.items():
        for rows in sizes:
            given = {"input_ids": text[:rows], "eos_token_id": None}
            runs[name, rows] = lambda n, loop=loop, given=given: loop(
                **given, max_new_tokens=n
            )
    times = decodeloop.prefill_and_decode_all(runs, k)
    ms = pandas.Series({r: 1000 * t.decode.median for r, t in times.items()})
    ms = ms.unstack(0)
    length = text.shape[1] + k // 2
    ms["limit"] = [limit_of(model, length, rows) for rows in sizes]
    return ms, 1000 / ms.div(ms.index, axis=0)


def plot(ms, speed, title):
    axes = plt.subplots(1, 2, figsize=(9, 4.3))[1]
    units = "latency (ms per step)", "throughput (tokens/s, all rows)"
    for ax, table, unit in zip(axes, (ms, speed), units, strict=True):
        for name in table:
            style = "C5:" if name == "limit" else "o-"
            ax.loglog(table[name], style, label=name)
        ax.set(title=title, xlabel="rows", ylabel=unit)
        ax.set_xticks(table.index, table.index)
        ax.xaxis.minorticks_off()
    axes[0].legend()


loops = {
    "PyTorch": partial(decodeloop.generate, served),
    "ONNX": decoder.generate,
}
text = ids[1:2, width - lengths[1] :].repeat(64, 1)  # no padding
ms, speed = step_times(loops, served, text, sizes)
plot(ms, speed, f"{loaded.name} model, {model.device.type}")
for name in loops:
    longer, more = ms[name][16] / ms[name][1], speed[name][16] / speed[name][1]
    print(f"{name}: a step for 16 rows takes {longer:.1f} x one for 1 row,")
    print(f"  so the batch writes {more:.1f} x the tokens per second")
pandas.concat({"ms per step": ms, "tokens/s": speed}, axis=1).round(1)

# %%
# What padding costs
# ==================
#
# A padded position is computed like any other, and thrown away; so is every step of a row that has ended. Each cell
# of this picture is one position of our batch of eight.

wasted = float((answers == pad).float().mean())
cells = torch.cat([mask, 2 + (answers[:, width:] == pad).int()], dim=-1).cpu()
colors = {"padding": "C5", "prompt": "C0", "answer": "C2", "ended": "C1"}
_, ax = plt.subplots(figsize=(8, 3))
ax.imshow(
    cells, ListedColormap([*colors.values()]), aspect="auto", vmin=0, vmax=3
)
ax.set(
    title=f"{wasted:.0%} of the positions are wasted",
    xlabel="position",
    ylabel="row",
)
ax.grid(False)
patches = [Patch(color=color, label=name) for name, color in colors.items()]
ax.figure.legend(handles=patches, loc="outside lower center", ncols=4)

# %%
# Is the batch still worth it? One by one, nothing is wasted, but each step reads the weights for a single token. All at
# once, there are as many steps as the longest answer has tokens. We answer the eight prompts both ways.

solos = [ids[[row], width - n :] for row, n in enumerate(lengths)]
ways = {
    "one by one": lambda: [decoder.generate(solo) for solo in solos],
    "all at once": lambda: [decoder.generate(ids, attention_mask=mask)],
}
took = decodeloop.measure_all(ways)
table = pandas.DataFrame(index=ways)
table["steps"] = sum(new), max(new)
table["ms"] = [1000 * t.median for t in took.values()]
table.round(1)

# %%
# Batches of prompts of like length waste less. Answers cannot be sorted by their length: nobody knows it yet. Servers
# therefore let a row that ends leave at once and put the next prompt in its place, which is called `continuous batching
# <https://www.usenix.org/conference/osdi22/presentation/yu>`_.
#
# Which should I use?
# ===================
#
# For one answer as fast as possible, a batch of one. For many, a batch: as large as memory and patience allow, but not
# much beyond the size at which the latency above begins to grow as fast as the rows. Whatever the size, pass the mask
# in every step, and positions either always or, with rotary embeddings, never.

gain = table["ms"]["one by one"] / table["ms"]["all at once"]
print(f"eight prompts: all at once is {gain:.1f} x as fast as one by one")
for name in loops:
    print(f"{name}: most tokens/s with {speed[name].idxmax()} rows, of {sizes}")

# %%
# Measured on
# ===========

figures = {}
for rows in (1, 16):
    for name, tokens in speed.loc[rows].items():
        figures[f"{name}, rows: {rows} (tokens/s)"] = tokens
for way in ("one by one", "all at once"):
    figures[f"eight prompts, {way} (ms)"] = table["ms"][way]
decodeloop.provenance(model=loaded, provider=decoder, figures=figures)
