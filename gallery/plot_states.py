"""
.. _l-plot-states:

=========================
Models that keep a state
=========================

Most decoders keep the keys and values of every token that they have read (:ref:`l-plot-kv-cache`), so each step reads
more than the one before. Some newer models keep a *state* of fixed size instead, in all layers (Mamba) or in most of
them (Qwen 3.5, LFM2, Falcon-H1). This page writes such a layer out, shows what the models keep, times their steps by
the length of the text, and goes through what a state cannot do.

Setup
=====

Three models of about the same number of weights, which are random: no trained one is small enough to come along, and
time and memory depend on the shapes alone. *Attention* is a Llama. *State* is a Mamba, of twice as many
layers, since one of them has half the weights. *Both* is a Qwen 3.5, in which three layers of four keep a state.
"""

import copy
import tempfile

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
device = "cuda" if torch.cuda.is_available() else "cpu"
h, layers = (64, 4) if FAST else (256, 8) if device == "cpu" else (1024, 16)

attends = {"num_hidden_layers": layers, "num_attention_heads": 4}
attends |= {"intermediate_size": h * 8 // 3, "max_position_embeddings": 2**16}
linear = {"head_dim": h // 4, "num_key_value_heads": 4}
linear |= dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4)
linear |= dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), h // 4)
shapes = {
    "attention": ("llama", attends),
    "both": ("qwen3_5_text", attends | linear),
    "state": ("mamba", {"num_hidden_layers": 2 * layers}),
}
models = {}
for name, (kind, options) in shapes.items():
    config = AutoConfig.for_model(kind, vocab_size=3072, hidden_size=h, **options)
    m = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    models[name] = m.to(device).eval()
    print(f"{name}: {sum(p.numel() for p in m.parameters()) / 1e6:.1f} M weights")

# %%
# A state, in three lines
# =======================
#
# Attention compares the new token's *query* with the key of each earlier token, and adds up their values, weighted by
# how well they fit. Leave out the softmax of these weights, and the order of the sums can be changed: instead of
# keeping every key and value, add each key times its value to one matrix, and let the query read that. The matrix is
# the state. Its size depends on the sizes of a key and a value, and not on how many there were. Before a token is
# added, the state is multiplied by a number a little below 1, so that what lies far back fades.

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
# (`Mamba <https://arxiv.org/abs/2312.00752>`_), and Qwen 3.5 also takes out of the state what the new key would have
# found there (`the gated delta rule <https://arxiv.org/abs/2412.06464>`_). Most of them put a short *convolution* in
# front, which mixes the last few tokens, and keep these as a second, smaller state.
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
# These are the tensors of the first and the last layer: keys and values have the 207 tokens read so far as one of
# their dimensions, states do not. :func:`decodeloop.empty_tensors` makes a model's cache for any length, so that its
# memory can be counted without reading that much text.

lengths = [64, 256, 1024] if FAST else [64, 256, 1024, 4096, 16384]


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
# zeros: the time does not depend on what it holds. :class:`decodeloop.TorchDecoder` runs the steps, since its buffers
# stay where they are. The *limit* is the time to read weights and cache once, and to write the states.


def run_from(model, n):
    past = decodeloop.tensors_to_cache(empty(model, n), model.config, length=n)
    text = torch.ones(1, n + 1, dtype=torch.int64, device=device)
    go_on = decodeloop.TorchDecoder(model).generate
    return lambda k: go_on(
        text, past_key_values=past, max_new_tokens=k, eos_token_id=None
    )


cases = {(name, n): run_from(models[name], n) for name in models for n in lengths}
timings = decodeloop.prefill_and_decode_all(cases, 4 if FAST else 16)
ms = pandas.Series({case: 1000 * t.decode.median for case, t in timings.items()})
table = ms.unstack(0)
limit = table.copy()
for a, n in cases:
    least = decodeloop.roofline(models[a], device, length=n)
    limit.loc[n, a] = 1000 * least.seconds

