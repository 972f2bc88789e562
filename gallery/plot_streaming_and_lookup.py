"""
.. _l-plot-streaming-and-lookup:

================================================
Tokens as they come, and more than one per step
================================================

A decode step gives one token, and a reader need not wait for the last one to see the first. This page streams an
answer, measures what the reader waits for, and shows why a token is not always a piece of text. Then it makes a step
give more than one token: it guesses the next ones from the text so far and checks all guesses in one pass. The tokens
stay the same, and the page measures when that is faster and when it is not.

Load the model
==============

Everything runs in float32. A pass over many tokens rounds differently from a pass over one, and in float16 that could
tip a close decision; here the tokens must be the same.
"""

import time

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import DynamicCache, TextStreamer

import decodeloop
from decodeloop import PromptLookup, crop_cache

FAST = decodeloop.unit_test_going()  # fewer repeats and tokens, the same code
most = 24 if FAST else 64  # new tokens in what is counted and timed

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
prompt = (
    'def print_prime(n):\n    """\n    Print all primes between 1 and n\n    """'
)


def encode(text):
    return tokenizer(text, return_tensors="pt").input_ids.to(model.device)


input_ids = encode(prompt)
print(f"a prompt of {input_ids.shape[1]} tokens, on {model.device}")

# %%
# One token at a time
# ===================
#
# :func:`decodeloop.stream` is :func:`decodeloop.generate` turned inside out: an iterator that yields each token when it
# is known. Nothing runs ahead, so to stop reading is to stop computing.

outputs = decodeloop.generate(model, input_ids)
answer = outputs[0, input_ids.shape[1] :]
streamed = torch.cat(list(decodeloop.stream(model, input_ids)))
assert torch.equal(streamed, answer)

for count, token in enumerate(decodeloop.stream(model, input_ids), start=1):
    print(repr(tokenizer.decode(token)), end=" ")
    if count == 12:
        break  # the 13th token is never computed

# %%
# What does the reader wait for?
# ==============================
#
# First for the *prefill*, the pass over the whole prompt: the time to the first token. Then for one decode step per
# token. Streaming makes nothing faster; it shows the first token after the first of these times, not after the sum of
# all. We note the time of each token, for a short prompt and for one with several hundred tokens of other code before
# it.


def arrivals(prompts, **options):
    runs = {name: [] for name in prompts}
    for _ in range(6):
        for name, ids in prompts.items():  # in turns
            start, times = time.perf_counter(), []
            for token in decodeloop.stream(model, ids, **options):
                token.item()  # waits for the GPU, if there is one
                times.append(1000 * (time.perf_counter() - start))
            runs[name].append(times)
    # the first run warmed up
    return {n: pandas.DataFrame(times[1:]).median() for n, times in runs.items()}


written = tokenizer.decode(outputs[0], skip_special_tokens=True)
long_ids = encode((written + "\n\n") * (4 if FAST else 12) + prompt)
prompts = {"short": input_ids, "long": long_ids}
curves = arrivals(prompts, eos_token_id=None, max_new_tokens=most)
waits = pandas.DataFrame(index=prompts)
waits["prompt (tokens)"] = [ids.shape[1] for ids in prompts.values()]
waits["first token (ms)"] = [times[0] for times in curves.values()]
waits["next token (ms)"] = [times.diff().median() for times in curves.values()]
waits["all (ms)"] = [times.iloc[-1] for times in curves.values()]
waits["without streaming (x the wait)"] = (
    waits["all (ms)"] / waits["first token (ms)"]
)
waits.round(2)

# %%
# The last column is how much longer a reader without streaming waits until something appears.
#
# A token is not always text
# ==========================
#
# A token is a piece of bytes, not of words. A character that the tokenizer has no token for is cut into bytes, and half
# of a character cannot be shown. So pieces decoded one by one and put together are not the text:

text = "# café → 日本"
pieces = [tokenizer.decode(token) for token in encode(text)[0]]
print(pieces)
assert "".join(pieces) != text

# %%
# The remedy: decode everything so far and show what is new, but hold back what ends in the mark of a broken character.


def readable(tokenizer, tokens):
    seen, shown = [], ""
    for token in tokens:
        seen.append(int(token))
        text = tokenizer.decode(seen)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text


parts = list(readable(tokenizer, encode(text)[0]))
print(parts)
assert "".join(parts) == text

# %%
# ``transformers``' ``TextStreamer`` does that and prints; it also holds back a word until the next one begins, since a
# word may still grow. ``generate`` of either package takes one as ``streamer=``.

streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
_ = decodeloop.generate(model, input_ids, streamer=streamer, max_new_tokens=most)

