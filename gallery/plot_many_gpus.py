"""
.. _l-plot-many-gpus:

=================
More than one GPU
=================

A model that does not fit on one GPU has to be spread over several, and one that does fit may be faster there, or serve
more users. There are three ways, and this page runs each of them with engines that exist. It counts what each GPU reads
and sends, reckons from bytes, bandwidth and the time of one :term:`all-reduce` which should be the fastest, and
measures it.

.. image:: /drawings/three-ways.svg
   :alt: Two GPUs, three times. As replicas, each has all four layers and a user of its own. In tensor parallelism each
         has half of every layer, with two arrows between them in each, and one user. With layers spread, the first has
         two layers and hands on to the second, which has the other two.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. There are two processes, the *ranks*
(:term:`rank`). With two GPUs or more, each has one. Otherwise they share the CPU and its memory: then no bandwidth is
gained, but all of the code is the same. Weights are random, since time depends on the shape alone.
"""

import inspect
import json
import tempfile
from functools import partial
from pathlib import Path

import pandas
import torch
import transformers

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
transformers.utils.logging.disable_progress_bar()
here = "cuda" if torch.cuda.device_count() >= 2 else "cpu"
names = ["Xenova/llama2.c-stories110M"]
if here == "cuda" and not FAST:
    names = ["microsoft/phi-1_5", "meta-llama/Llama-3.1-8B"]
users, steps = ((1, 2), 8) if FAST else ((1, 8), 16)
home = tempfile.TemporaryDirectory()
threads = max(1, torch.get_num_threads() // 2)  # of a rank
torch.set_num_threads(2 * threads)  # of one process: both sides have as many
print(f"2 processes on {here}: {', '.join(names)}")


def save(name):
    model = decodeloop.load(name, device=here, random_weights=True).model
    if FAST:
        model.model.layers = model.model.layers[:2]
        model.config.num_hidden_layers = 2
    model.save_pretrained(f"{home.name}/{name}")
    return f"{home.name}/{name}"


# %%
# Three ways
# ==========
#
# **Replicas** are whole models, each of which serves other users. In :term:`tensor parallelism` each rank has some
# heads of every attention and some columns of every feed-forward block, so both work on the same token at the same
# time. Attention and feed-forward block each end in a sum over the ranks, an all-reduce, for which both have to meet.
# So there are two for each layer, and mostly one for the embedding. With **layers on different devices**, a token
# passes through one device and then through the other, and while one works, the other waits. transformers does all
# three, and only the way to load a folder differs:


def load(folder, device_map=None, **sizes):
    how = {"device_map": device_map} if device_map else {}
    if sizes:  # tp_size=2: tensor parallelism; pp_size=2: layers in two processes
        how["distributed_config"] = transformers.DistributedConfig(**sizes)
    read = transformers.AutoModelForCausalLM.from_pretrained
    model = read(folder, dtype="auto", trust_remote_code=False, **how).eval()
    return model if how else model.to(here)


# %%
# What a rank sends
# =================
#
# PyTorch's profiler notes what is sent while it runs one step. How long does one all-reduce take?
# :func:`decodeloop.measure_all_reduce` adds up a hundred small tensors, one after the other, as Python launches them,
# and on GPUs also in a captured :term:`CUDA graph`, as a decode step has them. These count: *an all-reduce* below.


@torch.no_grad()
def sent_by(model):
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu]) as seen:
        model(torch.ones(1, 1, dtype=torch.int64, device=here), use_cache=False)
    sent = [event for event in seen.events() if event.name == "c10d::allreduce_"]
    facts = {"all-reduces": len(sent)}
    most = users[1] * model.config.hidden_size, model.dtype
    for way, timing in decodeloop.measure_all_reduce(*most).items():
        facts[f"an all-reduce {way}"] = timing.median
        facts["an all-reduce"] = timing.median  # the captured one on GPUs
    return facts


# %%
# The same tokens, then the clock
# ===============================
#
# Before anything is timed, both ranks together have to write what one process writes, also in a padded batch: in
# float32 the same tokens, and in half precision :func:`decodeloop.verify` decides, since sums over ranks are added up
# in another order. Then :class:`decodeloop.TorchDecoder` times one process, replicas and tensor parallelism; its step
# is captured on a GPU. Such a step holds kernels of NCCL, NVIDIA's library for sending, and has to be freed before the
# ranks end, which ``with`` does. Layers on different devices run in the usual loop, so do not compare their bar.


def check_tokens(whole, decoder):
    ids = torch.arange(3, 15, device=here).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    found = decodeloop.verify(whole, decoder, ids, attention_mask=mask)
    assert found.same_tokens if whole.dtype == torch.float32 else found.agrees


def step_seconds(generate, rows):
    ids = torch.arange(3, 11, device=here).repeat(rows, 1)
    run = partial(generate, ids, eos_token_id=None)
    loop = decodeloop.prefill_and_decode
    timing = loop(lambda k: run(max_new_tokens=k), steps, repeats=3, device=here)
    return max(timing.decode.median, 1e-6)  # noise may be more than a fast run


