"""
.. _l-plot-many-gpus:

=================
More than one GPU
=================

A model that does not fit on one GPU has to be spread over several, and one that does fit may be faster there, or serve
more users. There are three ways, and this page runs each of them with engines that exist. It tells what each GPU holds
and sends, and computes from bytes, bandwidth and the time of one *all-reduce* when which of them pays off.

Setup
=====

Two processes are used, the *ranks*. With two GPUs or more, each rank has one, and they talk through NCCL. Otherwise
they share the CPU and talk through gloo. Then both read from the same memory, so that nothing becomes faster, but all
of the code is the same.
"""

import copy
import inspect
import json
import os
import tempfile
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
import torch.distributed as dist
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
gpus = torch.cuda.device_count()
here = device = "cuda" if gpus >= 2 else "cpu"
users = (1, 2) if FAST else (1, 2, 16)  # texts that are written at the same time
dtypes = {"bundled": "float32", "llama-small": "float32"}
if device == "cuda" and not FAST:
    dtypes = {"phi-1_5": "float16", "llama-8b": "bfloat16"}
if gpus == 1:
    print("One GPU here, so the two processes share the CPU.")
print(f"2 processes on {device}: {', '.join(dtypes)}")

# %%
# Three ways
# ==========
#
# A colour is a rank, a row is a layer. **Replicas** are whole models, each of which serves other users. In **tensor
# parallelism** each rank has some heads of every attention and some columns of every feed-forward block, so both work
# on the same token at the same time. Each block ends in a sum over the ranks that all of them need, an *all-reduce*:
# two for each layer. With **layers on different devices**, a token passes through one device and then through the
# other, and while one works, the other waits.

_, axes = plt.subplots(1, 3, figsize=(9, 3.4))
titles = "replicas", "tensor parallelism", "layers on different devices"
for ax, title in zip(axes, titles, strict=True):
    for layer in range(4):
        y = 4 - layer
        if title == titles[2]:
            ax.barh(y, 1, 0.6, 0.6, color=f"C{layer // 2}")
        else:
            ax.barh([y, y], 1, 0.6, [0, 1.2], color=["C0", "C1"])
        if title == titles[1]:
            for height in (y - 0.22, y + 0.05):
                ax.plot([0.9, 1.3], [height, height], "C5o-", ms=4)
    if title == titles[2]:
        arrow = {"arrowstyle": "->", "color": "C5"}
        ax.annotate("", (1.1, 2.3), (1.1, 2.7), arrowprops=arrow)
    labels = [f"layer {4 - y}" for y in range(4)]
    ax.set_yticks(range(1, 5), labels)
    ax.set(title=title, xlim=(-0.1, 2.3), xticks=[])
    ax.grid(False)

# %%
# What a rank does
# ================
#
# ``build`` makes the whole model, the same one on every rank. But for the bundled model, weights are random, since time
# and memory depend on the shape alone. ``spread`` hands it to transformers, whose ``from_pretrained`` gives each rank
# its part. Here the weights come from memory. Yours come from a folder: ``AutoModelForCausalLM.from_pretrained(folder,
# distributed_config=DistributedConfig(tp_size=2))``.

