"""
.. _l-plot-kv-cache:

============================
What does the KV cache save?
============================

A decoder writes one token at a time, and each new token looks back at all those before it. What it needs to know of
them can be computed again in every step, or kept in memory: the *KV cache*. This page decodes both ways, checks that
the tokens are the same, and measures what the cache saves in time and what it costs in memory.

Setup
=====

The small model that comes with the package, in float32, so that rounding does not blur a comparison of tokens.
"""

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import MistralConfig, MistralForCausalLM

import decodeloop
from decodeloop import cache_to_tensors, max_diff, string_type
from decodeloop.models.shapes import SHAPES

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
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
# A language model can be called on any text and says which token comes next. The simplest loop appends that token and
# calls the model again, on everything. The other loop keeps what the model computed for the tokens that it has read,
# and gives it only the one that it has not.


@torch.no_grad()
def without_cache(ids, new_tokens):
    for _ in range(new_tokens):
        out = model(ids, use_cache=False, logits_to_keep=1)
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return ids


@torch.no_grad()
def with_cache(ids, new_tokens):
    unread, cache = ids, None
    for _ in range(new_tokens):
        out = model(unread, past_key_values=cache, logits_to_keep=1)
        cache = out.past_key_values
        unread = out.logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, unread], dim=-1)
    return ids


# %%
# Both write the answer of :func:`decodeloop.generate`. A *hook* notes how many positions each call makes the model
# read. With a prompt of *p* tokens and an answer of *n*, they are p + (p + 1) + ... + (p + n - 1) without the cache,
# which grows with the square of *n*, and p + n - 1 with it.

answer = decodeloop.generate(model, input_ids)
n, read = answer.shape[1] - p, []
hook = model.register_forward_pre_hook(lambda _, a: read.append(a[0].shape[1]))
assert torch.equal(without_cache(input_ids, n), answer)
assert torch.equal(with_cache(input_ids, n), answer)
hook.remove()
assert read == [*range(p, p + n), p, *[1] * (n - 1)]
print(
    f"{n} new tokens; positions read: {sum(read[:n])} without, {sum(read[n:])} with"
)

# %%
# Why nothing is lost
# ===================
#
# *Attention* is the part of a layer that looks back. Each token has a *key*, which says how well it matches what a
# later token looks for, and a *value*, which is what it then contributes. A token never looks at those after it, so its
# key and value in each layer stay the same however long the text becomes. We read the prompt alone, then the whole
# answer, and compare the keys and values of the prompt. :func:`decodeloop.cache_to_tensors` lists them layer by layer,
# in the order in which an ONNX graph takes them (:ref:`l-plot-export`). Each is batch x heads x tokens x head size.

with torch.no_grad():
    cache, late = model(input_ids).past_key_values, model(answer).past_key_values
flat = cache_to_tensors(cache)
difference = max_diff(flat, [t[:, :, :p] for t in cache_to_tensors(late)])["abs"]
assert difference < 1e-3
print(f"largest difference {difference:.1g}, largest key {flat[0].max():.1f}")
print(f"{type(cache).__name__}: {len(cache.layers)} layers, each", end=" ")
print(string_type(cache.layers[0], with_shape=True))

# %%
# Time
# ====
#
# What does the next token cost when the text is already long? For texts of several lengths we fill a cache with all
# but the last token, check that one step gives the same logits both ways, and time that step. A step with the cache
# adds a token to it, which we take out again. The :term:`limit` of such a step is the least time in which this machine
# can read the weights and the cache (:func:`decodeloop.roofline`).


@torch.no_grad()
def step_times(model, text, lengths):
    steps, rows = {}, len(text)

    def step(inputs):
        logits = model(**inputs, logits_to_keep=1).logits
        if cache := inputs.get("past_key_values"):  # back to where it was
            decodeloop.crop_cache(cache, cache.get_seq_length() - 1)
        return logits

    for k in lengths:
        past = model(text[:, : k - 1]).past_key_values
        every = {"input_ids": text[:, :k], "use_cache": False}
        last = {"input_ids": text[:, k - 1 : k], "past_key_values": past}
        for way, inputs in {"without cache": every, "with cache": last}.items():
            steps[way, k] = lambda a=inputs: step(a)
        pair = steps["without cache", k](), steps["with cache", k]()
        assert max_diff(*pair)["abs"] < 1e-2
    times = decodeloop.measure_all(steps)
    ms = pandas.Series({s: 1000 * t.median for s, t in times.items()}).unstack(0)
    limits = [
        decodeloop.roofline(model, model.device, length=k, batch=rows)
        for k in lengths
    ]
    ms["limit"] = [1000 * limit.seconds for limit in limits]
    ms["weights (MiB)"] = [limit.weights / 2**20 for limit in limits]
    ms["cache (MiB)"] = [limit.cache / 2**20 for limit in limits]
    return ms