fig, axes = plt.subplots(1, 2, figsize=(9, 4.3))
look = {"loglog": True, "color": ["C0", "C1", "C2"]}
memory.plot(ax=axes[0], title="What is kept", ylabel="MiB", style="o-", **look)
table.plot(ax=axes[1], title="A step", ylabel="ms", style="o-", **look)
limit.plot(ax=axes[1], style=":", **look)
axes[0].set_xlabel("tokens so far")
axes[1].set_xlabel("tokens so far")
axes[1].legend(axes[1].lines[2:4], ["measured", "limit"])
table.rename_axis(index="tokens so far").round(2)  # ms per token

# %%
# No way back
# ===========
#
# Keys and values can be cut off after any token, so a cache can be rewound, and a wrong guess taken back. In a state
# all tokens are added up, and none can be taken out again. So :func:`decodeloop.crop_cache` refuses, and prompt lookup
# (:ref:`l-plot-guess-ahead`) does as well. The way out is a copy, made before. It costs the bytes of the
# state, whatever the length of the text.

model = models["state"]
saved = decode(model, text[:, :100], 1)[1]
try:
    decodeloop.crop_cache(cache, 100)
except ValueError as error:
    print(error)
ways = {
    "a copy of the state": lambda: copy.deepcopy(saved),
    "reading again": lambda: decode(model, text[:, :100], 1),
}
for way, timing in decodeloop.measure_all(ways).items():
    print(f"{way}: {timing}")

# %%
# The trap of padding
# ===================
#
# In a batch, shorter prompts are padded on the left (:ref:`l-plot-batch`). Attention can be told at any time to look
# past the padding; a state must be told while it reads, since what has been added stays. With the mask, a padded row
# writes what it writes alone. Without it, the padding is part of the text.

ids = text[0, :12].repeat(2, 1)
mask = torch.ones_like(ids)
ids[1, :6] = mask[1, :6] = 0
for name, model in models.items():
    alone = decodeloop.generate(model, ids[1:, 6:], **options)[0, 6:]
    for way, given in {"with the mask": mask, "without": None}.items():
        row = decodeloop.generate(model, ids, attention_mask=given, **options)[1]
        print(f"{name}, {way}: {int((row[12:] == alone).sum())} of 8 as alone")

# %%
# To ONNX
# =======
#
# In a graph, each state is an input and an output of its own, beside keys and values: ``past_states.0.recurrent``, and
# ``present_states.0.recurrent`` for the next step. A prompt is read in one run: the products for all of its tokens at
# once, and the recurrence token by token, in ONNX's loop ``Scan``. The export is run beside the model before it is
# written, padded rows included. :class:`decodeloop.OnnxDecoder` hands the states on.

model, folder = models["both"], tempfile.TemporaryDirectory()
report = decodeloop.export_onnx(model, f"{folder.name}/model.onnx")
with decodeloop.OnnxDecoder(report.path) as decoder:
    padded = options | {"attention_mask": mask}
    assert decodeloop.verify(model, decoder, ids, **padded).agrees
folder.cleanup()
print(*list(report.inputs)[:5], "...")
print(f"prefill {report.prefill}, {report.operators['Scan']} loops")
print(report.checked)

# %%
# Which should I use?
# ===================
#
# For short texts a step of all three reads about the same, and the number of its operators decides: without kernels of
# its own, a recurrent layer has more of them than attention. For long texts, and for many rows, of which each has a
# cache of its own, a state saves memory, and in the end time, and these lines say how much here. Where tokens have to
# be taken back, keep copies at the points to return to. A state cannot look up what it let fade, which is why most such
# models keep attention in a few layers.

n, m = lengths[0], lengths[-1]
for name in models:
    growth = table[name][m] / table[name][n]
    share = memory[name][m] / memory["attention"][m]
    print(
        f"{name}: a step takes {growth:.1f} times as long at {m} tokens as at {n};"
    )
    print(f"  there it keeps {100 * share:.1f} % of what attention does")
    assert FAST or growth <= table["attention"][m] / table["attention"][n]

# %%
# Measured on
# ===========

figures = {}
for a in models:
    figures |= {f"{a}: step at {k} tokens (ms)": table[a][k] for k in (n, m)}
    figures[f"{a}: limit at {m} tokens (ms)"] = limit[a][m]
decodeloop.provenance(dtype=torch.float32, figures=figures)