shapes = {
    "llama-small": {
        "vocab_size": 3072,
        "hidden_size": 256,
        "intermediate_size": 1024,
    }
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "llama-8b": {"vocab_size": 128256, "hidden_size": 4096}
    | {"intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8},
}


def build(name, dtype, **changes):
    if name == "bundled":
        return decodeloop.load(device=here, dtype=dtype).model
    if name == "phi-1_5":
        shape = {"device": "meta", "random_weights": True}
        config = decodeloop.load("microsoft/phi-1_5", **shape).model.config
    else:
        config = transformers.LlamaConfig(**shapes[name])
    config.update(changes)
    torch.manual_seed(0)
    make = transformers.AutoModelForCausalLM.from_config
    with torch.device(here):
        return make(config, dtype=dtype, trust_remote_code=False).eval()


def spread(model, device_map=None, **sizes):
    how = {"device_map": device_map, "dtype": model.dtype}
    if sizes:
        how["distributed_config"] = transformers.DistributedConfig(**sizes)
    how["state_dict"] = {
        n: tensor.cpu() for n, tensor in model.state_dict().items()
    }
    how["config"] = copy.deepcopy(model.config)
    return type(model).from_pretrained(None, **how).eval()


# %%
# A weight that is split is a ``DTensor``, and ``to_local`` gives the part that is here. What is sent is counted by
# watching the operators of one step.


def bytes_here(model):
    each = [
        p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()
    ]
    return sum(p.nbytes for p in each)


@torch.no_grad()
def sent_in_a_step(model):
    seen = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if any(hasattr(kind, "to_local") for kind in types):
                return NotImplemented  # taken apart, its parts come back here
            for what in ("all_reduce", "allreduce", "all_gather"):
                if "c10d" in operator.namespace and what in operator.name():
                    seen[what.replace("allr", "all_r")] += 1
            return operator(*args, **(kwargs or {}))

    with Counting():
        model(torch.ones(1, 1, dtype=torch.int64, device=here), use_cache=False)
    return dict(seen)


# %%
# The time of an all-reduce alone, in microseconds: a hundred of them one after the other, launched by Python, and on
# GPUs as a decode step has them, within a captured CUDA graph. They are small, so what takes time is not their bytes
# but that all have to meet.


def all_reduce_us(model, rows):
    size = rows, model.config.hidden_size
    numbers = torch.zeros(size, dtype=model.dtype, device=here)

    def hundred():
        for _ in range(100):
            dist.all_reduce(numbers)

    hundred()
    if here == "cpu":
        return {"launched": 1e4 * decodeloop.measure(hundred, device=here).median}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        hundred()  # NCCL's own thread asks the driver meanwhile
    both = {"launched": hundred, "captured": graph.replay}
    times = decodeloop.measure_all(both, device=here)
    graph.reset()
    return {way: 1e4 * timing.median for way, timing in times.items()}


# %%
# The same tokens
# ===============
#
# Before anything is timed, the spread model has to write what one process does. In float32 it must be the same tokens:
# greedily, in a padded batch, and drawn with seeds. Sums over ranks are added up in another order than in one process,
# which half precision can feel, so there :func:`decodeloop.verify` decides. The decode loops are ours as they are:
# :func:`decodeloop.generate` and :class:`decodeloop.TorchDecoder` find out which heads a rank has.


def check_tokens(name):
    whole = build(name, torch.float32, num_hidden_layers=2)
    part = spread(whole, tp_size=2)
    ids = torch.arange(3, 15, device=here).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    padded = {"input_ids": ids, "attention_mask": mask}
    seeds = decodeloop.Sampler(0.8, top_p=0.95, seed=[1, 2])
    with decodeloop.TorchDecoder(part) as decoder:
        for case in ({"input_ids": ids[:1]}, padded, padded | {"sampler": seeds}):
            case |= {"max_new_tokens": 16, "eos_token_id": None}
            want = decodeloop.generate(whole, **case)
            assert torch.equal(decodeloop.generate(part, **case), want)
            assert torch.equal(decoder.generate(**case), want)


def step_seconds(model, engine, rows, count):
    ids = torch.arange(3, 27, device=here).repeat(rows, 1)
    if engine is not model:
        found = decodeloop.verify(
            model, engine, ids[:1], max_new_tokens=4 if FAST else 16
        )
        assert found.agrees, str(found)
    fixed = isinstance(engine, decodeloop.TorchDecoder)

    def run(k):
        given = {"max_new_tokens": k, "eos_token_id": None}
        if fixed:
            return engine.generate(ids, **given)
        return decodeloop.generate(engine, ids, **given)

    timing = decodeloop.prefill_and_decode(run, count, repeats=3, device=here)
    if timing.decode.median > 0:
        return timing.decode.median
    return timing.whole.median / count  # too busy a machine to tell them apart


# %%
# The clock
# =========
#
# What is compared: each way, run by :func:`decodeloop.generate`, by the step over buffers of fixed size, which on a GPU
# is captured, and there by the compiled one too. Replicas share out the users. ``engines`` tells of each how it is made
# and for how many users it is timed.


def engines(model):
    def fixed(each, compile=False):
        options = {"capacity": 128, "cuda_graph": here == "cuda"}
        return decodeloop.TorchDecoder(each, compile=compile, **options)

    part = spread(model, tp_size=2)
    ways = {"one process": model, "replicas": model, "tensor parallel": part}
    for way, each in ways.items():
        texts = users[1:] if way == "replicas" else users
        yield way, "generate", lambda each=each: each, texts
        yield way, "static step", lambda each=each: fixed(each), texts
        if here == "cuda" and not FAST and way != "replicas":
            yield way, "compiled step", lambda each=each: fixed(each, True), (1,)
    if here == "cuda":  # the first process has both GPUs
        yield "layers", "device_map", lambda: spread(model, "balanced"), (1,)
    elif model.config.model_type == "llama":
        yield "layers", "pp_size", lambda: spread(model, pp_size=2), (1,)


# %%
# Where one process works alone, the other waits, and on a CPU it has the threads of both, so that each side of a
# comparison uses the whole machine. What fails on some machine is told, and the others go on.


def on_both(alone, work, *given):
    dist.barrier()
    threads = torch.get_num_threads()
    if alone:
        torch.set_num_threads(min(2 * threads, os.cpu_count()))
    result, error = None, ""
    try:
        if not alone or dist.get_rank() == 0:
            result = work(*given)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    torch.set_num_threads(threads)
    errors = [None, None]
    dist.all_gather_object(errors, error)
    return result, "; ".join(filter(None, errors))


def slowest(seconds):
    both = [None, None]
    dist.all_gather_object(both, seconds or 0.0)
    return max(both)


# %%
# A captured step that holds NCCL's kernels has to be let go of before the group of processes ends, which would wait for
# it for ever: ``close`` does that.


def main(name, dtype):
    check_tokens(name)
    model, count = build(name, getattr(torch, dtype)), 8 if FAST else 32
    facts = {"bytes": bytes_here(model), "steps": []}
    facts["read"] = decodeloop.roofline(model, here, bandwidth=1).weights
    dist.barrier()  # the bandwidth of each rank is measured at the same time
    bandwidth = decodeloop.memory_bandwidth(here, facts["read"])
    facts["bandwidth"] = bandwidth
    us = facts["us"] = {rows: all_reduce_us(model, rows) for rows in users}
    for way, loop, make, texts in engines(model):
        alone, sums = way == "one process" or loop == "device_map", 0
        engine, error = on_both(alone, make)
        fixed = isinstance(engine, decodeloop.TorchDecoder)
        part = engine.model if fixed else engine or model
        if way == "tensor parallel" and not error:
            facts["part"] = bytes_here(part)
            facts["sent"] = facts.get("sent") or sent_in_a_step(part)
            sums = facts["sent"]["all_reduce"]
        for number in texts:
            rows, took = number // 2 if way == "replicas" else number, None
            if not error:
                given = model, engine, rows, count
                took, error = on_both(alone, step_seconds, *given)
            speed = bandwidth * (2 if alone and here == "cpu" else 1)
            size = {"length": 24 + count // 2, "batch": rows}
            least = decodeloop.roofline(
                part, here, bandwidth=speed, **size
            ).seconds
            least += sums * [*us[rows].values()][-1] / 1e6 if sums else 0
            step = {"way": way, "loop": loop, "users": number, "error": error}
            step |= {"ms": 1e3 * slowest(took), "limit": 1e3 * least}
            facts["steps"].append(step)
        if fixed:
            engine.close()
    if dist.get_rank() == 0:
        print(json.dumps(facts))


# %%
# The page writes these functions to a file. :func:`decodeloop.run_ranks` has `torchrun
# <https://docs.pytorch.org/docs/stable/elastic/run.html>`_ start it in two processes, which have joined a group, and
# waits for them, for a limited time. A rank that fails, is killed or hangs is named in an error, and no process is
# left.

HEAD = """
import copy, json, os
from collections import Counter
import torch
import torch.distributed as dist
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
import decodeloop
transformers.utils.logging.disable_progress_bar()
here = "cuda" if torch.cuda.is_available() else "cpu"
"""
folder = tempfile.TemporaryDirectory()
script = Path(folder.name) / "ranks.py"
shared = [build, spread, bytes_here]
measuring = [sent_in_a_step, all_reduce_us, check_tokens, step_seconds]
measuring += [engines, on_both, slowest, main]


def on_ranks(functions, *arguments, **options):
    known = f"FAST, users, shapes = {FAST}, {users}, {shapes}"
    parts = [HEAD, known, *map(inspect.getsource, shared + functions)]
    parts.append(f"{functions[-1].__name__}{arguments!r}")
    script.write_text("\n\n".join(parts))
    said = decodeloop.run_ranks(script, **options)  # 2 ranks
    return json.loads(said.splitlines()[-1])


measured, failures = {}, {}
for name, dtype in dtypes.items():
    try:
        measured[name] = on_ranks(
            measuring, name, dtype, device=device, timeout=330
        )
    except RuntimeError as error:  # told now, raised at the end of the page
        failures[name] = error
        print(textwrap.fill(f"{name}: {error}", 80))

# %%
# What each rank holds and sends
# ==============================
#
# The all-reduces of a step are two for each layer, and one for the embedding where its rows are split too. The logits
# are gathered.

holds = {}
for name, facts in measured.items():
    assert facts["part"] < 0.6 * facts["bytes"]
    holds[name] = {
        "whole model (MB)": facts["bytes"] / 1e6,
        "each rank (MB)": facts["part"] / 1e6,
        "all-reduces of a step": facts["sent"]["all_reduce"],
        "one of them alone (µs)": facts["us"]["1"]["launched"],
        "captured (µs)": facts["us"]["1"].get("captured"),
    }
print(pandas.DataFrame(holds).round(1).to_string())

# %%
# Milliseconds of a step, measured, and the limit in brackets: the bytes that a rank has to read over its bandwidth,
# which both measured at the same time, and the all-reduces, as they took alone.

steps = [
    s | {"model": name} for name in measured for s in measured[name]["steps"]
]
for step in steps:
    if step["error"]:
        what = f"{step['model']}, {step['way']}, {step['loop']}"
        failures[what] = step["error"]
        print(textwrap.fill(f"{what}: {step['error'][:300]}", 80))
steps = pandas.DataFrame([step for step in steps if not step["error"]])
steps["tokens/s"] = 1000 * steps["users"] / steps["ms"]
steps["cell"] = steps["ms"].map("{:.2f}".format) + steps["limit"].map(
    " ({:.2f})".format
)
table = steps.set_index(["model", "way", "loop", "users"])["cell"]
print(table.unstack("users", fill_value="").to_string())

# %%
# The fastest loop of each way:

best = steps.groupby(["model", "users", "way"])["tokens/s"].max()
_, axes = plt.subplots(1, len(measured), figsize=(9, 4), squeeze=False)
for ax, name in zip(axes[0], measured, strict=True):
    best[name].unstack("way").plot.bar(ax=ax, rot=0, logy=True, legend=False)
    ax.set(title=name, xlabel="users", ylabel="tokens per second, of all users")
ax.legend(loc="upper left", fontsize=8)

# %%
# When to use which
# =================
#
# Tensor parallelism over two ranks saves half of the reading and costs its all-reduces. So its step is shorter where
# reading half of the weights takes longer than they do: above a size that follows from the bandwidth, their number and
# their time, all measured above. Two processes on one CPU read the same memory, each at half the speed. Nothing is
# saved there, and no size is large enough.


def one_step(read, facts, sums=0, ranks=1, texts=1):
    speed = facts["bandwidth"] * (2 if ranks == 1 and device == "cpu" else 1)
    talking = sums * [*facts["us"][str(texts)].values()][-1] / 1e6
    return read / ranks / speed + talking


def crossing(facts, sums, texts=1):
    saved = one_step(1e9, facts) - one_step(1e9, facts, ranks=2)
    waiting = one_step(0, facts, sums, 2, texts)
    return waiting / saved if saved > 0 else float("inf")


for name, facts in measured.items():
    print(f"{name} reads {facts['read'] / 1e9:.2f} GB")
    for texts in users:
        size = crossing(facts, facts["sent"]["all_reduce"], texts)
        other = "one process" if texts == 1 else "replicas"
        better = "tensor parallel" if facts["read"] / 1e9 > size else other
        got = best[name][texts]
        print(f"- users: {texts}, crossing: {size:.1f} GB, predicted: {better}")
        print(f"  measured: {got[other]:.0f} tokens/s by {other},", end=" ")
        print(f"{got['tensor parallel']:.0f} by tensor parallelism")

# %%
# The same arithmetic for published shapes of Llama in bfloat16, on two of these devices. With two users, replicas give
# two tokens in the time of one process's step, and tensor parallelism two in that of its own. So the same comparison
# decides, until the all-reduces of many rows, or their arithmetic, begin to count. What does not fit has no choice.

published = {
    "1B": (1.24, 16),
    "3B": (3.21, 28),
    "8B": (8.03, 32),
    "70B": (70.6, 80),
}
facts, predicted = [*measured.values()][-1], {}
for shape, (billions, layers) in published.items():
    read, sums = 2e9 * billions, 2 * layers + 1
    one, two = one_step(read, facts), one_step(read, facts, sums, ranks=2)
    predicted[shape] = {
        "weights (GB)": read / 1e9,
        "crossing (GB)": crossing(facts, sums),
        "one process (ms)": 1e3 * one,
        "tensor parallel (ms)": 1e3 * two,
        "shorter step": "tensor parallel" if two < one else "one process",
    }
print(pandas.DataFrame(predicted).T.to_string(float_format="{:.1f}".format))

# %%
# Five traps
# ==========
#
# These run on the CPU wherever the page does. Each ends in an assertion that fails.
#
# - **No seed.** transformers' own ``generate`` draws on each rank from that rank's generator. The ranks write different
#   texts, silently, and mix them in one cache. Our loops send a seed of the first rank to all.
# - **Heads that do not divide.** Three heads of keys cannot be split between two ranks.
# - **No plan.** How a model is split is written down for each architecture, and not for GPT-2. Some versions of
#   transformers say so; others leave the model whole, without a word.
# - **Stages of a Phi.** ``pp_size`` takes it that the last norm is called ``norm``. In Phi it has another name.
# - **A baseline with other threads.** One process with one rank's threads is half of a machine.


def traps():
    ids, said = torch.arange(3, 15)[None], {}
    phi = build("bundled", torch.float32)
    part = spread(phi, tp_size=2)
    torch.manual_seed(dist.get_rank())
    theirs = part.generate(
        ids, do_sample=True, min_new_tokens=12, max_new_tokens=12
    )
    given = {"max_new_tokens": 12, "eos_token_id": None}
    ours = decodeloop.generate(part, ids, sampler=decodeloop.Sampler(), **given)
    both = [None, None]
    dist.all_gather_object(both, (theirs.tolist(), ours.tolist()))
    assert both[0][1] == both[1][1]
    said["no seed"] = both[0][0] == both[1][0], "the ranks wrote different texts"
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 64}
    odd = spread(build("llama-small", torch.float32, **heads), tp_size=2)
    try:
        decodeloop.generate(odd, ids)
    except ValueError as error:
        said["heads that do not divide"] = False, str(error)
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 64}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    try:
        share = bytes_here(spread(gpt2, tp_size=2)) / bytes_here(gpt2)
        said["no plan"] = share < 0.6, f"each rank has {share:.0%} of the weights"
    except ValueError as error:
        said["no plan"] = False, str(error)
    want = decodeloop.generate(phi, ids, **given)
    staged = decodeloop.generate(spread(phi, pp_size=2), ids, **given)
    said["stages of a Phi"] = torch.equal(staged, want), "other tokens"
    one, two = torch.get_num_threads(), 2 * torch.get_num_threads()
    said["threads"] = one == two, f"{two} threads, and a baseline of {one}"
    if dist.get_rank() == 0:
        print(json.dumps(said))