lengths = [16, 128, 1024] if FAST else [16, 64, 256, 1024, 2000]
text = input_ids.repeat(1, 100)  # the words do not matter
ms = step_times(model, text, lengths)
ms.rename_axis(index="tokens so far").round(2)

# %%
# That is in milliseconds, beside what a step with the cache must read. The time of a whole answer is the sum of its
# steps; here it is in seconds.

sizes = [8, 16, 32] if FAST else [8, 16, 32, 64]
runs = {
    (way, k): lambda loop=loop, k=k: loop(input_ids, k)
    for k in sizes
    for way, loop in (
        ("without cache", without_cache),
        ("with cache", with_cache),
    )
}
whole = decodeloop.measure_all(runs)
seconds = pandas.Series({a: t.median for a, t in whole.items()}).unstack(0)


def plot(ax, df, title, xlabel, ylabel):
    for way, style in {"without cache": "o--", "with cache": "s-"}.items():
        ax.loglog(df[way], style, label=way)
    if "limit" in df:
        ax.loglog(df["limit"], ":", color="C5", label="limit, with cache")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(df.index, df.index)
    ax.xaxis.minorticks_off()


fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4.3))
plot(left, ms, "One step", "tokens so far", "ms per token")
plot(right, seconds, "Whole answer", "new tokens", "seconds")
fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
seconds.rename_axis(index="new tokens").round(3)

# %%
# On a GPU, starting the operators of a model this small can take longer than computing them, which hides what the cache
# saves. :ref:`l-plot-limit` takes a large model.
#
# How much memory?
# ================
#
# One token takes 2 x layers x heads x head size numbers: a key and a value for each. In *multi-head* attention every
# head has its own; in *grouped-query* attention (`GQA <https://arxiv.org/abs/2305.13245>`_) several heads share them,
# and only these *KV heads* count. The formula for some published models in float16, checked on tensors of their shapes.
# The *meta* device of torch knows shapes without holding numbers. The last column is the length at which the cache
# weighs as much as the model. All rows of a batch count (:ref:`l-plot-batch`): with 16 it comes 16 times sooner.


def kv_bytes(c, itemsize):
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return 2 * c.num_hidden_layers * c.num_key_value_heads * size * itemsize


per_token = sum(t.nbytes for t in flat) // p
assert kv_bytes(model.config, model.dtype.itemsize) == per_token
rows, meta = {}, {"device": "meta", "dtype": torch.float16}
for name in ["bundled", *sorted(SHAPES.keys() - {"microsoft/phi-1"})]:
    m = decodeloop.load(name, random_weights=True, **meta).model
    kv, size = kv_bytes(m.config, 2), sum(w.nbytes for w in m.parameters())
    built = decodeloop.empty_tensors(m.config, length=10, **meta)
    assert sum(t.nbytes for t in built) == 10 * kv
    heads = f"{m.config.num_key_value_heads} of {m.config.num_attention_heads}"
    rows[name] = heads, round(kv / 1024, 1), round(size / 2**20), round(size / kv)
columns = "KV heads", "KiB per token", "weights (MiB)", "tokens = weights"
pandas.DataFrame(rows, index=columns).T

# %%
# Another way to keep a cache small is to forget. With a *sliding window* of *w* tokens, as in `Mistral 7B
# <https://arxiv.org/abs/2310.06825>`_, a token sees itself and the w - 1 before it, and older ones are dropped. Small
# models with random weights read longer and longer texts. Their caches hold the bytes of the formula, for at most w - 1
# tokens.

