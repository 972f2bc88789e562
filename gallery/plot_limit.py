"""
.. _l-plot-limit:

========================================
How near to the limit can PyTorch come?
========================================

A decode step cannot take less time than reading the model's weights does: that is its :term:`limit`. How far is the
usual loop from it, and what brings it nearer? This page changes the loop rung by rung, as on a ladder, on a model that
is large enough for its weights to matter. Each rung of PyTorch's says first how long a step should take.

.. image:: /drawings/replay.svg
   :alt: Python starts kernels one by one, with gaps between them. One call replays a recording of them, without gaps.
   :class: drawing

Setup: on a GPU, the shape of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_: 1.4 billion weights in float16. On
a CPU, that of `stories110M <https://github.com/karpathy/llama2.c>`_: 0.1 billion in float32. The weights are random.
What they write means nothing, but their steps take as long. Nothing else in this cell is the topic; skip it.
"""

import tempfile
import time
from functools import partial

import torch
from torch.nn import Linear
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StaticCache

import decodeloop

FAST = decodeloop.unit_test_going()  # a small model, the same code
on_gpu = torch.cuda.is_available()
large = "microsoft/phi-1_5" if on_gpu else "Xenova/llama2.c-stories110M"
source, count = ("bundled", 8) if FAST else (large, 64 if on_gpu else 24)
loaded = decodeloop.load(source, random_weights=not FAST)
model = loaded.model.requires_grad_(False)  # nothing is kept for a backward pass
if FAST:  # one layer is compiled sooner than all
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]
device, layers = model.device, model.config.num_hidden_layers
length, half = 24, 24 + count // 2  # of the prompt; of the cache, on average
prompt = torch.arange(3, 3 + length, device=device)[None]
limit = decodeloop.roofline(model, length=half)
print(f"{source}, {model.dtype}, {device}\nlimit: {limit}")

# %%
# What a step is made of
# ======================
#
# A step multiplies one row with each weight matrix. In between it has many small operators: norms, rotations, sums. We
# expect a product to take as long as it does alone. A small operator computes next to nothing; what takes time is to
# *start* it. So a step should take the time of its products, and for each other operator the time to start one. On a
# GPU, a :term:`CUDA graph` records all :term:`kernels <kernel>` that code starts, and replays them. (A CPU cannot.)


def recorded(fn):
    if not on_gpu:
        return fn  # a CPU has no such recordings
    fn()  # libraries set themselves up at the first call
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fn()
    return graph.replay


def multiply_all():
    return [each(rows[each.in_features]) for each in linears]


def add_many_times():
    for _ in range(200):
        one.add_(1)


linears = [each for each in model.modules() if isinstance(each, Linear)]
one = torch.ones(1, device=device, dtype=model.dtype)
rows = {each.in_features: one.repeat(1, 1, each.in_features) for each in linears}
products = decodeloop.measure(recorded(multiply_all)).min
from_python = decodeloop.measure(add_many_times).min / 200
start_one = decodeloop.measure(recorded(add_many_times)).min / 200
at_best = f"{1e6 * start_one:.1f} µs at best, " if on_gpu else ""
print(f"{len(linears)} products: {1e3 * products:.2f} ms; to start an operator:")
print(f"{at_best}{1e6 * from_python:.1f} µs from Python")

# %%
# Rung 1: the usual loop
# ======================
#
# This is :func:`decodeloop.generate`, the loop of :ref:`l-plot-generate`. Its cache grows with each token, and Python
# starts every operator. On a GPU, it does so while the GPU computes: a step takes at least the longer of the two times.


class Count(TorchDispatchMode):
    number = 0  # operators that compute something: a view does not

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def loop_of(generate):
    return lambda ids, k: generate(ids, max_new_tokens=k, eos_token_id=None)


past = model(prompt).past_key_values
with Count() as step:
    model(prompt[:, :1], past_key_values=past)
others = step.number - len(linears)
starting = step.number * from_python
best = max(products, starting) if on_gpu else products + starting
rungs = {"eager": (loop_of(partial(decodeloop.generate, model)), best)}
print(f"eager: {step.number} operators, {1e3 * best:.2f} ms expected")

# %%
# Rungs 2 and 3: a step that is always the same, and its recording
# ================================================================
#
# A ``StaticCache`` is a buffer with room for the whole text. Each step writes into it, one position further on. Token
# and position are in buffers too, and the step chooses its next token. So from step to step only numbers in memory
# change, and a GPU can replay a recording of it. (A CPU has no rung 3.) Rung 2 may be slower than 1; 3 needs it.


class FixedLoop:
    def __init__(self, forward, record=True):
        self.forward, room = forward, length + count
        self.cache = StaticCache(config=model.config, max_cache_len=room)
        self.places = torch.arange(room, device=device)
        self.token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self.position = torch.zeros_like(self.token)
        self.start(prompt)
        self.step()  # a compiler works at the first call
        self.next = recorded(self.step) if record else self.step

    def start(self, ids):
        self.cache.reset()
        out = model(ids, past_key_values=self.cache, logits_to_keep=1)
        self.token.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        self.position.fill_(ids.shape[1])

    def step(self):
        seen = (self.places <= self.position)[None, None]
        given = {"position_ids": self.position, "attention_mask": seen}
        out = self.forward(self.token, past_key_values=self.cache, **given)
        self.token.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        self.position.add_(1)

    def __call__(self, ids, new_tokens):
        self.start(ids)
        answer = [ids, self.token.clone()]
        for _ in range(new_tokens - 1):
            self.next()
            answer.append(self.token.clone())
        return torch.cat(answer, dim=1)