found = on_ranks([traps], device="cpu", timeout=120)
assert len(found) == 5
for trap, (holds, message) in found.items():
    try:
        assert holds, message
    except AssertionError as error:
        print(textwrap.fill(f"{trap}: {error}", 80))
    else:
        raise RuntimeError(f"{trap}: nothing failed")

# %%
# More ranks than there are GPUs are refused before anything starts. A rank that fails ends the run with its own error,
# while the other one would wait for it for ever.


def one_fails():
    if dist.get_rank() == 1:
        raise KeyError("the second rank cannot go on")
    dist.barrier()


for options in ({"device": "cuda", "ranks": gpus + 1}, {"device": "cpu"}):
    try:
        on_ranks([one_fails], timeout=60, **options)
    except (ValueError, RuntimeError) as error:
        print(textwrap.fill(str(error), 80))
    else:
        raise AssertionError("this should have failed")

# %%
# Which should I use?
# ===================
#
# Replicas, as long as the model fits on one GPU and there are users enough: nothing is sent. Tensor parallelism for a
# model that does not fit, and for one above the crossing; its steps have to be captured, since otherwise each
# all-reduce waits for Python, too. Layers on different devices only make room: they are one ``device_map`` away (extra
# ``spread``), and a user waits as long as on a single GPU, or longer. For many users at once, and beyond one machine,
# there are servers, such as `vLLM <https://docs.vllm.ai/en/latest/serving/parallelism_scaling.html>`_; `transformers
# <https://huggingface.co/docs/transformers/main/en/perf_infer_gpu_multi>`_ says how far its own ways go.

for name in measured:
    for texts in users:
        speeds = best[name][texts]
        print(
            f"{name}, users: {texts}: {speeds.idxmax()}, {speeds.max():.0f} tokens/s"
        )

# %%
# Measured on
# ===========

if failures:
    raise RuntimeError(f"parts of this page failed: {failures}")
figures = {
    f"{name}, {way}, {texts} users (tokens/s)": speed
    for (name, texts, way), speed in best.items()
}
for name, facts in measured.items():
    figures[f"{name}: an all-reduce (µs)"] = [*facts["us"]["1"].values()][-1]
models = [f"{name}, {dtype}" for name, dtype in dtypes.items()]
pair = {"gpus": 2} if device == "cuda" else {}
decodeloop.provenance(device=device, model=models, figures=figures, **pair)
