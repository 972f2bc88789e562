"""
.. _l-plot-sampling:

=============================
How is the next token chosen?
=============================

A model does not write text. It gives each token of its vocabulary a probability, and something else picks one. This
page looks at the probabilities behind a real answer, shows what temperature, top-k, top-p, min-p and a repetition
penalty do to them, and draws the same tokens with PyTorch and with ONNX. :ref:`l-plot-right-answers` then counts which
choice gives right answers.

.. image:: /drawings/choosing.svg
   :alt: Four steps. First the logits as bars, one for each of eight tokens. Then their probabilities at a temperature
         of 0.7, with marks that show them without it: the large ones have grown. Then three tokens are cut off by top-k
         5, and two more by top-p 0.9. The three that are left are parts of a line from 0 to 1, on which a random number
         picks one.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. Everything runs in float32, on a GPU too:
rounding is then too small to change which token is drawn.
"""

import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
import transformers

import decodeloop
from decodeloop import Sampler

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
print(f"{model.config.vocab_size} tokens to choose from, on {model.device}")

# %%
# A distribution for every token
# ==============================
#
# This prompt leaves everything open, because not even the function's name says what it should do. We let the model
# answer with the likeliest token each time, which is called :term:`greedy`. One pass over the whole text then gives the
# :term:`logits` behind each token, and their softmax is the distribution. Its :term:`entropy` says how unsure the model
# was: 0 bits when one token is certain, 1 bit for the toss of a coin, 6 bits for a die with 64 faces.

prompt = "def f(x):"
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
length = input_ids.shape[1]
greedy = decodeloop.generate(model, input_ids)
print(tokenizer.decode(greedy[0], skip_special_tokens=True))

with torch.no_grad():
    logits = model(greedy).logits[0, length - 1 : -1]  # before each new token
log_probs = logits.log_softmax(dim=-1)
entropy = -(log_probs.exp() * log_probs).sum(dim=-1) / math.log(2)
places = {"least sure": int(entropy.argmax()), "surest": int(entropy.argmin())}
for name, place in places.items():
    likely = log_probs[place].exp().topk(3)
    tokens = [tokenizer.decode(token) for token in likely.indices]
    shares = [f"{share:.1%}" for share in likely.values]
    text = tokenizer.decode(greedy[0, : length + place])
    print(f"{name}, after {text[-12:]!r}:\n  {tokens}, {shares}")

# %%
# A bar for each token of the answer shows where the model had a choice: where none is seen, it was sure.

_, ax = plt.subplots(figsize=(7, 3.2))
ax.bar(range(len(entropy)), entropy.cpu())
ax.set(title="How unsure the model was", xlabel="token of the answer")
ax.set_ylabel("entropy (bits)")
open_tokens = int((entropy > 1).sum())
assert open_tokens < len(entropy) / 3
print(f"At {open_tokens} of {len(entropy)} tokens it was more than 1 bit.")

# %%
# Temperature
# ===========
#
# Where nothing but the likeliest token is taken, the answer is always the same. To get others, we draw a token, each
# with its probability. A :term:`temperature` divides the logits first. Below 1 it makes likely tokens likelier, above 1
# it evens them out. The table has the probability of the likeliest token in both places.

table = pandas.DataFrame(index=places)
for temperature in (0.5, 1.0, 2.0):
    p = (logits / temperature).softmax(dim=-1)
    best = [float(p[place].max()) for place in places.values()]
    table[f"temperature {temperature}"] = [f"{share:.2%}" for share in best]

table

# %%
# Where the model is sure, a high temperature moves some probability from the one token that belongs there to thousands
# of others. That is little at one place, but an answer has many places.
#
# Cut the tail
# ============
#
# The thousands of tokens with next to no probability are the *tail* of the distribution. Three rules cut it off.
# :term:`Top-k <top-k>` keeps the k likeliest tokens. :term:`Top-p <top-p>` keeps the likeliest ones until their
# probabilities sum to p. :term:`Min-p <min-p>` keeps those that are at least min_p times as likely as the likeliest.
# All three fit into a few lines, and these keep the same tokens as the functions of ``transformers`` that
# :class:`decodeloop.Sampler` calls.


def keep(logits, top_k=None, top_p=math.inf, min_p=0.0):
    p, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    kept = (p.cumsum(dim=-1) - p < top_p) & (p >= min_p * p[:, :1])
    if top_k:
        kept[:, top_k:] = False
    return torch.zeros_like(kept).scatter(-1, order, kept)  # unsorted again


rules = {
    "top_k=10": ({"top_k": 10}, transformers.TopKLogitsWarper(10)),
    "top_p=0.9": ({"top_p": 0.9}, transformers.TopPLogitsWarper(0.9)),
    "min_p=0.1": ({"min_p": 0.1}, transformers.MinPLogitsWarper(0.1)),
}
kept = pandas.DataFrame(index=rules, columns=places)
for name, (rule, processor) in rules.items():
    mask = keep(logits, **rule)
    assert torch.equal(mask, processor(None, logits).isfinite())
    kept.loc[name] = [int(mask[place].sum()) for place in places.values()]