# %%
# Each token that a rung writes must be the one that the model finds best after the text before it. Loops that add in
# another order round differently, so a token with almost the same logit will do, too: a :term:`near tie`.


def add_rung(name, run, seconds):
    answer = run(prompt, count)
    scores = model(answer).logits[0, length - 1 : -1].float()
    lost = scores.amax(-1) - scores.gather(-1, answer[0, length:, None])[:, 0]
    assert lost.max() <= 32 * torch.finfo(model.dtype).eps * scores.abs().max()
    rungs[name] = run, seconds
    print(f"{name}: {1e3 * seconds:.2f} ms expected")


add_rung("static", FixedLoop(model, record=False), best)
if on_gpu:
    add_rung("captured", FixedLoop(model), products + others * start_one)

# %%
# Rungs 4 and 5: fewer operators, faster products
# ===============================================
#
# ``torch.compile`` joins small operators. At best it leaves one before each product, and one for each attention. A
# :class:`decodeloop.TorchDecoder` with ``compile=True`` also joins products, computes some with kernels for one row
# where that is faster (:ref:`l-plot-kernels`), at best as fast as the limit, and on a GPU attention, too. On a CPU,
# compiling needs a C++ compiler, and no space in Python's path. Where it fails, the page says so.

starting = (len(linears) + layers) * start_one
try:
    begin = time.perf_counter()
    compiled = FixedLoop(torch.compile(model, dynamic=False))
    print(f"compiled in {time.perf_counter() - begin:.0f} s")
    add_rung("compiled", compiled, products + starting)
    fast = loop_of(decodeloop.TorchDecoder(model, compile=True).generate)
    add_rung("TorchDecoder", fast, limit.seconds + starting)
except torch._dynamo.exc.BackendCompilerFailed as error:
    print(f"torch.compile fails here: {type(error.inner_exception).__name__}")

# %%
# ONNX Runtime beside it
# ======================
#
# We run a graph of fused operators (:ref:`l-plot-export`), and the same with weights of 4 bits
# (:ref:`l-plot-precision`). The second has fewer bytes to read, so a limit of its own. Its weights are others, so its
# tokens are not compared.

folder = tempfile.TemporaryDirectory()
path = f"{folder.name}/fused.onnx"
report = decodeloop.export_onnx(model, path, exporter="fused")
small = decodeloop.quantize_onnx(path, f"{folder.name}/int4.onnx", bits=4)
graph, int4 = decodeloop.OnnxDecoder(path), decodeloop.OnnxDecoder(small)
starting = sum(report.operators.values()) * start_one
add_rung("ONNX", loop_of(graph.generate), limit.seconds + starting)
names, less = [*rungs], decodeloop.roofline(int4, length=half)
rungs["ONNX, int4"] = loop_of(int4.generate), less.seconds + starting

# %%
# What each rung brought
# ======================
#
# All loops take turns. A *gain* is how many milliseconds less a token takes than in the column before. A diamond is
# what was expected. (That of 4 bits is in the table only. The limit is measured again.) A longer time than expected
# goes to what we did not count, such as Python, or to slower kernels. Where gray lines overlap, it may be chance.

turns = {name: partial(run, prompt) for name, (run, _) in rungs.items()}
timings = decodeloop.prefill_and_decode_all(turns, count)
limit = decodeloop.roofline(model, length=half)  # again: memory may be faster now
limits = dict.fromkeys(rungs, limit) | {"ONNX, int4": less}
table = timings.table(limits).drop(columns="first token (ms)")
assert FAST or table["share of the limit"].max() < 1.1  # above 1: only noise
table["times eager"] = table["tokens/s"] / table["tokens/s"]["eager"]
table["expected (ms)"] = [1e3 * seconds for _, seconds in rungs.values()]
table["expected gain"] = -table["expected (ms)"].diff()
table["measured gain"] = -table["next token (ms)"].diff()

ax = timings.plot(dict.fromkeys(names, limit), title=f"Rung by rung\n{source}")
ax.plot(1e3 / table["expected (ms)"][names], range(len(names)), "D", color="C3")
(table.round(2) + 0.0).T.astype(object).fillna("")

# %%
# Which should I use?
# ===================
#
# ``TorchDecoder(model, compile=True)`` for a program that runs much longer than it takes to compile; an ONNX graph,
# exported once, for one that is started often, or runs on a CPU. The table says by how much here (on a GPU, *eager*
# depends on the host). Fewer bytes shorten mostly the time that reading takes: see the last two columns.
#
# Measured on
# ===========

figures = table["tokens/s"].add_suffix(" (tokens/s)")
figures["limit (tokens/s)"] = limit.tokens_per_second
figures["limit of int4 (tokens/s)"] = less.tokens_per_second
decodeloop.provenance(model=loaded, provider=graph, figures=figures)