# %%
# More than one token per pass
# ============================
#
# A pass over several tokens gives, after each of them, the most likely next token. The prefill throws all of these away
# but the last. *Prompt lookup* (`Saxena, 2023 <https://github.com/apoorvumang/prompt-lookup-decoding>`_) uses them. It
# looks for the last few tokens earlier in the text, and guesses that what followed there follows again.


def look_up(text, count, ngram=3):
    for size in range(min(ngram, len(text) - 1), 0, -1):
        windows = text[:-1].unfold(0, size, 1)  # every run of so many tokens
        places = (windows == text[-size:]).all(dim=-1).nonzero()
        if len(places):
            start = int(places[-1]) + size
            return text[start : start + count]
    return text[:0]


print(repr(tokenizer.decode(look_up(encode("total = a + b\nprint(total")[0], 4))))

# %%
# One pass reads the last token and the guesses behind it. Guesses are right as long as they are what the model itself
# says there, and the first wrong one is replaced by what it says. So a pass gives at least one token and at most one
# more than was guessed, and each of them is the one greedy decoding takes. The cache has then read wrong guesses too;
# :func:`decodeloop.crop_cache` makes it forget them.


@torch.no_grad()
def lookup_generate(model, text, eos_token_id, guesses=10, max_new_tokens=100):
    end, cache, passes = text.shape[1] + max_new_tokens, DynamicCache(), 0
    while text.shape[1] < end and (passes == 0 or text[0, -1] != eos_token_id):
        count = min(guesses, end - text.shape[1] - 1) if passes else 0
        guess = look_up(text[0], count)[None]
        unread = torch.cat([text[:, cache.get_seq_length() :], guess], dim=-1)
        logits = model(unread, past_key_values=cache).logits
        best = logits[:, -1 - guess.shape[1] :].argmax(dim=-1)
        right = int((best[:, :-1] == guess).int().cumprod(dim=-1).sum())
        text = torch.cat([text, best[:, : right + 1]], dim=-1)
        crop_cache(cache, text.shape[1] - 1)  # the last token is not read yet
        passes += 1
    return text, passes


found, passes = lookup_generate(model, input_ids, tokenizer.eos_token_id)
assert torch.equal(found, outputs)
lookup = PromptLookup(tokens=10)
assert torch.equal(decodeloop.generate(model, input_ids, lookup=lookup), outputs)
assert lookup.passes == passes < len(answer)
print(f"{len(answer)} tokens in {passes} passes")
print(f"{lookup.acceptance:.0%} of guesses right")

# %%
# :class:`decodeloop.PromptLookup` counted for us. It gives the same tokens in as many passes as the loop above.
#
# It depends on the text
# ======================
#
# Three texts. *Edit*: the prompt holds a function and asks for it again with another name for its parameter. *Fresh*:
# the prompt from above, nothing to copy from. *Random*: the prompt is tokens drawn at random. For each we let the
# lookup guess up to 1, 2, 4 ... tokens a pass.

asked = prompt.replace("(n)", "(limit)").replace("and n", "and limit")
generator = torch.Generator().manual_seed(0)
noise = torch.randint(2, model.config.vocab_size, (1, 60), generator=generator)
texts = {
    "edit": encode(written + "\n\n" + asked),
    "fresh": input_ids,
    "random": noise.to(model.device),
}
guesses = [2, 8] if FAST else [1, 2, 4, 8, 16, 32]
index = pandas.Index([0, *guesses], name="guesses per pass")
counts, per_pass = {}, pandas.DataFrame(index=index)
for name, ids in texts.items():
    expected = decodeloop.generate(model, ids, max_new_tokens=most)
    per_pass.loc[0, name] = 1.0
    for k in guesses:
        lookup = PromptLookup(tokens=k)
        found = decodeloop.generate(
            model, ids, lookup=lookup, max_new_tokens=most
        )
        assert torch.equal(found, expected)
        per_pass.loc[k, name] = lookup.tokens_per_pass
        if k == 8:
            counts[name] = {
                "tokens": lookup.written,
                "passes": lookup.passes,
                "guesses": lookup.proposed,
                "right (%)": 100 * lookup.acceptance,
                "tokens per pass": lookup.tokens_per_pass,
            }
assert per_pass.loc[8, "edit"] > 2 * per_pass.loc[8, "fresh"]
counts = pandas.DataFrame(counts).T.rename_axis("up to 8 guesses a pass")
counts.round(1)

# %%
# Why any gain after random tokens? What the model writes there goes round in circles, and circles are easy to guess:

print(tokenizer.decode(expected[0, noise.shape[1] :]))

# %%
# What a pass costs
# =================
#
# Fewer passes are no gain if a pass over k guesses costs more than it saves. A pass reads all weights once, however
# many tokens it has, but computes for each. So we measure passes of 1 + k tokens behind the same past of 100.