shape = {"hidden_size": 256, "num_attention_heads": 8, "head_dim": 32}
shape |= {"vocab_size": 100, "intermediate_size": 256, "num_hidden_layers": 2}
marks, ax = [16, 64, 127, 256, 512] + [1024, 2000] * (not FAST), plt.subplots()[1]
for heads, w, style in (8, 0, "o-"), (2, 0, "s-"), (1, 0, "^-"), (2, 128, "D:"):
    shape |= {"num_key_value_heads": heads, "sliding_window": w or None}
    small, held = MistralForCausalLM(MistralConfig(**shape)).eval(), []
    for k in marks:
        with torch.no_grad():
            forgets = small(torch.ones(1, k, dtype=int)).past_key_values
        held.append(sum(t.nbytes for t in cache_to_tensors(forgets)))
        assert held[-1] == kv_bytes(small.config, 4) * (min(k, w - 1) if w else k)
    label = f"{heads} of 8 KV heads" + f", window of {w}" * bool(w)
    ax.loglog(marks, held, style, label=label)
ax.set(title="Memory of a cache", xlabel="tokens so far", ylabel="bytes")
ax.set_xticks(marks, marks)
ax.xaxis.minorticks_off()
ax.legend()

# %%
# Kinds of cache, and one into another
# ====================================
#
# A ``DynamicCache`` grows: each step copies it into new, longer tensors. A ``StaticCache`` is a set of buffers, filled
# in place, as compiled code and CUDA graphs need it. Older code wants a tuple of pairs. The flat list turns into each,
# and the answer goes on from it. :func:`decodeloop.crop_cache` rewinds a cache to an earlier token; here by one, since
# a model must read something to say something.

flat = cache_to_tensors(decodeloop.crop_cache(cache, p - 1))
pairs = decodeloop.tensors_to_legacy(flat)
assert all(a is b for a, b in zip(cache_to_tensors(pairs), flat, strict=True))
dynamic = decodeloop.tensors_to_cache(flat, model.config)
static = decodeloop.tensors_to_static(flat, model.config, capacity=256)
facts = {}
for form in (dynamic, static):
    before = form.layers[0].keys
    again = decodeloop.generate(model, input_ids, past_key_values=form)
    assert torch.equal(again, answer)
    after, held = form.layers[0].keys, cache_to_tensors(form)[0].shape[2]
    moved = after.data_ptr() != before.data_ptr()
    assert moved == (form is dynamic)
    facts[type(form).__name__] = before.shape[2], after.shape[2], held, moved
columns = "room before", "room after", "filled", "moved in memory"
pandas.DataFrame(facts, index=columns).T

# %%
# Rewinding also serves another prompt that begins alike: the shared part is not read again. A cache that forgets
# cannot be rewound that far.

other = tokenizer(prompt.replace("primes", "even numbers"), return_tensors="pt")
other = other.input_ids.to(model.device)
shared = int((other[0, :p] == input_ids[0]).int().cumprod(0).sum())
decodeloop.crop_cache(cache, shared)
again = decodeloop.generate(model, other, past_key_values=cache)
assert torch.equal(again, decodeloop.generate(model, other))
print(f"{shared} of {other.shape[1]} tokens were in the cache already")
try:
    decodeloop.crop_cache(forgets, 200)
except ValueError as error:
    print("the window:", str(error).partition(":")[0])

# %%
# Which should I use?
# ===================
#
# Use the cache: the tokens are the same, and these lines say what it saved here. It costs memory, and every step reads
# it: where the caches of all rows near the weights in size, take a model with fewer KV heads or a window. A dynamic
# cache will do unless something asks for fixed buffers; then give these no more places than the text needs.

for name, t in {"answer": seconds, "step": ms}.items():
    ratio, growth = t["without cache"] / t["with cache"], t.iloc[-1] / t.iloc[0]
    print(f"{name}: {ratio.min():.1f} to {ratio.max():.1f} x as fast with cache;")
    print(f"  {t.index[0]} to {t.index[-1]} tokens multiply its time by", end=" ")
    print(f"{growth['with cache']:.1f}, without by {growth['without cache']:.0f}")

# %%
# Measured on
# ===========

figures = {}
for way in ("without cache", "with cache", "limit"):
    figures[f"step at 1024 tokens, {way} (ms)"] = ms[way][1024]
for way in ("without cache", "with cache"):
    figures[f"answer of 32 tokens, {way} (ms)"] = 1000 * seconds[way][32]
decodeloop.provenance(model=loaded, dtype=model.dtype, figures=figures)