def on_a_rank(folder):
    whole, part = load(folder), load(folder, tp_size=2)
    facts = {"a rank reads": decodeloop.roofline(part, here, bandwidth=1).weights}
    facts["bandwidth"] = decodeloop.memory_bandwidth(here)  # both ranks at once
    facts |= sent_by(part)
    with decodeloop.TorchDecoder(part) as decoder:
        check_tokens(whole, decoder)
        for n in users:
            facts[f"tensor parallel, {n}"] = step_seconds(decoder.generate, n)
    with decodeloop.TorchDecoder(whole) as decoder:  # one of two replicas
        half = users[1] // 2
        facts[f"replicas, {users[1]}"] = step_seconds(decoder.generate, half)
    if here == "cpu":
        layers = partial(decodeloop.generate, load(folder, pp_size=2))
        facts["layers, 1"] = step_seconds(layers, 1)
    print(json.dumps(facts))


def in_one_process(folder):
    model = load(folder)
    bytes_read = decodeloop.roofline(model, here, bandwidth=1).weights
    facts = {"one process reads": bytes_read}
    with decodeloop.TorchDecoder(model) as decoder:
        for n in users:
            facts[f"one process, {n}"] = step_seconds(decoder.generate, n)
    if here == "cuda":
        layers = partial(decodeloop.generate, load(folder, device_map="balanced"))
        facts["layers, 1"] = step_seconds(layers, 1)
    return facts


# %%
# These functions are the script of a rank, which :func:`decodeloop.run_ranks` starts twice with `torchrun
# <https://docs.pytorch.org/docs/stable/elastic/run.html>`_. A rank that fails, is killed or hangs is named in an error.
# The table has bytes, bytes/s, a count, and seconds. Behind each way is its number of users, whom replicas share.

HEAD = f"""
import json
from functools import partial
import torch, transformers
import decodeloop
here, users, steps = {here!r}, {users}, {steps}
"""


def on_ranks(folder):
    script = Path(home.name) / "rank.py"
    functions = load, sent_by, check_tokens, step_seconds, on_a_rank
    parts = [HEAD, *map(inspect.getsource, functions), f"on_a_rank({folder!r})"]
    script.write_text("\n\n".join(parts))
    said = decodeloop.run_ranks(script, device=here, threads=threads, timeout=200)
    one, other = map(json.loads, said.splitlines()[-2:])
    return {fact: max(one[fact], other[fact]) for fact in one}  # the slower one's


measured = {}
for name in names:
    folder = save(name)
    measured[name] = in_one_process(folder) | on_ranks(folder)
    facts = measured[name]
    assert facts["a rank reads"] < 0.6 * facts["one process reads"]

table = pandas.DataFrame(measured)
ways = [row for row in table.index if ", " in row]
number = [int(way.split(", ")[1]) for way in ways]
speeds = (1 / table.loc[ways]).mul(number, axis=0)  # tokens/s of all users
ax = speeds.plot.barh(title=f"Two processes on {here}: tokens/s", legend=False)
ax.invert_yaxis()
ax.figure.legend(loc="outside lower center")
table.map("{:.3g}".format)  # bytes, and seconds

# %%
# When to use which
# =================
#
# Tensor parallelism over two ranks saves half of the reading, and adds all-reduces. So its step is shorter if reading
# half of the weights takes longer than the all-reduces: above a size, the *crossing*, that follows from the bandwidth
# and from their number and time, measured above, which varies. What else a spread step costs is left out, so even at
# twice the crossing nothing may be gained: believe the last lines, which were measured. Two processes on one CPU share
# its memory: we reckon that nothing is saved there. The last two sizes are published ones.


def crossing(facts, sums):
    """Bytes of the model whose step takes as long in both ways."""
    whole_speed = facts["bandwidth"] * (2 if here == "cpu" else 1)
    saved = 1 / whole_speed - 0.5 / facts["bandwidth"]  # seconds for each byte
    return sums * facts["an all-reduce"] / saved if saved > 0 else float("inf")


sizes = {}
for name, facts in measured.items():
    sizes[name] = facts["one process reads"], facts["all-reduces"]
sizes |= {"Llama 3B": (6.4e9, 57), "Llama 70B": (141e9, 161)}  # in bfloat16
for name, (size, sums) in sizes.items():
    least = crossing(measured.get(name, facts), sums)  # facts of the last model
    way = "tensor parallel" if size > least else "one process, or replicas"
    where = "none" if least == float("inf") else f"{least / 1e9:.1f} GB"
    print(f"{name}: {size / 1e9:.1f} GB; crossing: {where}; so {way}")
for name, facts in measured.items():
    ratio = facts["one process, 1"] / facts["tensor parallel, 1"]
    print(f"{name}: tensor parallel was {ratio:.2f} times as fast as one process")

# %%
# Which should I use?
# ===================
#
# One GPU while a model fits and a step with all users takes hardly longer than with one (:ref:`l-plot-batch`); replicas
# on more GPUs where it grows much. Tensor parallelism for a model that does not fit, and, to answer one user faster,
# for one well above the crossing, if that is measured. Layers on several devices make room only: a user waits as long,
# or longer. What goes wrong: :ref:`l-plot-many-gpus-traps`. Beyond one machine are servers: `vLLM
# <https://docs.vllm.ai/en/latest/serving/parallelism_scaling.html>`_ and `transformers
# <https://huggingface.co/docs/transformers/main/en/perf_infer_gpu_multi>`_ say how far their ways go.
#
# Measured on
# ===========

figures = {}
for name in names:
    figures |= {f"{name}, {w} users (tokens/s)": speeds[name][w] for w in ways}
    figures[f"{name}: an all-reduce (µs)"] = 1e6 * table[name]["an all-reduce"]
gpus = 2 if here == "cuda" else 0
decodeloop.provenance(device=here, model=names, figures=figures, gpus=gpus)