@torch.no_grad()
def cost(model, sizes):
    past, unread = torch.full((1, 100), 5), torch.full((1, 64), 5)
    past, unread = past.to(model.device), unread.to(model.device)
    cache = model(past, past_key_values=DynamicCache()).past_key_values

    def one_pass(k):
        model(unread[:, : 1 + k], past_key_values=cache)
        crop_cache(cache, 100)

    passes = {k: lambda k=k: one_pass(k) for k in sizes}
    timings = decodeloop.measure_all(passes, repeats=5 if FAST else 15, warmup=3)
    return pandas.Series({k: timing.median for k, timing in timings.items()})


seconds = cost(model, list(per_pass.index))
per_pass["cost"] = seconds / seconds[0]
print(f"pass over 1 token: {1000 * seconds[0]:.2f} ms")

figures = {"pass over 1 token (ms)": 1000 * seconds[0]}
per_pass.round(2)

# %%
# The plot holds both sides. The lines of the texts are what a pass gives, the dashed line what a pass with all its
# guesses costs, in passes over one token. Where a text's line is above, lookup pays. Where it is below, it is a close
# thing or a loss: many passes find fewer guesses than they may make, and cost less.

_, ax = plt.subplots()
for name, style in zip(per_pass, ["o-", "s-", "D-", "--"], strict=True):
    label = f"{name} (passes)" if "cost" in name else f"{name} (tokens)"
    ax.plot(per_pass.index, per_pass[name], style, label=label)
ax.set_xscale("symlog", base=2, linthresh=1)
ax.set_yscale("log", base=2)
ax.set_xticks(per_pass.index, per_pass.index)
ticks = [1, 2, 4, 8]
ax.set_yticks(ticks, ticks)
ax.set(title="What a pass gives, and what it costs", xlabel="guesses per pass")
ax.set_ylabel("tokens; passes over one token")
ax.legend()

# %%
# The whole loop, measured
# ========================
#
# The same tokens, greedily and with lookup, in turns. The time holds the prefill and the search for guesses as well.

k = 8


def run(ids, lookup):
    lookup = PromptLookup(tokens=k) if lookup else None
    return decodeloop.generate(model, ids, lookup=lookup, max_new_tokens=most)


runs = {
    (name, way): lambda ids=ids, way=way: run(ids, lookup=way == "lookup")
    for name, ids in texts.items()
    for way in ("greedy", "lookup")
}
timings = decodeloop.measure_all(runs, repeats=5)
for name in texts:
    tokens = [timings[name, way].result for way in ("greedy", "lookup")]
    assert torch.equal(*tokens)
speed = pandas.DataFrame(index=texts)
speed["tokens"] = counts["tokens"].astype(int)
for loop in ("greedy", "lookup"):
    speed[f"{loop} (ms)"] = [1000 * timings[name, loop].median for name in texts]
speed["tokens per pass"] = counts["tokens per pass"]
speed["speed-up"] = speed["greedy (ms)"] / speed["lookup (ms)"]
speed.round(2)

# %%
# Lookup streams, too: then tokens come in bursts, all those of a pass at once.

_, ax = plt.subplots(figsize=(7, 3.4))
for label, line in (("greedy", "--"), ("lookup", "-")):
    lookup = PromptLookup(tokens=k) if label == "lookup" else None
    edit_ids = {"edit": texts["edit"]}
    times = arrivals(edit_ids, lookup=lookup, max_new_tokens=most)["edit"]
    ax.step(times, range(1, len(times) + 1), line, where="post", label=label)
ax.set(title="When the tokens of the edit arrive", xlabel="ms")
ax.set_ylabel("tokens so far")
ax.legend()

# %%
# Which should I use?
# ===================
#
# Stream wherever somebody reads along; the first table says how much sooner something is seen. Look up where the
# answer copies from its prompt, as the edit does, or from itself; the last table says what it gains on this machine.
# Where it does neither, most guesses are wrong: hold its tokens per pass against the cost in the plot, and guess few
# tokens or none.
#
# Measured on
# ===========

for name, wait in waits["first token (ms)"].items():
    figures[f"{name} prompt: first token (ms)"] = wait
figures["short prompt: next token (ms)"] = waits.loc["short", "next token (ms)"]
for name in ("edit", "fresh"):
    figures[f"{name}: lookup (tokens per pass)"] = per_pass.loc[k, name]
    figures[f"{name}: lookup (x the speed of greedy)"] = speed["speed-up"][name]
figures["pass with 8 guesses (x a pass over 1 token)"] = per_pass.loc[8, "cost"]
decodeloop.provenance(model=loaded, figures=figures)
