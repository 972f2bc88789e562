"""
.. _l-plot-onnx-speed:

=============================
Where do the milliseconds go?
=============================

How fast ONNX Runtime runs a model depends on how it is fed and on what stands in the graph. This page starts from the
simplest loop and makes one change at a time, down to 4-bit weights. Each time per token is set beside two limits: the
bytes that a step must read, and the operators that it must start.

Four graphs of one model
========================

:ref:`l-plot-export` tells how a model becomes a graph, :ref:`l-plot-precision` what 8 and 4 bits cost. The graph of
``exporter="dynamo"`` holds PyTorch's operators one by one. In that of ``exporter="gqa"`` a whole attention is one
operator, and neighbours are merged. It keeps its KV cache in buffers of fixed size, into which each step writes.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import pandas
import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer repeats and sizes, the same code

loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
on_gpu = model.device.type == "cuda"
folder = tempfile.TemporaryDirectory()
if FAST and not on_gpu:  # one layer is exported sooner, but writes no Python
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]


def build(model, name, exporters=("dynamo", "gqa")):
    paths = {}
    for graph in exporters:
        paths[graph] = Path(folder.name) / f"{name}-{graph}.onnx"
        decodeloop.export_onnx(model, paths[graph], exporter=graph, logits="last")
    for bits in (8, 4):
        target = Path(folder.name) / f"{name}-int{bits}.onnx"
        paths[f"int{bits}"] = decodeloop.quantize_onnx(
            paths["gqa"], target, bits=bits
        )
    return paths


paths = build(model, "small")
for name, path in paths.items():
    print(
        f"{name}: {len(onnx.load(path, load_external_data=False).graph.node)} nodes,",
        end=" ",
    )
    print(f"{decodeloop.roofline(path).weights / 1e6:.1f} MB of weights to read")

# %%
# The loop to start from
# ======================
#
# ``session.run`` takes numpy arrays and returns numpy arrays. Nothing is simpler. But the whole cache leaves the
# session at each step and is handed back at the next one. On a GPU it travels to the host and back.


def numpy_feeds(session, input_ids, new_tokens):
    tokens = unread = input_ids.cpu().numpy()
    feeds, names = {}, [output.name for output in session.get_outputs()]
    for past in session.get_inputs():
        if past.name.startswith("past"):
            dtype = np.float16 if "float16" in past.type else np.float32
            shape = (len(tokens), past.shape[1], 0, past.shape[3])
            feeds[past.name] = np.zeros(shape, dtype)
    for _ in range(new_tokens):
        total = tokens.shape[1]
        places = np.arange(total - unread.shape[1], total)[None]
        feeds["input_ids"], feeds["attention_mask"] = unread, np.ones_like(tokens)
        feeds["position_ids"] = places.repeat(len(tokens), axis=0)
        outputs = dict(zip(names, session.run(None, feeds), strict=True))
        unread = outputs.pop("logits")[:, -1:].argmax(-1)
        tokens = np.concatenate([tokens, unread], axis=1)
        feeds = {
            n.replace("present", "past_key_values"): v for n, v in outputs.items()
        }
    return torch.from_numpy(tokens)


# %%
# One change at a time
# ====================
#
# :class:`decodeloop.OnnxDecoder` makes the other loops.
#
# - *IO binding*: the same graph. Inputs and outputs are buffers on the device, given by their address.
# - *fused graph*: that of ``exporter="gqa"``. Past and present are one buffer.
# - *CUDA graph*, on a GPU: all that a step starts is recorded once, and then started by one call.
# - *int8*, *int4*: the same graph with other weights.


def make_loops(paths):
    decoders, loops = {}, {}
    if "dynamo" in paths:
        plain = decoders["IO binding"] = decodeloop.OnnxDecoder(paths["dynamo"])
        loops["numpy feeds"] = lambda ids, k: numpy_feeds(plain.session, ids, k)
    fused = decodeloop.OnnxDecoder(paths["gqa"], cuda_graph=False)
    decoders["fused graph"] = fused
    if on_gpu:
        decoders["CUDA graph"] = decodeloop.OnnxDecoder(paths["gqa"])
    for name in ("int8", "int4"):
        decoders[name] = decodeloop.OnnxDecoder(paths[name])

    def decode(decoder):
        options = {"eos_token_id": None}
        return lambda ids, k: decoder.generate(ids, max_new_tokens=k, **options)

    loops |= {name: decode(decoder) for name, decoder in decoders.items()}
    return loops, decoders


loops, decoders = make_loops(paths)
graphs = {name: decoders.get(name, decoders["IO binding"]).path for name in loops}
prompt = (
    'def print_prime(n):\n   """\n   Print all primes between 1 and n\n   """'
)
ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
expected = decodeloop.generate(model, ids, max_new_tokens=60)
exact = [name for name in loops if not name.startswith("int")]
for name in exact:
    got = loops[name](ids, expected.shape[1] - ids.shape[1])
    assert torch.equal(got.to(expected.device), expected), name
print("the same tokens as PyTorch:", ", ".join(exact))

# %%
# What does an operator cost that does nothing?
# =============================================
#
# ONNX Runtime has to start each operator: find its inputs and outputs, call its code, on a GPU launch a kernel. We
# chain 500 operators that each negate one number. What they take is this overhead, and nothing else.


def cost_of_starting(count=500):
    helper, info = onnx.helper, onnx.helper.make_tensor_value_info
    nodes = [
        helper.make_node("Neg", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)
    ]
    ends = (
        [info(name, onnx.TensorProto.FLOAT, [1])] for name in ("x0", f"x{count}")
    )
    chain = helper.make_model(
        helper.make_graph(nodes, "chain", *ends),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    providers = decoders["IO binding"].providers
    session = onnxruntime.InferenceSession(
        chain.SerializeToString(), providers=providers
    )
    feeds = {"x0": np.ones(1, np.float32)}
    return (
        decodeloop.measure(lambda: session.run(None, feeds), repeats=9).min
        / count
    )


start = cost_of_starting()
print(f"to start one operator: {1e6 * start:.2f} µs")

# %%
# Which operators take the time?
# ==============================
#
# ONNX Runtime can write down when each operator started and how long it took. We leave the first run out, the prefill,
# and add up the others by kind of operator. Writing this down slows the model, so only the shares mean something. On a
# GPU it is the time to start the operators, which the GPU then executes later.


def profile(path, steps=8):
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(Path(folder.name) / "profile")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    watched = decodeloop.OnnxDecoder(
        path, session_options=options, cuda_graph=False
    )
    watched.generate(ids, max_new_tokens=1 + steps, eos_token_id=None)
    events = json.loads(Path(watched.session.end_profiling()).read_text())
    begin = [event["ts"] for event in events if event["name"] == "model_run"][1]
    rows = [
        (event["args"]["op_name"], event["dur"])
        for event in events
        if event["name"].endswith("_kernel_time") and event["ts"] >= begin
    ]
    times = pandas.DataFrame(rows, columns=["operator", "dur"]).groupby(
        "operator"
    )["dur"]
    return pandas.DataFrame(
        {
            "per step": times.size() / steps,
            "share": times.sum() / times.sum().sum(),
        }
    ).sort_values("share", ascending=False)


profiles = {graph: profile(path) for graph, path in paths.items()}
top = {g: profiles[g].head(8).reset_index().round(2) for g in ("dynamo", "gqa")}
pandas.concat(top, axis=1)

# %%
# *Per step* is how often a step starts such an operator. Most operators of the first graph are small: they cut, turn
# and join what others computed. The second graph has no need of them. What stays are the products with the weights,
# the same work in fewer and larger pieces.
#
# From numpy to 4 bits
# ====================
#
# Now the loops take turns. For each we know how many operators a step starts and what it reads. *Bytes limit* is the
# time to read the weights, as they are stored in this graph, and the cache, at the speed at which this machine reads a
# large block of memory. *Start limit* is the number of operators times what starting one costs.

operators = {
    graph.name: profiles[name]["per step"].sum() for name, graph in paths.items()
}
assert operators[paths["gqa"].name] < operators[paths["dynamo"].name] / 3


def compare(loops, graphs, ids, new_tokens, operators):
    runs = {
        name: lambda k, loop=loop: loop(ids, k) for name, loop in loops.items()
    }
    timings = decodeloop.prefill_and_decode_all(runs, new_tokens)
    length = ids.shape[1] + new_tokens // 2
    limits = {n: decodeloop.roofline(graphs[n], length=length) for n in loops}
    df = pandas.DataFrame(index=loops)
    df["operators"] = [round(operators[graphs[n].name]) for n in loops]
    df["MB to read"] = [limits[n].bytes / 1e6 for n in loops]
    df["ms/token"] = [1e3 * timings[n].decode.median for n in loops]
    df["fastest"] = [1e3 * timings[n].decode.min for n in loops]
    df["slowest"] = [1e3 * timings[n].decode.max for n in loops]
    df["tokens/s"] = 1e3 / df["ms/token"]
    df["µs/operator"] = 1e3 * df["ms/token"] / df["operators"]
    df["start limit (ms)"] = 1e3 * start * df["operators"]
    df["bytes limit (ms)"] = [1e3 * limits[n].seconds for n in loops]
    df["share of it"] = df["bytes limit (ms)"] / df["ms/token"]
    return df


def plot(df, title):
    _, ax = plt.subplots()
    spread = [df["ms/token"] - df["fastest"], df["slowest"] - df["ms/token"]]
    bars = ax.barh(df.index, df["ms/token"], xerr=spread, ecolor="gray")
    ax.bar_label(bars, [f"{v:.2f} ms" for v in df["ms/token"]], padding=4)
    for column, style in (("bytes limit (ms)", "D"), ("start limit (ms)", "s")):
        ax.plot(
            df[column],
            df.index,
            style,
            color="C1" if style == "D" else "C2",
            label=column,
        )
    ax.set(title=title, xlabel="ms per token")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.legend()


df = compare(loops, graphs, ids, 16 if FAST else 64, operators)
plot(df, f"Time per token, {loaded.name} model, {model.device.type}")
df.round(3)

# %%
# A difference within the whiskers is none. What did each change bring, and how near is each to the bytes limit?

for before, after in zip(df.index, df.index[1:], strict=False):
    saved = df["ms/token"][before] - df["ms/token"][after]
    print(
        f"{before} -> {after}: {'saves' if saved > 0 else 'costs'} {abs(saved):.2f} ms"
    )
cached = df.index[df["share of it"] > 1].tolist()
print("faster than memory can be read:", ", ".join(cached) or "none")

# %%
# A loop can beat the bytes limit: all that a step of this small model reads is a few megabytes, and part of it may
# still lie in the processor's cache from the step before. A large model does not fit there. Far below the limit,
# something else takes the time. *µs/operator* says how much each operator takes on average, whatever it does; compare
# it with what it costs to start one. On a CPU the cache of *numpy feeds* never leaves memory, so binding has nothing
# to save there, and the buffers must be bound anew at each step because they grow.
#
# A longer text
# =============
#
# Weights are read once per step, and so is the cache, which grows with the text. We repeat the measurement with
# longer prompts. The bytes that each position adds, over the speed of memory, give the least slope.

seed = torch.Generator().manual_seed(0)
long = torch.randint(3, model.config.vocab_size, (16, 448), generator=seed)
long = long.to(model.device)
lengths = (24, 448) if FAST else (24, 128, 256, 448)
best = exact[-1]
watched = ["numpy feeds", "IO binding", best]
runs = {
    (name, n): lambda k, name=name, n=n: loops[name](long[:1, :n], k)
    for name in watched
    for n in lengths
}
new = 8 if FAST else 32
timings = decodeloop.prefill_and_decode_all(runs, new)
times = pandas.DataFrame(
    {n: [1e3 * timings[n, m].decode.median for m in lengths] for n in watched}
)
times.index = [n + new // 2 for n in lengths]
limits = [decodeloop.roofline(graphs[best], length=n) for n in times.index]
times["bytes limit"] = [1e3 * limit.seconds for limit in limits]

_, ax = plt.subplots()
for name, style in zip(times, ("o-", "s--", "^-.", ":"), strict=True):
    ax.plot(times.index, times[name], style, label=name)
ax.set_title("Time per token against length of the text")
ax.set_xlabel("positions in the cache")
ax.set_ylabel("ms per token")
ax.set_ylim(0)
ax.legend()

slopes = {n: np.polyfit(times.index, times[n], 1)[0] for n in times}
print(
    f"a position adds {limits[0].cache // times.index[0]:,} bytes of keys and values"
)
for name, slope in slopes.items():
    print(f"{name}: {1e5 * slope:+.0f} µs per token for each 100 positions")

# %%
# The graph with a growing cache reads the past and writes all of it again, one position longer. The shared cache is
# only read, and one position written. Slopes above the limit's are no surprise: a short cache is read in small pieces,
# and attention also computes with it.
#
# More rows
# =========
#
# A step reads the weights once, for any number of rows. So several answers at once should cost little more than one,
# until the arithmetic takes longer than the reading. :ref:`l-plot-batch` shows how rows of different lengths share a
# step. Here all are alike, and we count the tokens of all rows. The limit is that of the weights before they are
# quantized.

batches = (1, 16) if FAST else (1, 2, 4, 8, 16)
watched = ["IO binding", best, "int8", "int4"]
runs = {
    (name, rows): lambda k, name=name, rows=rows: loops[name](long[:rows, :24], k)
    for name in watched
    for rows in batches
}
timings = decodeloop.prefill_and_decode_all(runs, new)
speeds = pandas.DataFrame(
    {
        n: [rows / timings[n, rows].decode.median for rows in batches]
        for n in watched
    },
    index=pandas.Index(batches, name="rows"),
)
bounds = [
    decodeloop.roofline(graphs[best], length=24 + new // 2, batch=rows)
    for rows in batches
]
speeds["bytes limit"] = [bound.tokens_per_second for bound in bounds]

_, ax = plt.subplots()
for name, style in zip(speeds, ("o-", "s--", "^-.", "D-", ":"), strict=True):
    ax.plot(speeds.index, speeds[name], style, label=name)
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set_xticks(batches, map(str, batches))
ax.set_title("Tokens per second against rows")
ax.set_xlabel("rows of a batch")
ax.set_ylabel("tokens/s, all rows")
ax.legend()
speeds.round(0)

# %%
# What 4 bits are worth depends on the rows: they save reading, and the more rows share what was read, the less there
# is to save. The numbers must be unpacked all the same.

for rows in (batches[0], batches[-1]):
    gain = speeds["int4"][rows] / speeds[best][rows]
    print(f"rows: {rows}, int4 has {gain:.2f} x the speed of {best}")

# %%
# At the scale of phi-1_5
# =======================
#
# With 1.4 billion weights, there is more to read at each operator. That asks for a GPU, so this part runs where there
# is one. Random weights of the same shape take the same time. The first two loops are left out: their graph takes long
# to export at this size.

if on_gpu:
    name = "arnir0/Tiny-LLM" if FAST else "microsoft/phi-1_5"
    large = decodeloop.load(name, dtype="float16", random_weights=True).model
    large_paths = build(large, "large", exporters=("gqa",))
    large_loops, large_decoders = make_loops(large_paths)
    found = decodeloop.verify(large, large_decoders[best], ids)
    print(f"{name}, random weights: {found}")
    assert found.same_tokens or found.divergence.near_tie
    nodes = {
        p.name: len(onnx.load(p, load_external_data=False).graph.node)
        for p in large_paths.values()
    }
    large_graphs = {n: decoder.path for n, decoder in large_decoders.items()}
    large_df = compare(large_loops, large_graphs, ids, 16 if FAST else 64, nodes)
    print(large_df.round(3).to_string())
    plot(large_df, f"Time per token, shape of {name}, random weights, cuda")
else:
    print("No GPU here: this part was skipped.")

# %%
# Which should I use?
# ===================
#
# numpy feeds to try a graph out. The fused graph with a shared cache to serve a model: the same tokens from far fewer
# operators, and a cache that is not copied. On a GPU, with a CUDA graph, unless you need to see what each step does.
# Quantized weights where the bytes limit is near, for they lower it; where the start limit is near, merge operators
# instead. What it came to here:

for name, row in df.sort_values("ms/token").iterrows():
    print(
        f"{name}: {row['tokens/s']:.0f} tokens/s, {row['share of it']:.0%} of its bytes "
        f"limit, {df['ms/token']['numpy feeds'] / row['ms/token']:.1f} x numpy feeds"
    )

# %%
# Measured on
# ===========

decodeloop.provenance(
    model=loaded.name, provider=decoders["IO binding"].providers[0]
)
