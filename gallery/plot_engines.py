"""
.. _l-plot-engines:

==========================
Which engine should I use?
==========================

There are many ways to run the same model: ``generate`` with a cache that grows or one that does not, loops of our own
on PyTorch, ONNX Runtime, and `onnxruntime-genai <https://onnxruntime.ai/docs/genai/>`_, which brings its own loop. This
page runs all that this machine has, on one prompt. It asks of each: how long until the first token, how long for each
further one, how far from the machine's limit, are the tokens the same, how much memory, how many lines.

Load the model
==============
"""

import importlib.util
import inspect
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
import transformers

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer tokens, the same code
new_tokens = 24 if FAST else 64

loaded = decodeloop.load()
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
prompt = '''def is_prime(n):
    """Return True if n is a prime number, else False."""
'''
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
written = input_ids.shape[1]  # where the answer begins
print(f"{loaded.name} model, {loaded.weights} weights, {model.dtype}, {device}")
print(f"{written} tokens to read, {new_tokens} to write")

# %%
# The engines
# ===========
#
# Each function here opens an engine and returns ``run(k)``, which writes ``k`` tokens. Opening is not part of the times
# below. No engine stops at the end-of-sequence token, so that all have the same work.
#
# The reference is ``generate``, the loop of the transformers library. Its cache grows with each token. With
# ``cache_implementation="static"`` the cache has a fixed size; on a GPU, ``generate`` then compiles the decode step, at
# the first call.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
greedy = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def generate():
    return lambda k: model.generate(input_ids, max_new_tokens=k, **greedy)


def generate_static():
    options = greedy | {"cache_implementation": "static"}
    return lambda k: model.generate(input_ids, max_new_tokens=k, **options)


# %%
# Our loops on PyTorch. :func:`decodeloop.generate` is the one of :ref:`l-plot-generate`. The cache of
# :class:`decodeloop.TorchDecoder` has a fixed size. On a GPU it records the step once as a *CUDA graph*, the list of
# all kernels that it launches, and replays it with one call per token.

endless = {"eos_token_id": None}


def our_loop():
    return lambda k: decodeloop.generate(
        model, input_ids, max_new_tokens=k, **endless
    )


def our_static_loop():
    decoder = decodeloop.TorchDecoder(model)
    return lambda k: decoder.generate(input_ids, max_new_tokens=k, **endless)


# %%
# ONNX Runtime, with the graph of fused operators that :ref:`l-plot-export` describes; and with its weights in 8 or 4
# bits, of which :ref:`l-plot-precision` says what they cost.


def onnx(bits=None):
    path = folder / "fused.onnx"
    if bits is None:
        decodeloop.export_onnx(model, path, exporter="fused")
    else:
        source, path = path, folder / f"int{bits}.onnx"
        decodeloop.quantize_onnx(source, path, bits=bits)
    decoder = decodeloop.OnnxDecoder(path)
    return lambda k: decoder.generate(input_ids, max_new_tokens=k, **endless)


# %%
# onnxruntime-genai builds its own graph from a checkpoint on disk, and has its loop in C++. The last token of the
# vocabulary becomes its end of sequence: it cannot go on without one. It has a CUDA graph of its own, which its builder
# leaves off; on a GPU we switch it on.


def genai():
    import onnxruntime_genai as og

    transformers.utils.logging.disable_progress_bar()
    checkpoint, out = folder / "checkpoint", folder / "genai"
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | config["rope_parameters"]))
    kind = "-p fp16 -e cuda" if device.type == "cuda" else "-p fp32 -e cpu"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", checkpoint, "-o", out, "-c", folder, *kind.split()]
    subprocess.run(command, check=True, capture_output=True)
    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1
    session = config["model"]["decoder"]["session_options"]
    for provider in session.get("provider_options", []):
        for options in provider.values():  # of CUDA; the CPU has none
            options["enable_cuda_graph"] = "1"
    path.write_text(json.dumps(config))
    opened = og.Model(str(out))

    def run(k):
        params = og.GeneratorParams(opened)
        params.set_search_options(do_sample=False, max_length=written + k)
        generator = og.Generator(opened, params)
        generator.append_tokens(input_ids[0].cpu().numpy().astype("int32"))
        for _ in range(k):
            generator.generate_next_token()
        return torch.tensor(generator.get_sequence(0)[None]).to(device)

    return run


def genai_is_here():
    if importlib.util.find_spec("onnxruntime_genai") is None:
        return False
    import onnxruntime_genai as og

    return device.type == "cpu" or og.is_cuda_available()


# %%
# Do they write the same?
# =======================
#
# Before the clock starts, each engine writes the whole answer once. We count its tokens up to the first that is not
# that of ``generate``. Two engines add numbers in another order, so they round differently. Where the best two tokens
# are nearly tied, rounding may decide. So a first difference is an error unless PyTorch's own score for that token is
# as good as the best, up to rounding: 32 units in the last place. 8 and 4 bits, and genai's graph, are only counted.

engines = {
    "generate": generate,
    "generate, static": generate_static,
    "our loop": our_loop,
    "our static loop": our_static_loop,
    "ONNX, fused": onnx,
    "ONNX, int8": lambda: onnx(bits=8),
    "ONNX, int4": lambda: onnx(bits=4),
}
if genai_is_here():
    engines["genai"] = genai
else:
    print("onnxruntime-genai is not installed for this device: left out.")

runs = {name: opener() for name, opener in engines.items()}
reference = runs["generate"](new_tokens)
with torch.no_grad():
    scores = model(reference).logits[0, written - 1 : -1].float()
