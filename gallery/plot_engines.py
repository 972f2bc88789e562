"""
.. _l-plot-engines:

==========================
Which engine should I use?
==========================

There are many ways to run the same model: ``generate`` with a cache that grows or one that does not, loops of our own
on PyTorch, ONNX Runtime with several graphs, and `onnxruntime-genai <https://onnxruntime.ai/docs/genai/>`_, which
brings its own loop. This page runs all that this machine has, on one prompt, and asks of each: how long until the first
token, how long for each further one, how far from the machine's limit, are the tokens the same, how much memory, how
many lines.

Load the model
==============
"""

import importlib.util
import inspect
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer tokens, the same code
new_tokens = 24 if FAST else 100

loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
device = model.device
prompt = '''def is_prime(n):
    """Return True if n is a prime number, else False."""
'''
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
print(
    f"{loaded.name} model, {loaded.weights} weights, {model.dtype}, on {device}"
)
print(f"{input_ids.shape[1]} tokens to read, {new_tokens} to write")

# %%
# The engines
# ===========
#
# An engine is opened once and then run; what it takes to open it is not part of the times below. Each function here
# opens one and returns ``run(k)``, which writes ``k`` tokens. All of them ignore the end-of-sequence token, so that
# they have the same work.
#
# The reference is ``generate``, the loop of the transformers library. Its cache grows with each token.

folder = tempfile.TemporaryDirectory()


