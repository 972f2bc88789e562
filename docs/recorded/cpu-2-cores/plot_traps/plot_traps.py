"""
.. _l-plot-traps:

=============================
Ten traps: four wrong answers
=============================

A decode loop that is wrong still writes text, and raises no error. This page walks into four traps on purpose; six
more, which lose time or measure it wrongly, are on :ref:`l-plot-traps-numbers`. For each trap there is the wrong code
and what it did here, a remedy, and the right code, which passes the check that the wrong one fails:

* `1. Positions that are off by one`_
* `2. Position ids in some steps only`_
* `3. The mask left out after the prompt`_
* `4. The exported file of yesterday`_

.. image:: /drawings/positions.svg
   :alt: A padded row. Wrong: positions count the padding in the prompt and not after it. Right: they never do.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it.
"""

import copy
import tempfile
from pathlib import Path

import pandas
import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer tokens, the same code
loaded = decodeloop.load(dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
tokenizer.padding_side = "left"
most = 12 if FAST else 100
costs = {}  # what each trap did here

# %%
# What is right
# =============
#
# The model is in float32 on any device, so that a difference comes from a mistake and not from rounding. Its answer to
# a prompt alone is what the traps are compared with. The second text is longer. In a *batch* of both, the short one is
# padded on its left, and has to get the same answer.

short = 'def factorial(n):\n    """Return the factorial of n"""'
texts = [short, 12 * "# A comment that is long.\n" + short]
batch = tokenizer(texts, return_tensors="pt", padding=True).to(device)
ids, prompt_mask = batch.input_ids, batch.attention_mask
alone = ids[:1, prompt_mask[0] == 1]
answer = decodeloop.generate(model, alone, max_new_tokens=most)
answer = answer[0, alone.shape[1] :]
steps = len(answer)
print(f"{steps} tokens:{tokenizer.decode(answer)}")

# %%
# Besides the tokens, a model is told the *position* of each new token in its text (:term:`position ids`), and the
# :term:`attention mask`, which hides padding. The loop below takes both as functions, so that we can get them wrong.
# ``length`` is that of the text, and ``new`` says how many of its tokens are not read yet: all in the first step, and
# one in each later step.


@torch.no_grad()
def write(text, positions, mask=lambda length: None):
    """How many tokens of the first row's answer are wrong, and its logits."""
    unread, cache, logits = text, None, []
    for _ in range(steps):
        length, new = text.shape[1], unread.shape[1]
        outputs = model(
            unread,
            position_ids=positions(length, new),
            attention_mask=mask(length),
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        logits.append(outputs.logits[0, -1])
        unread = outputs.logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, unread], dim=-1)
    return int((text[0, -steps:] != answer).sum()), torch.stack(logits)


# %%
# 1. Positions that are off by one
# ================================
#
# Positions count from 0, so the last token of a text stands at ``length - 1``. It is easy to give each new token the
# position of the one before it, or of the one after.


def shifted(by):
    def positions(length, new):
        first = length - new + (by if new == 1 else 0)
        return torch.arange(first, first + new, device=device)[None]

    return positions


# WRONG
off = {}  # the logits of wrong loops
early, off["one too few"] = write(alone, shifted(by=-1))
late, off["one too many"] = write(alone, shifted(by=1))
assert early > 0
costs["positions off by one"] = f"{early} of {steps} tokens wrong"
print(f"one too few: {early} tokens wrong; one too many: {late} tokens wrong")

# %%
# .. admonition:: Remedy
#
#    Compare :term:`logits` as well as tokens. A mistake may change few tokens of an answer or none, but it shows in
#    the logits by which they are chosen.

# RIGHT
wrong, logits = write(alone, shifted(by=0))
assert wrong == 0
difference = decodeloop.max_diff(logits, off["one too many"])["abs"]
assert difference > 0.1
print(f"one too many: logits up to {difference:.1f} off")

# %%
# 2. Position ids in some steps only
# ==================================
#
# The first real token of a padded row stands at position 0, however much padding is before it. The loop below counts
# like this in all steps but the first, in which it leaves the positions to the model. But the model counts the padding
# too. So between prompt and answer, positions jump back by the length of the padding.


# WRONG: no position ids with the prompt
def full_mask(length):
    added = length - ids.shape[1]
    return torch.nn.functional.pad(prompt_mask, (0, added), value=1)


