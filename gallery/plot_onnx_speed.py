"""
.. _l-plot-onnx-speed:

=============================
Where do the milliseconds go?
=============================

How fast ONNX Runtime runs a model depends on how it is fed and on what stands in the graph. This page starts from the
simplest loop and makes one change at a time, down to 4-bit weights. Each time per token is set beside the least time in
which this machine can read what a step needs, and beside what it costs to start each operator.

Four graphs of one model
========================

:ref:`l-plot-export` tells how a model becomes a graph, :ref:`l-plot-precision` what 8 and 4 bits cost. The graph of
``exporter="dynamo"`` holds PyTorch's operators one by one. In that of ``exporter="fused"`` a whole attention is one
operator, and neighbours are merged. It keeps its KV cache, the keys and values of all earlier tokens, in buffers of
fixed size, into which each step writes.
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

FAST = decodeloop.unit_test_going()  # fewer tokens and sizes, the same code

loaded = decodeloop.load()
model, tokenizer = loaded.model, loaded.tokenizer
on_gpu = model.device.type == "cuda"
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
if FAST:  # one layer is exported sooner, but writes no Python
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]

graphs = {}
for name in ("dynamo", "fused"):
    graphs[name] = folder / f"{name}.onnx"
    decodeloop.export_onnx(model, graphs[name], exporter=name, logits="last")
for bits in (8, 4):
    graphs[f"int{bits}"] = folder / f"int{bits}.onnx"
    decodeloop.quantize_onnx(graphs["fused"], graphs[f"int{bits}"], bits=bits)

for name, path in graphs.items():
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    size = decodeloop.roofline(path).weights / 1e6
    print(f"{name}: {nodes} operators, {size:.1f} MB of weights to read")

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
# - *fused graph*: that of ``exporter="fused"``. Past and present are one buffer.
# - *CUDA graph*, on a GPU: all that a step starts is recorded once, and then started by one call.
# - *int8*, *int4*: the same graph with other weights.
#
# All but the last two must choose PyTorch's tokens. :func:`decodeloop.verify` lets both read the same text, and where
# they differ, says whether the two best tokens were so near that rounding decides.

decoders = {
    "IO binding": decodeloop.OnnxDecoder(graphs["dynamo"]),
    "fused graph": decodeloop.OnnxDecoder(graphs["fused"], cuda_graph=False),
}
if on_gpu:
    decoders["CUDA graph"] = decodeloop.OnnxDecoder(graphs["fused"])
best = list(decoders)[-1]  # the last with the model's own weights

prompt = (
    'def print_prime(n):\n   """\n   Print all primes between 1 and n\n   """'
)
ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
for name, decoder in decoders.items():
    found = decodeloop.verify(model, decoder, ids, max_new_tokens=40)
    print(f"{name}: {found}")
    assert found.agrees

decoders |= {n: decodeloop.OnnxDecoder(graphs[n]) for n in ("int8", "int4")}


def loop(name):
    """A function of a prompt and the number of tokens to write."""
    if name == "numpy feeds":
        session = decoders["IO binding"].session
        return lambda ids, k: numpy_feeds(session, ids, k)
    decoder = decoders[name]
    return lambda ids, k: decoder.generate(
        ids, max_new_tokens=k, eos_token_id=None
    )


loops = {name: loop(name) for name in ("numpy feeds", *decoders)}
text = loops["numpy feeds"](ids, 40).to(model.device)
with torch.no_grad():
    logits = model(text).logits[0, ids.shape[1] - 1 : -1].float()
lost = logits.amax(-1) - logits.gather(-1, text[0, ids.shape[1] :, None])[:, 0]
print(f"numpy feeds: tokens at most {lost.max():.2g} below PyTorch's best logit")
assert lost.max() <= 32 * torch.finfo(model.dtype).eps * logits.abs().max()

# %%
# What does an operator cost that does nothing?
# =============================================
#
# ONNX Runtime has to start each operator: find its inputs and outputs, call its code, on a GPU launch a kernel. We
# chain 500 operators that each negate one number. What they take is this overhead, and nothing else.


def cost_of_starting(count=500):
    info = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Neg", [f"x{i}"], [f"x{i + 1}"])
        for i in range(count)
    ]
    ends = ([info(n, onnx.TensorProto.FLOAT, [1])] for n in ("x0", f"x{count}"))
    chain = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "chain", *ends),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    providers = decoders["IO binding"].providers
    session = onnxruntime.InferenceSession(
        chain.SerializeToString(), providers=providers
    )
    feeds = {"x0": np.ones(1, np.float32)}
    runs = decodeloop.measure(lambda: session.run(None, feeds), repeats=9)
    return runs.min / count


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
    options.profile_file_prefix = str(folder / "profile")
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
    times = pandas.DataFrame(rows, columns=["operator", "dur"])
    times = times.groupby("operator")["dur"]
    columns = {"per step": times.size() / steps, "share": times.sum()}
    columns["share"] /= columns["share"].sum()
    return pandas.DataFrame(columns).sort_values("share", ascending=False)


profiles = {name: profile(path) for name, path in graphs.items()}
operators = {n: round(p["per step"].sum()) for n, p in profiles.items()}
assert operators["fused"] < operators["dynamo"] / 3
top = {n: profiles[n].head(8).reset_index().round(2) for n in ("dynamo", "fused")}
pandas.concat(top, axis=1)

# %%
# *Per step* is how often a step starts such an operator. Most operators of the first graph are small: they cut, turn
# and join what others computed. The second graph has no need of them. What stays are the products with the weights,
# the same work in fewer and larger pieces.
#
# From numpy to 4 bits
# ====================
#
# Now the loops take turns. The :term:`limit` of each is the least time in which this machine can read the weights, as
# they are stored in this graph, and the cache; *share* is how much of that limit a loop reaches. *Start* is the number
# of operators times what starting one costs. That is an estimate and no limit: a CUDA graph starts all of them at once.


def compare(loops, paths, operators, new_tokens):
    runs = {n: lambda k, run=run: run(ids, k) for n, run in loops.items()}
    timings = decodeloop.prefill_and_decode_all(runs, new_tokens)
    half = ids.shape[1] + new_tokens // 2
    limits = [decodeloop.roofline(paths[n], length=half) for n in loops]
    df = pandas.DataFrame(index=list(loops))
    df["operators"] = [operators[paths[n].stem] for n in loops]
    df["MB"] = [limit.bytes / 1e6 for limit in limits]
    df["ms/token"] = [1e3 * t.decode.median for t in timings.values()]
    df["spread"] = [t.decode.spread for t in timings.values()]
    df["start (ms)"] = 1e3 * start * df["operators"]
    df["limit (ms)"] = [1e3 * limit.seconds for limit in limits]
    df["share"] = df["limit (ms)"] / df["ms/token"]
    return df


def plot(df, title):
    _, ax = plt.subplots()
    ax.barh(df.index, df["ms/token"])
    ends = df[["ms/token", "limit (ms)", "start (ms)"]].max(axis=1)
    for y, (end, ms) in enumerate(zip(ends, df["ms/token"], strict=True)):
        ax.annotate(
            f"{ms:.2f} ms",
            (end, y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    ax.plot(df["limit (ms)"], df.index, "D", color="C1", label="limit")
    ax.plot(df["start (ms)"], df.index, "s", color="C2", label="start")
    ax.set(title=title, xlabel="ms per token")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.legend()


paths = {name: decoders.get(name, decoders["IO binding"]).path for name in loops}
df = compare(loops, paths, operators, 16 if FAST else 64)
plot(df, f"Time per token, {loaded.name} model, {model.device.type}")
df.round(3)

# %%
# What did each change bring, and what was to be expected? A change saves the start of the operators that it removes,
# and the reading of the bytes. A difference within the *spread*, which is (slowest - fastest) /
# median, is none.

starts = df["start (ms)"].copy()
if on_gpu:
    starts["CUDA graph":] = 0
gains = pandas.DataFrame(
    {
        "expected (ms)": -(starts + df["limit (ms)"]).diff(),
        "measured (ms)": -df["ms/token"].diff(),
    }
)
gains[1:].rename_axis("change to").round(2) + 0.0  # no -0.0

# %%
# This leaves out what an operator does once it is started, and not every one takes as long to start, so that a gain can
# be more than expected, or less. IO binding saves the copies between host and device; on a
# CPU there are none to save, and to bind takes time on the host.
#
# A longer text
# =============
#
# A step also reads the cache, which grows with the text. We repeat the measurement with longer prompts. The limit
# grows by what it takes to read the bytes that each position adds.

seed = torch.Generator().manual_seed(0)
long = torch.randint(3, model.config.vocab_size, (16, 448), generator=seed)
long = long.to(model.device)
lengths = (24, 448) if FAST else (24, 240, 448)
new = 8 if FAST else 20
runs = {
    (name, n): lambda k, name=name, n=n: loops[name](long[:1, :n], k)
    for name in ("numpy feeds", "IO binding", best)
    for n in lengths
}
timings = decodeloop.prefill_and_decode_all(runs, new)
ms = {run: 1e3 * timing.decode.median for run, timing in timings.items()}
times = pandas.Series(ms).unstack(0)[["numpy feeds", "IO binding", best]]
times.index += new // 2
limits = [decodeloop.roofline(paths[best], length=n) for n in times.index]
times["limit"] = [1e3 * limit.seconds for limit in limits]

ax = times.plot(
    style=["o-", "s--", "^-.", ":"],
    title="Time per token against length of the text",
    xlabel="positions in the cache",
    ylabel="ms per token",
    ylim=(0, None),
)
each = limits[0].cache // times.index[0]
print(f"a position adds {each:,} bytes of keys and values")
for name, column in times.items():
    slope = 1e5 * np.polyfit(times.index, column, 1)[0]
    print(f"{name}: {slope:+.0f} µs per token for each 100 positions")

# %%
# The graph with a growing cache reads the past and writes all of it again, one position longer. The shared cache is
# only read, and one position written. A slope above the limit's is no surprise: attention also computes with what it
# reads.
#
# More rows
# =========
#
# A step reads the weights once, for any number of rows. So several answers at once should cost little more than one,
# until the arithmetic takes longer than the reading. :ref:`l-plot-batch` shows how rows of different lengths share a
# step. Here all are alike, and we count the tokens of all rows. The limit is that of the weights before they are
# quantized.

batches = (1, 16) if FAST else (1, 4, 16)
watched = ["IO binding", best, "int8", "int4"]
runs = {
    (name, rows): lambda k, name=name, rows=rows: loops[name](long[:rows, :24], k)
    for name in watched
    for rows in batches
}
timings = decodeloop.prefill_and_decode_all(runs, new)
per_second = {
    (n, rows): rows / t.decode.median for (n, rows), t in timings.items()
}
speeds = pandas.Series(per_second).unstack(0)[watched]
speeds["limit"] = [
    decodeloop.roofline(
        paths[best], length=24 + new // 2, batch=b
    ).tokens_per_second
    for b in batches
]
ax = speeds.plot(
    style=["o-", "s--", "^-.", "D-", ":"],
    loglog=True,
    title="Tokens per second against rows",
    xlabel="rows of a batch",
    ylabel="tokens/s, all rows",
)
ax.minorticks_off()
ax.set_xticks(batches, map(str, batches))
speeds.rename_axis("rows").round(0)

# %%
# What 4 bits are worth depends on the rows: they save reading, and the more rows share what was read, the less there
# is to save. The numbers must be unpacked all the same.

for rows, row in speeds.iterrows():
    print(
        f"rows: {rows}, int4 has {row['int4'] / row[best]:.2f} x the speed of {best}"
    )

# %%
# Which should I use?
# ===================
#
# numpy feeds to try a graph out. The fused graph with a shared cache to serve a model: the same tokens from far fewer
# operators, and a cache that is not copied; on a GPU, with a CUDA graph. Quantized weights where most of the time
# goes to reading them; where it goes to starting operators, merge these instead. What it came to here:

for name, row in df.sort_values("ms/token").iterrows():
    faster = df["ms/token"]["numpy feeds"] / row["ms/token"]
    print(
        f"{name}: {1e3 / row['ms/token']:.0f} tokens/s, {row['share']:.0%} of its "
        f"limit, {faster:.1f} x numpy feeds"
    )

# %%
# Measured on
# ===========

figures = {f"{name} (tokens/s)": 1e3 / ms for name, ms in df["ms/token"].items()}
figures["limit (tokens/s)"] = 1e3 / df["limit (ms)"][best]
figures["to start one operator (µs)"] = 1e6 * start
decodeloop.provenance(
    model=loaded, provider=decoders["fused graph"], figures=figures
)
