"""
.. _l-plot-states:

=========================
Models that keep a state
=========================

Most decoders keep the keys and values of every token that they have read (:ref:`l-plot-kv-cache`), so each step reads
more than the one before. Some newer models keep a :term:`state` of fixed size instead, in all layers (Mamba) or in most
of them (Qwen 3.5, LFM2). This page writes such a layer out, shows what the models keep, times their steps by
the length of the text, and goes through what a state cannot do.

.. image:: /drawings/state.svg
   :alt: Six tokens. Above each, a stack of keys and values, which is one higher than the one before. Below, a state of
         the same size at each token, handed on from one to the next.
   :class: drawing

Setup
=====

What is loaded, and where. Nothing in this cell is the topic; skip it. The three models have about as many weights each,
random ones, since time and memory depend on the shape. *Attention* is a Llama. *State* is a Mamba, of twice as many
layers, which have half the weights each. *Both* is a Qwen 3.5, in which three layers of four keep a state.
"""

import copy
import tempfile

import pandas
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
device = "cuda" if torch.cuda.is_available() else "cpu"
h, layers = (64, 4) if FAST else (256, 8) if device == "cpu" else (1024, 16)
lengths = [64, 256, 1024] if FAST else [64, 256, 1024, 4096, 16384]

attends = {"num_hidden_layers": layers, "num_attention_heads": 4}
attends |= {"intermediate_size": h * 8 // 3, "max_position_embeddings": 2**16}
linear = {"head_dim": h // 4, "num_key_value_heads": 4}
for what in ("key", "value"):
    linear[f"linear_num_{what}_heads"] = 4
    linear[f"linear_{what}_head_dim"] = h // 4
shapes = {
    "attention": ("llama", attends),
    "both": ("qwen3_5_text", attends | linear),
    "state": ("mamba", {"num_hidden_layers": 2 * layers}),
}
models = {}
for name, (kind, sizes) in shapes.items():
    config = AutoConfig.for_model(kind, vocab_size=3072, hidden_size=h, **sizes)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    models[name] = model.to(device).eval()
    print(f"{name}: {model.num_parameters() / 1e6:.1f} M weights")

# %%
# A state, in three lines
# =======================
#
# Attention compares the new token's *query* with the key of each earlier token, and adds up their values, weighted by
# how well they fit. Without the softmax of these weights, the sums can be done in another order: instead of keeping
# every key and value, multiply each key with its value, add the product to one matrix, and let the query read that.
# This matrix is the state. Its size depends on the sizes of a key and a value, and not on how many there were. Before a
# token is added, the state is multiplied by a number a little below 1, so that what lies far back fades.

tokens, size, fade = 50, 16, 0.95
query, key, value = torch.randn(3, tokens, size, dtype=torch.float64)


def step_by_step():
    state, outputs = torch.zeros(size, size, dtype=torch.float64), []
    for q, k, v in zip(query, key, value, strict=True):
        state = fade * state + torch.outer(k, v)
        outputs.append(q @ state)
    return torch.stack(outputs)


def all_at_once():
    now = torch.arange(tokens, dtype=torch.float64)
    age = now[:, None] - now
    weights = (query @ key.T) * torch.where(age >= 0, fade**age, 0)
    return weights @ value


assert torch.allclose(step_by_step(), all_at_once())

# %%
# Both compute the same. The second reads a prompt in a few large products, as attention does; the first needs one
# product of the state's size for each new token. In real layers the text itself decides what fades, and how fast
# (`Mamba <https://arxiv.org/abs/2312.00752>`_), and Qwen 3.5 takes out of the state what the new key would have found
# there (`the gated delta rule <https://arxiv.org/abs/2412.06464>`_). Most put a short *convolution* in front, which
# mixes the last few tokens, and keep these as a second, smaller state.
#
# What a model keeps
# ==================
#
# The decode loop is that of :ref:`l-plot-generate`: read what is unread, keep what the model hands back, in
# transformers' cache. Only the argument's name differs where there is no attention.


@torch.no_grad()
def decode(model, text, count):
    name = "cache_params" if model is models["state"] else "past_key_values"
    cache, unread = None, text
    for _ in range(count):
        outputs = model(unread, use_cache=True, **{name: cache})
        cache = getattr(outputs, name)
        unread = outputs.logits[:, -1:].argmax(-1)
        text = torch.cat([text, unread], dim=-1)
    return text, cache


text = torch.randint(3, 3072, (1, 200), device=device)
options = {"max_new_tokens": 8, "eos_token_id": None}
for name, model in models.items():
    written, cache = decode(model, text, 8)
    assert torch.equal(written, decodeloop.generate(model, text, **options))
    kept = decodeloop.cache_to_tensors(cache)
    print(name, *(list(kept[index].shape) for index in (0, 1, -2, -1)))

# %%
# These are shapes of tensors of the first and the last layer. Keys and values have a dimension for the 207 tokens read
# so far, and a state has none. :func:`decodeloop.empty_tensors` makes a cache of any length, so we can count its MiB.


def empty(model, n):
    return decodeloop.empty_tensors(model.config, length=n, device=device)


memory = pandas.DataFrame(index=pandas.Index(lengths, name="tokens so far"))
for name, model in models.items():
    memory[name] = [sum(t.nbytes for t in empty(model, n)) for n in lengths]
memory /= 2**20
assert memory["state"].nunique() == 1
memory.round(2)  # MiB

# %%
# Time per token
# ==============
#
# How long does a step take when the text is already long? Each model goes on from a cache of that length, filled with
# zeros, since the time does not depend on its numbers. The :term:`limit` is the time to read weights and cache once and
# to write the states, at the memory's speed of that moment. How far a step is from it depends on its operators:
# transformers computes a state with many small ones where it finds no kernels, and in float32 the attention of one row
# with few heads keeps few processors of a GPU busy. So look at how the times grow, beside their limits.


def run_from(model, n):
    past = decodeloop.tensors_to_cache(empty(model, n), model.config, length=n)
    text = torch.ones(1, n + 1, dtype=torch.int64, device=device)
    options = {"past_key_values": past, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(model)
    return lambda k: decoder.generate(text, max_new_tokens=k, **options)


cases = {(name, n): run_from(models[name], n) for name in models for n in lengths}
timings = decodeloop.prefill_and_decode_all(cases, 4 if FAST else 16)
steps = {"ms": {}, "limit (ms)": {}}
for (name, n), timing in timings.items():
    limit = decodeloop.roofline(models[name], device, length=n)
    steps["ms"][name, n] = 1000 * timing.decode.median
    steps["limit (ms)"][name, n] = 1000 * limit.seconds
table = pandas.DataFrame(steps).unstack(0).rename_axis("tokens so far")

look = {"loglog": True, "color": ["C0", "C1", "C2"], "ylabel": "ms"}
ax = table["ms"].plot(title="A step, and its limit (dotted)", style="o-", **look)
table["limit (ms)"].plot(ax=ax, style=":", legend=False, **look)
table.round(2)

# %%
# No way back
# ===========
#
# Keys and values can be cut off after any token, so that a wrong guess is taken back. In a state all tokens are added
# up, and none can be taken out. So :func:`decodeloop.crop_cache` refuses, and so does :term:`prompt lookup`
# (:ref:`l-plot-guess-ahead`). The way out is a copy that was made before: from it the text goes on in the same way.

model = models["state"]
written, cache = decodeloop.generate(model, text, return_cache=True, **options)
saved = copy.deepcopy(cache)
try:
    decodeloop.crop_cache(cache, 100)
except ValueError as error:
    print(error)
texts = []
for past in (cache, saved):
    more = options | {"past_key_values": past}
    texts.append(decodeloop.generate(model, written, **more))
assert torch.equal(*texts)

# %%
# The trap of padding
# ===================
#
# In a batch, shorter prompts are padded on the left (:ref:`l-plot-batch`). Attention can leave the padding out in any
# later step. A state must be told of it while it reads, by the mask, since what has been added stays. With the mask, a
# padded row has nearly the :term:`logits` that it has alone. Without it, the padding is part of the text.

ids = text[0, :12].repeat(2, 1)
mask = torch.ones_like(ids)
ids[1, :6] = mask[1, :6] = 0
for name, model in models.items():
    with torch.no_grad():
        alone = model(ids[1:, 6:]).logits[0, -1]
        masked = model(ids, attention_mask=mask).logits[1, -1]
        unmasked = model(ids).logits[1, -1]
    right, wrong = ((row - alone).abs().max() for row in (masked, unmasked))
    assert 100 * right < wrong
    print(f"{name}: off by {right:.0e} with the mask, by {wrong:.1f} without")

# %%
# To ONNX
# =======
#
# In a graph, each state is an input and an output of its own, beside keys and values: ``past_states.0.recurrent``, and
# ``present_states.0.recurrent`` for the next step. A prompt is read in one run: the products of all its tokens at once,
# and the recurrence token by token, in ONNX's loop ``Scan``. :class:`decodeloop.OnnxDecoder` hands the states on.

model, folder = models["both"], tempfile.TemporaryDirectory()
report = decodeloop.export_onnx(model, f"{folder.name}/model.onnx")
with decodeloop.OnnxDecoder(report.path) as decoder:
    padded = options | {"attention_mask": mask}
    assert decodeloop.verify(model, decoder, ids, **padded).agrees
print(*list(report.inputs)[:5], "...")
print(report.checked)

# %%
# Which should I use?
# ===================
#
# Attention for short texts: all three read about as many bytes then, and a cache can be cut and shared. For
# long texts a state saves memory, the more so with many rows, and time from the length on that the table shows. What
# has faded cannot be looked up, so most such models keep attention in a few layers.

n, m, ms, figures = lengths[0], lengths[-1], table["ms"], {}
for name in models:
    few, growth = ms[name][n], ms[name][m] / ms[name][n]
    print(f"{name}: {few:.1f} ms at {n} tokens, {growth:.1f} times that at {m}")
    assert FAST or growth <= 1.2 * ms["attention"][m] / ms["attention"][n]

# %%
# Measured on
# ===========

for name in models:
    figures |= {f"{name}: step at {k} tokens (ms)": ms[name][k] for k in (n, m)}
    figures[f"{name}: limit at {m} tokens (ms)"] = table["limit (ms)"][name][m]
decodeloop.provenance(dtype=torch.float32, figures=figures)
