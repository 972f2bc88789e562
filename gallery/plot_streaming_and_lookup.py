"""
.. _l-plot-streaming-and-lookup:

===================
Tokens as they come
===================

A decode step gives one token, and a reader need not wait for the last token to see the first. This page streams an
answer, shows why a token is not always a piece of text and how to show text nevertheless, and measures what a reader
waits for. At the end several tokens come at once, because they are guessed and then checked in one pass.

.. image:: /drawings/characters.svg
   :alt: Above, tokens as bytes. A character that takes several tokens is held back until its last byte has come, and
         then it is shown. Below, a line of time. The first token comes after the prefill, and each further one a decode
         step later.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. Text comes from the small model of the
package, in float32: a pass over many tokens rounds differently from a pass over one, and the tokens must be the same.
Waits are measured on a larger model with random weights, the shape of phi-1_5 on a GPU and that of the largest llama2.c
on a CPU; the plot is of the small one.
"""

import time

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import TextStreamer

import decodeloop
from decodeloop import PromptLookup

FAST = decodeloop.unit_test_going()  # a smaller model and fewer tokens
shape, most = "Xenova/llama2.c-stories110M", 64
if torch.cuda.is_available():
    shape = "microsoft/phi-1_5"
if FAST:
    shape, most = "bundled", 24
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
large = decodeloop.load(shape, random_weights=True)
prompt = '''def print_prime(n):
    """
    Print all primes between 1 and n
    """'''


def encode(text):
    return tokenizer(text, return_tensors="pt").input_ids.to(model.device)


input_ids = encode(prompt)
print(f"a prompt of {input_ids.shape[1]} tokens, on {model.device}")

# %%
# One token at a time
# ===================
#
# :func:`decodeloop.stream` is :func:`decodeloop.generate` turned inside out: an iterator that yields each token as soon
# as it is known. It computes nothing ahead. So when we stop after the twelfth token, the model stops too, and the
# tokens after it are never computed.

outputs = decodeloop.generate(model, input_ids)
answer = outputs[0, input_ids.shape[1] :]
streamed = torch.cat(list(decodeloop.stream(model, input_ids)))
assert torch.equal(streamed, answer)

passes = []
hook = model.register_forward_hook(lambda *call: passes.append(call))
for count, token in enumerate(decodeloop.stream(model, input_ids), start=1):
    print(repr(tokenizer.decode(token)), end=" ")
    if count == 12:
        break
hook.remove()
assert len(passes) == 12

# %%
# A token is not always text
# ==========================
#
# A token is a piece of bytes, not of words. A character for which the tokenizer has no token is cut into its bytes, and
# a part of a character cannot be shown. So the pieces that we get by decoding one token after the other, put together,
# are not the text:

text = "# café → 日本"
pieces = [tokenizer.decode(token) for token in encode(text)[0]]
print(pieces)
assert "".join(pieces) != text

# %%
# Instead, decode all tokens so far and show what is new. But hold it back while it ends in the mark that a decoder
# writes for a broken character.


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
# :func:`decodeloop.text_pieces` does that, and also holds back what may be the beginning of a text at which the answer
# should stop (:ref:`l-plot-chat`). ``TextStreamer`` of ``transformers`` prints as well, and holds back each word until
# the next one begins, since it may still grow. ``generate`` of either package takes one as ``streamer=``. (The
# answer is cut after some tokens.)

tokens = decodeloop.stream(model, input_ids)
whole = tokenizer.decode(answer, skip_special_tokens=True)
assert "".join(decodeloop.text_pieces(tokenizer, tokens)) == whole
streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
_ = decodeloop.generate(model, input_ids, streamer=streamer, max_new_tokens=most)

# %%
# What does the reader wait for?
# ==============================
#
# First for the :term:`prefill`, which is the pass over the whole prompt: the :term:`time to first token`. Then for one
# :term:`decode step` for each further token. Streaming makes nothing faster. It shows the first token after the first
# of these times, and not after the sum of all. We note when each token of the larger model comes, for a short prompt
# and for one with other code before it, which a GPU may read in no more time (small differences are chance). *Next
# token* is the average of all steps. Here, too, a first run warms up, and the two prompts take turns.


def arrivals(model, prompts, **options):
    runs = {name: [] for name in prompts}
    for _ in range(6):
        for name, ids in prompts.items():
            start, times = time.perf_counter(), []
            for token in decodeloop.stream(model, ids, **options):
                token.item()  # waits for the GPU, if there is one
                times.append(1000 * (time.perf_counter() - start))
            runs[name].append(times)
    frames = {name: pandas.DataFrame(run[1:]) for name, run in runs.items()}
    return {name: frame.median() for name, frame in frames.items()}


written = tokenizer.decode(outputs[0], skip_special_tokens=True)
prompts = {"short": input_ids, "long": encode((written + "\n\n") * 5 + prompt)}
endless = {"eos_token_id": None, "max_new_tokens": most}
curves = arrivals(large.model, prompts, **endless)
waits = pandas.DataFrame(index=prompts)
waits["prompt (tokens)"] = [ids.shape[1] for ids in prompts.values()]
waits["first token (ms)"] = [times[0] for times in curves.values()]
waits["next token (ms)"] = [
    (t.iloc[-1] - t[0]) / (most - 1) for t in curves.values()
]
waits["all tokens (ms)"] = [times.iloc[-1] for times in curves.values()]
sooner = waits["all tokens (ms)"] / waits["first token (ms)"]
waits.round(1)

# %%
# Without streaming, a reader waits for all tokens until something appears. With it, for the first:

for name, factor in sooner.items():
    print(f"{name} prompt: something to read {factor:.1f} times as early")

# %%
# More than one token per pass
# ============================
#
# A pass can also give several tokens, if something guesses them and the model only checks. :term:`Prompt lookup <prompt
# lookup>` guesses that what followed the last few tokens earlier in the text will follow again. The tokens stay the
# same, and those of a pass come all at once. :ref:`l-plot-guess-ahead` takes this apart and says when it pays. Here the
# prompt holds a function and asks for it again, with another name for its parameter.

asked = prompt.replace("(n)", "(limit)").replace("and n", "and limit")
edit_ids = encode(written + "\n\n" + asked)
expected = decodeloop.generate(model, edit_ids, **endless)
lookup = PromptLookup(tokens=8)
edited = decodeloop.generate(model, edit_ids, lookup=lookup, **endless)
assert torch.equal(edited, expected)
assert lookup.passes < lookup.written
print(f"{lookup.written} tokens in {lookup.passes} passes")

_, ax = plt.subplots(figsize=(7, 3.4))
figures = {}
for label, line, given in (("greedy", "--", None), ("lookup", "-", lookup)):
    times = arrivals(model, {"edit": edit_ids}, lookup=given, **endless)["edit"]
    ax.step(times, range(1, len(times) + 1), line, where="post", label=label)
    figures[f"edit, {label}: last token (ms)"] = times.iloc[-1]

ax.set(title=f"When the tokens of the edit come\n{loaded.name}", xlabel="ms")
ax.set_ylabel("tokens so far")
ax.legend()

# %%
# Which should I use?
# ===================
#
# Stream wherever somebody reads along. Decode the text so far and not each token, and hold back what is not whole yet:
# :func:`decodeloop.text_pieces`. Where an answer copies from its prompt, as the edit does, guess as well.
#
# Measured on
# ===========

for name, wait in waits["first token (ms)"].items():
    figures[f"{name} prompt: first token (ms)"] = wait
figures["short prompt: next token (ms)"] = waits.loc["short", "next token (ms)"]
decodeloop.provenance(model=[loaded, large], figures=figures)
