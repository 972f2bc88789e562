"""
.. _l-plot-kv-cache:

============================
What does the KV cache save?
============================

A decoder writes one token at a time, and for each new token it looks back at all those before it. What it needs to know
of them can be computed again in every step, or kept in memory, in the *KV cache*. This page shows what is kept and why
nothing is lost by keeping it, decodes both ways, checks that the tokens are the same, and measures the time that the
cache saves. :ref:`l-plot-cache-memory` measures the memory that it takes.

.. image:: /drawings/growing-cache.svg
   :alt: One row for each of four passes. With a cache, the prefill reads the four tokens of the prompt, and each step
         reads one new token and finds all others in the cache: 7 tokens are computed. Without a cache, each step reads
         all tokens again: 22 are.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. Tokens are compared on the small model
that comes with the package, in float32, so that rounding does not blur the comparison. Times are measured on a larger
one with random weights: the shape of phi-1_5 on a GPU, that of the largest llama2.c on a CPU.
"""

import math

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import AttentionInterface

import decodeloop

FAST = decodeloop.unit_test_going()  # a smaller model, shorter texts
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
shape, rows, length = "Xenova/llama2.c-stories110M", 1, 128
lengths = [16, 64, 256, 1024]
if torch.cuda.is_available():
    shape, rows, length = "microsoft/phi-1_5", 16, 1024
if FAST:
    shape, rows, length, lengths = "bundled", 1, 64, [16, 128, 1024]
large = decodeloop.load(shape, random_weights=True)

prompt = '''def print_prime(n):
    """
    Print all primes between 1 and n
    """'''
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
p = input_ids.shape[1]
print(f"{loaded.name} model on {model.device}, a prompt of {p} tokens")

# %%
# Without a cache, and with one
# =============================
#
# A language model can be called on any text, and says which token comes next. The simplest loop appends that token and
# calls the model again, on everything. The other loop keeps what the model computed for the tokens that it has read,
# and hands it only what it has not read yet: first the prompt, which is the :term:`prefill`, then one new token in each
# :term:`decode step`.


@torch.no_grad()
def without_cache(model, ids, new_tokens):
    for _ in range(new_tokens):
        out = model(ids, use_cache=False, logits_to_keep=1)
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return ids


@torch.no_grad()
def with_cache(model, ids, new_tokens):
    unread, cache = ids, None
    for _ in range(new_tokens):
        out = model(unread, past_key_values=cache, logits_to_keep=1)
        cache = out.past_key_values
        unread = out.logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, unread], dim=-1)
    return ids


# %%
# Both write the answer of :func:`decodeloop.generate`. A *hook*, a function that PyTorch calls before each call of the
# model, notes how many positions the model has to read. With a prompt of *p* tokens and an answer of *n*, they are
# p + (p + 1) + ... + (p + n - 1) without the cache, which grows with the square of *n*, and p + n - 1 with it.

answer = decodeloop.generate(model, input_ids)
n, read = answer.shape[1] - p, []
hook = model.register_forward_pre_hook(lambda _, a: read.append(a[0].shape[1]))
assert torch.equal(without_cache(model, input_ids, n), answer)
assert torch.equal(with_cache(model, input_ids, n), answer)
hook.remove()
assert sum(read[:n]) == sum(range(p, p + n))
assert sum(read[n:]) == p + n - 1
print(f"{n} new tokens: {sum(read[:n])} positions read without a cache,", end=" ")
print(f"{sum(read[n:])} with one")

# %%
# Attention
# =========
#
# What does the model keep? A decoder is a stack of layers. Most of what a layer computes for a token depends on that
# token alone. The one part that looks at other tokens is *attention*.
#
# .. image:: /drawings/attention.svg
#    :alt: One head of one layer, in a decode step. The query of the newest token is compared with the keys of all five
#          tokens so far, which gives one weight for each token, and the weights sum to 1. The output is the sum of the
#          values, each times its weight. Four keys and values come from the cache, the newest are computed.
#    :class: drawing
#
# From what the layer knows of a token it makes three vectors. The *query* says what this token looks for. The *key*
# says what it has to offer to later tokens, and the *value* is what these get from it. The product of a query with a
# key, divided by the square root of their size, is large where the two fit. The softmax turns these products into
# weights that sum to 1, and the result is the sum of the values, each times its weight. A layer does this several times
# side by side, in its :term:`heads <head>`, each with smaller vectors of its own.
#
# Here it is in a few lines. We register them with ``transformers`` under a name and let the model run on them. It
# writes the same tokens as with the optimised attention that it uses otherwise.


def by_hand(layer, query, keys, values, mask, scaling, **options):
    # query: batch x heads x unread tokens x size of a head
    # keys and values: batch x heads x all tokens so far x size of a head
    # mask: hides padding, and a single text has none
    scores = query @ keys.transpose(-1, -2) * scaling
    seen = keys.shape[2] - query.shape[2]  # from the cache
    later = torch.ones_like(scores, dtype=torch.bool).triu(seen + 1)
    weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)
    return (weights @ values).transpose(1, 2), weights