assert (kept["surest"] == [10, 1, 1]).all()
assert (kept["least sure"] >= [10, 2, 2]).all()
kept.add_prefix("tokens kept where it is ")

# %%
# Top-k keeps as many tokens where the model is sure of one as where it is open to many. The other two follow the
# distribution: they keep one where it is sure, and more where it is not.
#
# A penalty on repetition
# =======================
#
# A *repetition penalty* makes each token less likely that is in the text already: it divides the logit by the penalty,
# or multiplies a negative one. That is meant for prose that goes round in circles, but programs have good reasons to
# repeat a name. How many tokens of the answer are still the likeliest at their place?

penalty = transformers.RepetitionPenaltyLogitsProcessor(2.0)
stays = 0
for place, row in enumerate(logits):
    processed = penalty(greedy[:, : length + place], row[None])
    stays += int(processed.argmax() == greedy[0, length + place])
share = 100 * stays / len(logits)
assert share < 100
print(f"{stays} of {len(logits)} tokens, or {share:.0f} %, with a penalty of 2")

# %%
# A seed
# ======
#
# To draw a token takes one random number between 0 and 1: lay the probabilities end to end, and see on which token the
# number falls. The :term:`seed` fixes the sequence of these numbers. They come from a generator on the CPU, so they are
# the same whatever runs the model.


@torch.no_grad()
def sample(model, input_ids, eos_token_id, seed, max_new_tokens=100):
    generator = torch.Generator().manual_seed(seed)
    unread, cache = input_ids, None
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        ends = outputs.logits[:, -1].double().softmax(dim=-1).cumsum(dim=-1)
        number = torch.rand(1, 1, dtype=torch.float64, generator=generator)
        unread = torch.searchsorted(ends, number.to(ends.device), right=True)
        input_ids = torch.cat([input_ids, unread], dim=-1)
        if unread.item() == eos_token_id:
            break
    return input_ids


sampled = sample(model, input_ids, tokenizer.eos_token_id, seed=3)
ours = decodeloop.generate(model, input_ids, sampler=Sampler(seed=3))
assert torch.equal(ours, sampled)

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
on_cpu = decodeloop.load(device="cpu", dtype="float32").model
decodeloop.export_onnx(on_cpu, path, exporter="fused")
decoder = decodeloop.OnnxDecoder(path, device="cpu")
assert torch.equal(decoder.generate(input_ids, sampler=Sampler(seed=3)), sampled)

# %%
# PyTorch and ONNX Runtime drew the same tokens. (The graph runs on the CPU, since its attention has no float32 on a
# GPU.) In a batch (:ref:`l-plot-batch`), a list of seeds gives each row its own, and a row gets the tokens that it gets
# alone. Three seeds, three functions, from one prompt:

seeds = [3, 4, 5]
rows = input_ids.expand(len(seeds), -1)
rows = decodeloop.generate(model, rows, sampler=Sampler(seed=seeds))
for seed, row in zip(seeds, rows, strict=True):
    alone = decodeloop.generate(model, input_ids, sampler=Sampler(seed=seed))[0]
    assert torch.equal(row[: len(alone)], alone)
    print(tokenizer.decode(alone, skip_special_tokens=True))

# %%
# The likeliest text
# ==================
#
# Greedy takes the likeliest token each time. Is the result the likeliest text? The probability of an answer is the
# product of those of its tokens, so its logarithm is a sum. :term:`Beam search <beam search>` keeps the best few
# beginnings instead of one, here four. With ``length_penalty=0`` it compares them by these sums at the end.


def log_probability(tokens):
    with torch.no_grad():
        log_probs = model(tokens).logits.log_softmax(dim=-1)[:, length - 1 : -1]
    return float(log_probs.gather(-1, tokens[:, length:, None]).sum())


options = {"length_penalty": 0.0, "max_new_tokens": 100}
beams = model.generate(input_ids, num_beams=4, **options)
likelier = math.exp(log_probability(beams) - log_probability(greedy))
assert likelier > 1
print(f"4 beams found a text {likelier:.0f} times as likely as the greedy one:")
print(tokenizer.decode(beams[0], skip_special_tokens=True))

# %%
# Greedy takes the likeliest token at each place, and still its text is not the likeliest one. But likely and right are
# two things: :ref:`l-plot-right-answers` counts the right ones.
#
# Which should I use?
# ===================
#
# Greedy where one answer is wanted, always the same. Drawing where several are wanted, with a seed where they must be
# the same again. Whoever draws at a temperature above 1 should cut the tail, and top-p and min-p cut it according to
# how sure the model is. On code, leave the repetition penalty off.
#
# Measured on
# ===========

figures = {
    "open to more than 1 bit (% of tokens)": 100 * open_tokens / len(entropy),
    "repetition penalty of 2 (% of tokens that stay first)": share,
    "4 beams against greedy (times as likely)": likelier,
}
decodeloop.provenance(model=loaded, figures=figures)