rounding = 32 * torch.finfo(model.dtype).eps * scores.abs().max()

same = {}
for name, run in runs.items():
    answer = run(new_tokens)[0, written:]
    equal = answer == reference[0, written:]
    same[name] = int(equal.int().cumprod(0).sum())
    if same[name] < new_tokens and "int" not in name and name != "genai":
        step = same[name]
        lost = scores[step].max() - scores[step, answer[step]]
        print(f"{name}: another token at step {step}, {lost:.2g} below the best")
        assert lost <= rounding, name
print(
    f"the same {new_tokens} tokens:",
    *(n for n in same if same[n] == new_tokens),
    sep="\n- ",
)

# %%
# Side by side
# ============
#
# The engines take turns, five times each. The :term:`limit` is the least time in which this machine can read the
# bytes that a step must read, the weights and the cache: :func:`decodeloop.roofline`. Each engine is held against its
# own bytes, so fewer bits have a higher limit to reach. *First* and *next* are the times per token, *same* was counted
# above, *MB* is what the engine keeps of the model's weights, *lines* the length of its function.

timings = decodeloop.prefill_and_decode_all(runs, new_tokens, repeats=5)
files = {"ONNX, fused": "fused", "genai": "genai/model"}
files |= {f"ONNX, int{bits}": f"int{bits}" for bits in (8, 4)}
half = written + new_tokens // 2


def limit_of(name):
    path = folder / f"{files.get(name)}.onnx"
    ours = name in files and name != "genai"  # genai reads the same weights
    return decodeloop.roofline(path if ours else model, length=half)


def megabytes_of(name):
    if name not in files:
        return model.get_memory_footprint() / 1e6
    return (
        sum(f.stat().st_size for f in folder.glob(f"{files[name]}.onnx*")) / 1e6
    )


def lines_of(name):
    opener = onnx if name.startswith("ONNX") else engines[name]
    return len(inspect.getsource(opener).strip().splitlines())


limits = {name: limit_of(name) for name in runs}
df = pandas.DataFrame(index=list(runs))
df["first (ms)"] = [1e3 * t.prefill.median for t in timings.values()]
df["next (ms)"] = [1e3 * t.decode.median for t in timings.values()]
df["spread"] = [t.decode.spread for t in timings.values()]
df["tokens/s"] = 1e3 / df["next (ms)"]
df["of limit"] = [limits[n].share(t.decode.median) for n, t in timings.items()]
df["same"] = same
df["MB"] = [megabytes_of(name) for name in runs]
df["lines"] = [lines_of(name) for name in runs]
df.round(2)

# %%
# A bar is the speed of an engine, the mark beside it the speed that its own limit would allow. Where the mark is far
# away, the time goes to something else than reading memory: for a model as small as this one, to starting one operator
# after the other.

_, ax = plt.subplots(figsize=(7, 4.5))
speeds = df["tokens/s"][::-1]
ax.barh(speeds.index, speeds)
for y, v in enumerate(speeds):  # within the bar, where no mark is
    ax.annotate(
        f"{v:.0f}",
        (v, y),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color="white",
    )
marks = [limits[name].tokens_per_second for name in speeds.index]
ax.plot(marks, range(len(marks)), "|", color="C1", ms=16, mew=3, label="limit")
ax.set_xscale("log")
ax.set_xlabel("tokens per second (log scale)")
ax.set_title(
    f"Tokens per second of each engine\n{loaded.name} model, {device.type}"
)
ax.margins(x=0.15)
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)

# %%
# What each cannot do
# ===================
#
# - **generate**: little. It has beams, streamers and assistants, and the others are checked against it.
# - **generate, static**: start at once on a GPU, where it compiles first.
# - **our loop**: beam search.
# - **our static loop**: beam search, and models that take no position ids, such as BLOOM.
# - **ONNX, fused**: another model. A graph is exported anew when the weights change, not every architecture has fused
#   operators, and on CUDA they take no float32.
# - **int8 and int4**: give exactly the model's tokens. Check them on your own text.
# - **genai**: choose tokens by rules of your own, which are compiled into it, or run models that its builder does not
#   know.
#
# One of these can be shown in a few lines. In buffers of fixed size, a model cannot tell by the length of its cache
# where in the text a token stands. It has to be told, and one that cannot be told is refused:

config = transformers.BloomConfig(
    vocab_size=64, hidden_size=32, n_layer=1, n_head=4
)
try:
    decodeloop.TorchDecoder(transformers.BloomForCausalLM(config))
except ValueError as error:
    print(textwrap.fill(str(error), 80))
else:
    raise AssertionError("a model without position ids should have been refused")

# %%
# Which should I use?
# ===================
#
# ``generate`` where its features matter more than its speed, and to check any other. The fused graph where speed
# matters, with as few bits as your own text allows. This model is small; :ref:`l-plot-limit` compares loops on a large
# one, and has another of ours, whose step is compiled. The numbers of this run:

exact = [name for name in runs if same[name] == new_tokens]
for what, names in (("the same tokens", exact), ("any tokens", list(runs))):
    best = df["tokens/s"][names].idxmax()
    faster = df["tokens/s"][best] / df["tokens/s"]["generate"]
    print(f"fastest with {what}: {best}, {faster:.1f} x generate")

# %%
# Measured on
# ===========

provider = decodeloop.OnnxDecoder(folder / "fused.onnx")
figures = {f"{name} (tokens/s)": speed for name, speed in df["tokens/s"].items()}
figures["limit (tokens/s)"] = limits["generate"].tokens_per_second
decodeloop.provenance(model=loaded, provider=provider, figures=figures)