def counted(length, new):
    return (full_mask(length).cumsum(-1) - 1).clamp(min=0)[:, -new:]


def counted_later(length, new):
    return counted(length, new) if new == 1 else None


jump, off["ids in some steps"] = write(ids, counted_later, full_mask)
assert jump > 0
costs["position ids in some steps only"] = f"{jump} of {steps} tokens wrong"

# %%
# .. admonition:: Remedy
#
#    Pass position ids in every step, counted from the mask.
#
# If they are left out in *every* step, all tokens of a row are shifted by the same padding. That changes no token of a
# model whose positions are rotated (:term:`RoPE`), such as this one, since only distances count there. It changes those
# of a model that has learned a vector for each position, such as GPT-2. :ref:`l-plot-batch` tries both.

# RIGHT
wrong, _ = write(ids, counted, full_mask)
assert wrong == 0
wrong, _ = write(ids, lambda length, new: None, full_mask)  # in no step
assert wrong == 0  # with rotated positions only

# %%
# 3. The mask left out after the prompt
# =====================================
#
# The tokenizer gives a mask with the prompt, so it is easily passed with the prompt only. But the padding's keys and
# values stay in the cache, and without a mask all later steps attend to them.


# WRONG: no mask after the first step
def first_mask(length):
    return prompt_mask if length == ids.shape[1] else None


unmasked, off["mask left out"] = write(ids, counted, first_mask)
assert unmasked > 0
costs["mask left out after the prompt"] = f"{unmasked} of {steps} tokens wrong"

# %%
# .. admonition:: Remedy
#
#    Let the mask grow with the text: the prompt's own, then a 1 for each new token. :func:`decodeloop.generate` does
#    that, and counts the positions from it.

# RIGHT
tokens = decodeloop.generate(model, **batch, max_new_tokens=steps)
assert torch.equal(tokens[0, -steps:], answer)

# %%
# 4. The exported file of yesterday
# =================================
#
# An export takes time, so a script may export only if there is no file yet. After more training the model has other
# weights, and the script still runs those in the file.

# WRONG: whatever is in the file is taken for the model
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
served = decodeloop.load().model  # float16 on a GPU, as its graph wants it
decodeloop.export_onnx(served, path, exporter="fused")  # yesterday
trained = copy.deepcopy(served)
trained.model.layers[0].mlp.fc2.weight.data *= 1.1  # stands for more training
if not path.exists():
    decodeloop.export_onnx(trained, path, exporter="fused")
stale = decodeloop.verify(trained, path, alone, max_new_tokens=5).max_logit_diff
assert stale > 0.25
costs["a stale exported file"] = f"logits up to {stale:.1f} off"

# %%
# .. admonition:: Remedy
#
#    Export anew, or put a hash of the weights into the file's name. Then let :func:`decodeloop.verify` compare the
#    logits with the model's.

# RIGHT
fresh = Path(folder.name) / "new.onnx"
decodeloop.export_onnx(trained, fresh, exporter="fused")
new = decodeloop.verify(trained, fresh, alone, max_new_tokens=5).max_logit_diff
assert new < 0.25

# %%
# What each one did here
# ======================
#
# In the first three traps, the first token is as it should be, so a test that looks at one token passes. The plot shows
# how far the logits of each step are from the right ones. Once a token differs, they are of two texts.

apart = {name: (each - logits).abs().amax(-1).cpu() for name, each in off.items()}
assert all(each[0] < 0.01 and each[1] > 0.1 for each in apart.values())
ax = pandas.DataFrame(apart).plot(style=["o-", "s--", "^-.", "v:"])
ax.set(title="How far logits are off", xlabel="step", ylabel="difference")
ax.set_ylim(top=1.4 * ax.get_ylim()[1])
ax.legend(loc="upper center", ncols=2, fontsize="small")
pandas.DataFrame({"what it did": costs})

# %%
# How to be safe? Compare tokens *and* logits of many steps with a reference, in a padded batch as well.
#
# Measured on
# ===========

figures = {
    "positions off by one (% of tokens wrong)": 100 * early / steps,
    "position ids in some steps only (% of tokens wrong)": 100 * jump / steps,
    "mask dropped (% of tokens wrong)": 100 * unmasked / steps,
    "stale file (largest logit difference)": stale,
}
decodeloop.provenance(model=loaded, figures=figures)