def generate(**options):
    options |= {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return lambda k: model.generate(input_ids, max_new_tokens=k, **options)


# %%
# With ``cache_implementation="static"`` its cache has a fixed size. On a GPU, ``generate`` then compiles the decode
# step, which takes a minute the first time.


def generate_static():
    return generate(cache_implementation="static")


# %%
# Our loop on PyTorch, :func:`decodeloop.generate`, is the one of :ref:`l-plot-generate`.
# :class:`decodeloop.TorchDecoder` has a cache of fixed size; on a GPU it records the step once as a *CUDA graph*, the
# list of all kernels that it launches, and replays it with one call per token.


def our_loop():
    return lambda k: decodeloop.generate(
        model, input_ids, max_new_tokens=k, eos_token_id=None
    )


def our_static_loop():
    decoder = decodeloop.TorchDecoder(model)
    return lambda k: decoder.generate(
        input_ids, max_new_tokens=k, eos_token_id=None
    )


# %%
# The same loop around ONNX graphs: the plain one, the one with fused operators, and that one with weights of 8 and 4
# bits. :ref:`l-plot-export` tells the first two apart, :ref:`l-plot-precision` what the fewer bits do.


def graph(exporter, bits=None):
    path = Path(folder.name) / f"{exporter}.onnx"
    if not path.exists():
        decodeloop.export_onnx(model, path, exporter=exporter, logits="last")
    if bits:
        source, path = path, path.with_suffix(f".int{bits}.onnx")
        decodeloop.quantize_onnx(source, path, bits=bits)
    return path


def onnx_loop(path):
    decoder = decodeloop.OnnxDecoder(path, device=device)
    return lambda k: decoder.generate(
        input_ids, max_new_tokens=k, eos_token_id=None
    )


def onnx_plain():
    return onnx_loop(graph("dynamo"))


def onnx_fused():
    return onnx_loop(graph("gqa"))


def onnx_int8():
    return onnx_loop(graph("gqa", bits=8))


def onnx_int4():
    return onnx_loop(graph("gqa", bits=4))


# %%
# onnxruntime-genai builds its graph from a checkpoint on disk, and has a loop in C++. It is optional: where it is not
# installed, it is left out of the table.


def genai():
    import json
    import subprocess
    import sys

    import onnxruntime_genai as og

    checkpoint, out = (
        Path(folder.name) / "checkpoint",
        Path(folder.name) / "genai",
    )
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config |= config.get("rope_parameters") or {}
    (checkpoint / "config.json").write_text(json.dumps(config))
    how = (
        ["fp16", "-e", "cuda"] if device.type == "cuda" else ["fp32", "-e", "cpu"]
    )
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", checkpoint, "-o", out, "-c", folder.name, "-p", *how]
    subprocess.run(command, check=True, capture_output=True)
    path = out / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1
    path.write_text(json.dumps(config))
    session = og.Model(str(out))

    def run(k):
        params = og.GeneratorParams(session)
        length = input_ids.shape[1] + k
        params.set_search_options(do_sample=False, max_length=length)
        generator = og.Generator(session, params)
        generator.append_tokens(input_ids[0].cpu().numpy().astype("int32"))
        for _ in range(k):
            generator.generate_next_token()
        return torch.tensor(generator.get_sequence(0)[None]).to(input_ids)

    return run


# %%
# Open them all
# =============
#
# Before the clock starts, each writes the whole answer once, and we count how many of its tokens agree with those of
# ``generate`` before the first that does not. The unquantized ones must agree in all; in float16, two loops round
# differently, so there the first difference must be a *near tie*, two tokens whose scores differ by less than that
# rounding.

engines = {
    "generate": generate,
    "generate, static": generate_static if device.type == "cuda" else None,
    "our loop": our_loop,
    "our static loop": our_static_loop,
    "ONNX, plain": onnx_plain,
    "ONNX, fused": onnx_fused,
    "ONNX, fused, int8": onnx_int8,
    "ONNX, fused, int4": onnx_int4,
    "genai": genai if importlib.util.find_spec("onnxruntime_genai") else None,
}
for name in [name for name, opener in engines.items() if opener is None]:
    del engines[name]
    print(f"{name}: not on this machine")

runs = {name: opener() for name, opener in engines.items()}
reference = runs["generate"](new_tokens)
same = {}
for name, run in runs.items():
    equal = (run(new_tokens) == reference)[0, input_ids.shape[1] :]
    same[name] = int(equal.int().cumprod(0).sum())
    exact = model.dtype == torch.float32 and "int" not in name and name != "genai"
    assert same[name] == new_tokens or not exact, name

if model.dtype != torch.float32:
    found = decodeloop.verify(
        model, graph("gqa"), input_ids, max_new_tokens=new_tokens
    )
    assert found.same_tokens or found.divergence.near_tie, found
same

# %%
# Side by side
# ============
#
# The engines take turns, five times each. The limit is the least time in which this machine's memory gives the bytes
# that a step must read, the weights and the cache: :func:`decodeloop.roofline`. Each engine is held against its own
# bytes, so int4 has a higher limit to reach. *Weights* is what it keeps of the model, *lines* the length of its
# function above.

timings = decodeloop.prefill_and_decode_all(runs, new_tokens, repeats=5)
half = input_ids.shape[1] + new_tokens // 2
bandwidth = decodeloop.memory_bandwidth(device)


def limit_of(name):
    paths = {"ONNX, plain": "dynamo", "ONNX, fused": "gqa"}
    paths |= {f"ONNX, fused, int{b}": f"gqa.int{b}" for b in (8, 4)}
    file = Path(folder.name) / f"{paths.get(name)}.onnx"
    source = file if name in paths else model
    return decodeloop.roofline(source, device, length=half, bandwidth=bandwidth)


def megabytes_of(name):
    source = limit_of(name)
    table = 0 if "int" not in name else model.get_input_embeddings().weight.nbytes
    return (source.weights + table) / 2**20


df = pandas.DataFrame(index=list(runs))
df["first token (ms)"] = [1e3 * t.prefill.median for t in timings.values()]
df["next token (ms)"] = [1e3 * t.decode.median for t in timings.values()]
df["spread"] = [t.decode.spread for t in timings.values()]
df["tokens/s"] = [t.tokens_per_second for t in timings.values()]
df["x generate"] = df["tokens/s"] / df["tokens/s"]["generate"]
df["of limit"] = [limit_of(n).share(t.decode.median) for n, t in timings.items()]
df["same tokens"] = [f"{n} of {new_tokens}" for n in same.values()]
df["weights (MiB)"] = [megabytes_of(name) for name in runs]
df["lines"] = [
    len(textwrap.dedent(inspect.getsource(engines[name])).splitlines())
    for name in runs
]
df.round(2)

# %%
# A bar is the speed of an engine, the mark above it the speed that its own limit would allow. A mark far above its
# bar says that the time goes to something else than reading memory: for a model as small as this one, to starting one
# operator after the other.

_, ax = plt.subplots(figsize=(7, 4.5))
speeds = df["tokens/s"][::-1]
bars = ax.barh(speeds.index, speeds)
ax.bar_label(bars, [f"{v:.0f}" for v in speeds], padding=4)
limits = [limit_of(name).tokens_per_second for name in speeds.index]
ax.plot(limits, range(len(limits)), "|", color="C1", markersize=16, label="limit")
ax.set_xscale("log")
ax.set_xlabel("tokens per second (log scale)")
ax.set_title(
    f"Tokens per second of each engine\n{loaded.name} model, {device.type}"
)
ax.margins(x=0.15)
ax.legend(loc="upper right")

# %%
# What each cannot do
# ===================
#
# Speed is one column. A graph is made for one model and must be exported again when its weights change; a fixed cache
# asks for layers that keep every position; a loop in C++ chooses tokens by the rules that it was compiled with.

cannot = {
    "generate": "little: beams, streamers, assistants; it is what the others are checked against",
    "generate, static": "start at once: each new shape is compiled",
    "our loop": "beam search",
    "our static loop": "sliding windows, beam search",
    "ONNX, plain": "change the model; beam search",
    "ONNX, fused": "every architecture; float32 on CUDA; several tokens on at once for a batch",
    "ONNX, fused, int8": "the same; and it is another model, if only slightly",
    "ONNX, fused, int4": "the same; check the quality on your own text",
    "genai": "logits processors of your own; architectures its builder does not know",
}
pandas.DataFrame(
    {"cannot do": {name: cannot[name] for name in runs}}
).style.set_properties(**{"text-align": "left"})

# %%
# One of these can be shown in a few lines. A static cache refuses a model whose layers forget, and says what to use:

from transformers import MistralConfig, MistralForCausalLM

sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
config = MistralConfig(
    **sizes,
    vocab_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    sliding_window=8,
)
try:
    decodeloop.TorchDecoder(MistralForCausalLM(config))
except ValueError as error:
    print(error)
else:
    raise AssertionError("a sliding window should have been refused")

# %%
# At the scale of phi-1_5
# =======================
#
# A model of 1.4 billion weights has more to read than to start. On a GPU, the same comparison at that size; elsewhere
# it would take too long.

if torch.cuda.is_available():
    name = "arnir0/Tiny-LLM" if FAST else "microsoft/phi-1_5"
    large = decodeloop.load(name, dtype=torch.float16, random_weights=True).model
    ids = torch.arange(3, 27, device=device)[None]
    path = Path(folder.name) / "large.onnx"
    decodeloop.export_onnx(large, path, exporter="gqa")
    options = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    static, fused = decodeloop.TorchDecoder(large), decodeloop.OnnxDecoder(path)
    large_runs = {
        "generate": lambda k: large.generate(ids, max_new_tokens=k, **options),
        "our static loop": lambda k: static.generate(
            ids, max_new_tokens=k, eos_token_id=None
        ),
        "ONNX, fused": lambda k: fused.generate(
            ids, max_new_tokens=k, eos_token_id=None
        ),
    }
    found = decodeloop.verify(large, fused, ids, eos_token_id=None)
    assert found.same_tokens or found.divergence.near_tie, found
    times = decodeloop.prefill_and_decode_all(large_runs, new_tokens, repeats=5)
    limit = decodeloop.roofline(large, device, length=24 + new_tokens // 2)
    print(f"{name}, random weights: {limit}")
    for engine, t in times.items():
        share = limit.share(t.decode.median)
        print(
            f"{engine}: {t.tokens_per_second:.0f} tokens/s, {share:.0%} of the limit"
        )
else:
    print("No GPU here: this part was skipped.")

# %%
# Which should I use?
# ===================
#
# ``generate`` where its features matter more than its speed, and to check any other. A graph where speed matters: the
# fused one, with as few bits as your own text allows. The numbers of this run:

exact = [name for name in runs if same[name] == new_tokens]
fastest = df["tokens/s"][exact].idxmax()
print(
    f"the same tokens fastest: {fastest}, {df['x generate'][fastest]:.1f} x generate"
)
fastest = df["tokens/s"].idxmax()
print(f"fastest of all: {fastest}, {df['x generate'][fastest]:.1f} x generate")

# %%
# Measured on
# ===========

decodeloop.provenance(model=loaded.name)
