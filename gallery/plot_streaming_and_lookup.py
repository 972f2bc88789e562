"""
.. _l-plot-streaming-and-lookup:

===================
Tokens as they come
===================

A decode step gives one token, and a reader need not wait for the last one to see the first. This page streams an
answer, measures what the reader waits for, and shows why a token is not always a piece of text. Then it lets several
tokens come at once, which are guessed and checked in one pass.

Load the model
==============

Everything runs in float32. A pass over many tokens rounds differently from a pass over one, and in float16 that could
tip a close decision; here the tokens must be the same.
"""

import time

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import TextStreamer

import decodeloop
from decodeloop import PromptLookup

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
# A pass may also give several tokens, if something guesses them and the model only checks. *Prompt lookup* guesses that
# what followed the last few tokens earlier in the text follows again; :ref:`l-plot-guess-ahead` takes it apart and says
# when it pays. The tokens stay the same, and come in bursts, all those of a pass at once. Here the prompt holds a
# function and asks for it again, with another name for its parameter.

asked = prompt.replace("(n)", "(limit)").replace("and n", "and limit")
edit_ids = encode(written + "\n\n" + asked)
options = {"eos_token_id": None, "max_new_tokens": most}
expected = decodeloop.generate(model, edit_ids, **options)
lookup = PromptLookup(tokens=8)
assert torch.equal(
    decodeloop.generate(model, edit_ids, lookup=lookup, **options), expected
)
assert lookup.passes < lookup.written
print(f"{lookup.written} tokens in {lookup.passes} passes")

_, ax = plt.subplots(figsize=(7, 3.4))
figures = {}
for label, line in (("greedy", "--"), ("lookup", "-")):
    given = PromptLookup(tokens=8) if label == "lookup" else None
    times = arrivals({"edit": edit_ids}, lookup=given, **options)["edit"]
    ax.step(times, range(1, len(times) + 1), line, where="post", label=label)
    figures[f"edit, {label}: last token (ms)"] = times.iloc[-1]
ax.set(title="When the tokens of the edit arrive", xlabel="ms")
ax.set_ylabel("tokens so far")
ax.legend()

# %%
# Which should I use?
# ===================
#
# Stream wherever somebody reads along; the first table says how much sooner something is seen. Decode the text so far,
# not each token, and hold back what is not whole yet. Where the answer copies from its prompt, as the edit does, guess
# as well.
#
# Measured on
# ===========

for name, wait in waits["first token (ms)"].items():
    figures[f"{name} prompt: first token (ms)"] = wait
figures["short prompt: next token (ms)"] = waits.loc["short", "next token (ms)"]
decodeloop.provenance(model=loaded, figures=figures)