AttentionInterface.register("by hand", by_hand)
model.set_attn_implementation("by hand")
assert torch.equal(with_cache(model, input_ids, n), answer)
model.set_attn_implementation("sdpa")  # back to the optimised one

# %%
# The query of a token is used once, when the token is read. Its key and value are used again by each token that comes
# later. So keys and values are what the cache keeps, in each layer.
#
# Why nothing is lost
# ===================
#
# A token does not look at those after it: that is what ``later`` hides. Therefore its key and value stay the same,
# however long the text becomes. We read the prompt alone, then the whole answer, and compare the keys and values of the
# prompt's tokens. The first layer's largest key is printed for scale. :func:`decodeloop.cache_to_tensors` lists them
# layer by layer.

with torch.no_grad():
    early, late = model(input_ids).past_key_values, model(answer).past_key_values
early = decodeloop.cache_to_tensors(early)
late = [tensor[:, :, :p] for tensor in decodeloop.cache_to_tensors(late)]
difference = decodeloop.max_diff(early, late)["abs"]
assert difference < 1e-3
print(f"largest key of a layer {early[0].max():.1f}, difference {difference:.1g}")

# %%
# The time of one step
# ====================
#
# Now the larger model. On a GPU it reads a :term:`batch` of 16 texts at once, because a single short text would leave
# most of the GPU's arithmetic idle, with or without a cache. For texts of several lengths we fill a cache with all but
# the last token, check that one step gives the same :term:`logits` both ways, and time that step. A step with the cache
# adds a token to it, which we take out again.


def steps_at(model, ids):
    with torch.no_grad():
        cache = model(ids[:, :-1], logits_to_keep=1).past_key_values

    @torch.no_grad()
    def without():
        return model(ids, use_cache=False, logits_to_keep=1).logits

    @torch.no_grad()
    def with_it():
        out = model(ids[:, -1:], past_key_values=cache, logits_to_keep=1)
        decodeloop.crop_cache(cache, ids.shape[1] - 1)  # back to where it was
        return out.logits

    return {"without cache": without, "with cache": with_it}


text = input_ids.repeat(rows, 100)  # the words do not matter
steps, limits = {}, {}
for k in lengths:
    both = steps_at(large.model, text[:, :k])
    expected, got = both["without cache"](), both["with cache"]()
    rounding = 64 * torch.finfo(expected.dtype).eps * expected.abs().max()
    assert decodeloop.max_diff(expected, got)["abs"] < rounding
    steps |= {(way, k): step for way, step in both.items()}
    limits[k] = decodeloop.roofline(large.model, length=k, batch=rows)

# %%
# The :term:`limit` of a step with the cache is the least time in which this machine can read the weights and the cache
# (:func:`decodeloop.roofline`); it may fall where the memory was found faster than before. Both axes are logarithmic.

times = decodeloop.measure_all(steps)
ms = (1000 * pandas.Series({s: t.median for s, t in times.items()})).unstack(0)
ms["limit"] = [1000 * limit.seconds for limit in limits.values()]
_, ax = plt.subplots()
ms.plot(ax=ax, style=["s-", "o--", ":"], logx=True, logy=True)
ax.set(title=f"One step, rows: {rows}\n{shape}", ylabel="ms per step")
ax.set_xlabel("tokens so far")
ax.set_xticks(lengths, lengths)
ax.minorticks_off()
ms.rename_axis(index="tokens so far").round(2)

# %%
# The time of an answer
# =====================
#
# A whole answer is the prefill, which both loops have, and then one such step after the other.

text = text[:, :length]
ways = {
    "without cache": lambda: without_cache(large.model, text, 32),
    "with cache": lambda: with_cache(large.model, text, 32),
}
whole = decodeloop.measure_all(ways)
whole.plot(title=f"32 tokens after a prompt of {length}, rows: {rows}\n{shape}")

# %%
# Which should I use?
# ===================
#
# Use the cache: the tokens are the same, and the longer the text, the more work it saves. Without it a step computes
# the whole text again, with it a single token. In a short text that may save no time: on a GPU, starting the operators
# can take longer than their work. What the cache costs is memory, and :ref:`l-plot-cache-memory` says how much.

first, last = ms.iloc[0], ms.iloc[-1]
saved = last["without cache"] / last["with cache"]
answers = whole["without cache"].median / whole["with cache"].median
if not FAST:
    assert saved > 2
    assert answers > 1.5
print(f"a step at {lengths[-1]} tokens is {saved:.1f} x as fast with the cache,")
print(f"an answer of 32 tokens after a prompt of {length}, {answers:.1f} x.")
for way, longer in (last / first).drop("limit").items():
    print(f"{lengths[-1]} tokens, {way}: {longer:.1f} x a step at {lengths[0]}")

# %%
# Measured on
# ===========

figures = {}
for way in ("without cache", "with cache", "limit"):
    figures[f"step at 1024 tokens, {way} (ms)"] = ms[way][1024]
for way, timing in whole.items():
    figures[f"answer of 32 tokens, {way} (ms)"] = 1000 * timing.median
decodeloop.provenance(model=[loaded, large], rows=rows, figures=figures)
