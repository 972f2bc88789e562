"""
.. _l-plot-limit:

========================================
How near to the limit can PyTorch come?
========================================

A decode step cannot take less time than reading the weights does: that is its :term:`limit`. How far is the usual loop
from it, and what brings it nearer? This page climbs one rung at a time, on a model that is large enough for its weights
to matter. Each rung is a few lines, and says first what it should bring.

Setup
=====

You can skip this cell. On a GPU, the shape of `phi-1_5 <https://huggingface.co/microsoft/phi-1_5>`_: 1.4 billion
weights in float16. On a CPU the largest shape of `llama2.c <https://github.com/karpathy/llama2.c>`_: 0.1 billion in
float32. Both have random weights: what they write means nothing, but a step takes as long as with trained ones.
"""

import copy
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
from torch.nn import Linear, functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import decodeloop

FAST = decodeloop.unit_test_going()  # a small model, the same code
on_gpu = torch.cuda.is_available()
if FAST:
    source, count = "bundled, 1 layer", 8
    model = decodeloop.load().model
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]
elif on_gpu:
    source, count = "microsoft/phi-1_5 (random weights)", 64
    model = decodeloop.load("microsoft/phi-1_5", random_weights=True).model
else:
    source, count = "llama2.c, 110 M (random weights)", 16
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 2048}
    shape |= {"num_hidden_layers": 12, "num_attention_heads": 12}
    config = LlamaConfig(**shape, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval()
model.requires_grad_(False)  # nothing is noted for a backward pass
device, layers = model.device, model.config.num_hidden_layers
prompt = torch.arange(3, 27, device=device)[None]
length, endless = prompt.shape[1], {"eos_token_id": None}
half = length + count // 2  # positions in the cache, on average
limit = decodeloop.roofline(model, length=half)
print(f"{source}, {model.dtype}, {device}")
print(f"limit: {limit}")

# %%
# What a step is made of
# ======================
#
# A step multiplies one row with each weight matrix, and has many small operators in between: norms, rotations,
# additions. A product should take as long as reading its matrix. A small operator computes next to nothing; what takes
# time is to *start* it. So we expect a step to take the time of its products, plus the number of other operators times
# the time to start one. Here are both times.
#
# A *CUDA graph* is a recording of everything that some code launches on a GPU. To replay it is a single call, so that
# Python is left out, and starting an operator costs less.


def recorded(fn):
    """Replay what fn launches; on a CPU, which has no such recordings, fn."""
    if not on_gpu:
        return fn
    fn()  # libraries set themselves up at the first call
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fn()
    return graph.replay


def time_of_products(weights, multiply=functional.linear):
    """Seconds to multiply a row with each of the matrices, one by one."""
    rows = [weight.new_ones(1, 1, weight.shape[1]) for weight in weights]

    def multiply_all():
        for row, weight in zip(rows, weights, strict=True):
            multiply(row, weight)

    return decodeloop.measure(recorded(multiply_all)).min


def add_many_times():
    for _ in range(200):
        one.add_(1)


one = torch.ones(1, device=device)
from_python = decodeloop.measure(add_many_times).min / 200
start_one = decodeloop.measure(recorded(add_many_times)).min / 200
linears = [each for each in model.modules() if isinstance(each, Linear)]
products = time_of_products([each.weight for each in linears])
print(f"{len(linears)} products: {1e3 * products:.2f} ms; to start an operator:")
print(f"{1e6 * from_python:.1f} µs from Python, {1e6 * start_one:.1f} µs at best")

# %%
# Rung 1: the usual loop
# ======================
#
# :func:`decodeloop.generate`, the loop of :ref:`l-plot-generate`. Its cache grows with each token, and Python starts
# every operator. On a GPU, it does so while the GPU computes, and the longer of the two is what a step takes.


class Count(TorchDispatchMode):
    """Counts the operators that compute something: a view does not."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def eager(ids, k):
    return decodeloop.generate(model, ids, max_new_tokens=k, **endless)


expected = eager(prompt, count)
past = model(prompt).past_key_values
with Count() as step:
    model(prompt[:, :1], past_key_values=past)
others = step.number - len(linears)
starting = step.number * from_python
best = max(products, starting) if on_gpu else products + others * from_python
rungs = {"eager": (eager, best, model)}
print(f"a step has {step.number} operators; {1e3 * best:.2f} ms expected")

# %%
# Rungs 2 and 3: a step that is always the same, and its recording
# ================================================================
#
# A ``StaticCache`` is a buffer with room for the whole text. Each step writes into it, one position further on. The
# token and its position stand in buffers too, and the step itself chooses the next token. So nothing changes from step
# to step but numbers in memory, and a GPU can replay a recording of it.


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
# Each rung must write the tokens of the first. Loops that add in another order round differently, which decides where
# two tokens are as good as equally likely. So a difference must be such a :term:`near tie`.

scores = model(expected).logits[0, length - 1 : -1].float()
rounding = 32 * torch.finfo(model.dtype).eps * scores.abs().max()


def add_rung(name, run, seconds):
    answer = run(prompt, count)[0, length:]
    for step in (answer != expected[0, length:]).nonzero().flatten()[:1]:
        lost = scores[step].max() - scores[step, answer[step]]
        print(f"{name}: a near tie at token {step}, {lost:.2g} below the best")
        assert lost <= rounding, name
    rungs[name] = run, seconds, model
    print(f"{name}: {1e3 * seconds:.2f} ms expected")


add_rung("static", FixedLoop(model, record=False), best)
if on_gpu:
    add_rung("captured", FixedLoop(model), products + others * start_one)
else:
    print("captured: skipped, since a CPU has no CUDA graphs")

# %%
# Rung 4: fewer operators
# =======================
#
# ``torch.compile`` joins small operators. At best it leaves one before each product, and one for each attention. On a
# CPU it writes C++, for which the machine must have a compiler. Where it fails, the rungs that need it are skipped.


def compiled(model):
    begin = time.perf_counter()
    loop = FixedLoop(torch.compile(model, dynamic=False))
    print(f"compiled in {time.perf_counter() - begin:.0f} s")
    return loop


others = len(linears) + layers
works = True
try:
    add_rung("compiled", compiled(model), products + others * start_one)
except torch._dynamo.exc.BackendCompilerFailed as error:
    works = False
    print("torch.compile fails here:", str(error).partition("\n")[0])

# %%
# Rung 5: fewer products
# ======================
#
# Linear layers that read the same row can be one product, with their matrices on top of one another. The layer that the
# model calls first computes it, and each takes its part. A block of phi reads one row for attention and MLP.


class Part(torch.nn.Module):
    def __init__(self, shared, part, product):
        super().__init__()
        self.shared, self.part, self.product = shared, part, product

    def forward(self, x):
        if self.product is not None:
            weight, bias, multiply = self.product
            self.shared["row"] = multiply(x, weight, bias)
        return self.shared["row"][..., self.part]


def merge(block, names, multiply):
    joined = [block.get_submodule(name) for name in names]
    weight = torch.cat([each.weight for each in joined])
    biases = [each.bias for each in joined]
    bias = None if biases[0] is None else torch.cat(biases)
    shared, start, product = {}, 0, (weight, bias, multiply)
    for name, each in zip(names, joined, strict=True):
        part = slice(start, start + each.out_features)
        block.set_submodule(name, Part(shared, part, product))
        start, product = part.stop, None  # only the first computes
    return weight


q_k_v = [f"self_attn.{name}_proj" for name in "qkv"]
gate_up = ["mlp.gate_proj", "mlp.up_proj"]
alike = {
    "phi": [[*q_k_v, "mlp.fc1"], ["self_attn.dense"], ["mlp.fc2"]],
    "llama": [q_k_v, ["self_attn.o_proj"], gate_up, ["mlp.down_proj"]],
}


def add_merged(name, multiply):
    merged = copy.deepcopy(model)
    weights = [merge(merged, ["lm_head"], multiply)]
    for block in merged.model.layers:
        for names in alike[model.config.model_type]:
            weights.append(merge(block, names, multiply))
    seconds = time_of_products(weights, multiply)
    print(f"{len(weights)} products: {1e3 * seconds:.2f} ms")
    others = len(weights) + layers
    add_rung(name, compiled(merged), seconds + others * start_one)


if works:
    add_merged("merged", functional.linear)

# %%
# Rung 6: faster products
# =======================
#
# Libraries tune their products for many rows, and a single one can leave part of the memory's speed unused. A product
# with one row is a sum of products for each row of the matrix. On a CPU, ``torch.compile`` makes of these words a loop
# that reads the matrix once, on all cores. For a GPU we write the kernel: each program multiplies a few rows of the
# matrix, a piece at a time. `Triton <https://triton-lang.org>`_, which comes with PyTorch for GPUs, compiles it.

if on_gpu:
    import triton
    import triton.language as tl
    from triton.language import constexpr

    @triton.jit
    def kernel(
        x, w, b, y, rows, columns, BIAS: constexpr, H: constexpr, W: constexpr
    ):
        row = tl.program_id(0) * H + tl.arange(0, H)
        total = tl.zeros((H, W), tl.float32)
        for first in range(0, columns, W):
            column = first + tl.arange(0, W)
            vector = tl.load(x + column, mask=column < columns, other=0.0)
            inside = (row < rows)[:, None] & (column < columns)[None, :]
            places = row[:, None] * columns + column[None, :]
            piece = tl.load(w + places, mask=inside, other=0.0)
            total += piece.to(tl.float32) * vector.to(tl.float32)[None, :]
        result = tl.sum(total, axis=1)
        if BIAS:
            result += tl.load(b + row, mask=row < rows, other=0.0)
        tl.store(y + row, result.to(y.dtype.element_ty), mask=row < rows)

    def one_row(x, weight, bias=None):
        rows, columns = weight.shape
        y, width = x.new_empty(1, 1, rows), triton.next_power_of_2(columns)
        width = min(width, 2048)
        height = 4096 // width
        sizes = rows, columns, bias is not None, height, width
        given = x, weight, weight if bias is None else bias, y
        programs = (triton.cdiv(rows, height),)
        kernel[programs](*given, *sizes, num_warps=2, num_stages=4)
        return y
else:

    @torch.compile(dynamic=False)
    def one_row(x, weight, bias=None):
        row = (weight * x.flatten()).sum(-1)
        return (row if bias is None else row + bias)[None, None]


if works:
    add_merged("kernel", one_row)

# %%
# The package, and ONNX Runtime beside it
# =======================================
#
# :class:`decodeloop.TorchDecoder` with ``compile=True`` merges products in other architectures as well. On a GPU it has
# kernels for one row, in attention too. :ref:`l-plot-export` makes a graph of fused operators, which ONNX Runtime runs
# with products of its own. Both are compared with the model by :func:`decodeloop.verify`. With weights of 4 bits
# (:ref:`l-plot-precision`) there are fewer bytes to read, which is another limit. Its tokens are those of other
# weights, and not compared.


def loop_of(decoder):
    return lambda ids, k: decoder.generate(ids, max_new_tokens=k, **endless)


folder = tempfile.TemporaryDirectory()
path, small = Path(folder.name) / "fused.onnx", Path(folder.name) / "int4.onnx"
report = decodeloop.export_onnx(model, path, exporter="fused")
decodeloop.quantize_onnx(path, small, bits=4)
graph, int4 = decodeloop.OnnxDecoder(path), decodeloop.OnnxDecoder(small)
decoders, options = [graph], {"max_new_tokens": count, **endless}
if on_gpu and works:
    package = decodeloop.TorchDecoder(model, compile=True)
    decoders.append(package)
    rungs["TorchDecoder"] = loop_of(package), rungs["kernel"][1], model
else:
    print("TorchDecoder: skipped, since here it has no rung of its own")
for decoder in decoders:
    found = decodeloop.verify(model, decoder, prompt, **options)
    assert found.agrees, found

starting = sum(report.operators.values()) * start_one
less = decodeloop.roofline(int4, length=half)
rungs["ONNX"] = loop_of(graph), limit.seconds + starting, graph
rungs["ONNX, int4"] = loop_of(int4), less.seconds + starting, int4

# %%
# What each rung brought
# ======================
#
# All loops take turns. A *gain* is how much less time a token takes than on the rung before. ONNX is set against the
# first rung, and 4 bits against ONNX. The page stops where a loop beats its limit by more than a
# tenth, for even memory has good moments.

turns = {}
for name, (run, _, _) in rungs.items():
    turns[name] = lambda k, run=run: run(prompt, k)
timings = decodeloop.prefill_and_decode_all(turns, count)
limits, predicted = {}, {}
for name, (_, seconds, what) in rungs.items():
    limits[name] = decodeloop.roofline(what, length=half)
    predicted[name] = 1e3 * seconds
table = timings.table(limits).drop(columns="first token (ms)")
assert (table["share of the limit"] < 1.1).all()

names, measured = list(rungs), table["next token (ms)"]
before = dict(zip(names[1:], names[:-1], strict=True))
before["ONNX"] = "eager"
table["predicted (ms)"] = pandas.Series(predicted)
for name, rung in before.items():
    table.loc[name, "predicted gain"] = predicted[rung] - predicted[name]
    table.loc[name, "measured gain"] = measured[rung] - measured[name]
table.round(2).T

# %%
# A bar is the time of a token. What the rung saved stands beside it in a lighter colour. A diamond is what was
# expected, and the dashed line the limit.

saved = table["measured gain"].fillna(0).clip(lower=0)
figure, ax = plt.subplots(figsize=(6, 0.5 * len(names) + 1.5))
ax.barh(names, measured, label="measured")
ax.barh(names, saved, left=measured, color="C2", alpha=0.4, label="saved")
ax.plot(predicted.values(), names, "D", color="C3", label="expected")
least = [1e3 * limits[name].seconds for name in names]
edges = [place + half for place in range(len(names)) for half in (-0.5, 0.5)]
ax.vlines(least, edges[::2], edges[1::2], ls="--", color="C1", label="limit")
labels = [f"{name}\n{ms:.2f} ms" for name, ms in measured.items()]
ax.set_yticks(range(len(names)), labels)
ax.set(title=f"Time per token, rung by rung\n{source}", xlabel="ms per token")
ax.invert_yaxis()
figure.legend(loc="outside lower center", ncols=4)

# %%
# Where a loop takes longer than expected, something else takes the time. What Python does in a model around its
# operators was not counted, and what is expected of ``torch.compile`` is the best that it could do.
#
# Which should I use?
# ===================
#
# ``TorchDecoder(model, compile=True)`` where a program runs for much longer than it takes to compile, and a graph where
# it starts often. Once a loop is near its limit, neither Python nor the number of operators is in the way any more, and
# only fewer bytes help. On this machine:

share, speed = table["share of the limit"], table["tokens/s"]
for name in share.sort_values(ascending=False).index:
    faster = speed[name] / speed["eager"]
    print(f"{name}: {share[name]:.0%} of its limit,", end=" ")
    print(f"{speed[name]:.0f} tokens/s, {faster:.1f} x eager")

# %%
# Measured on
# ===========

figures = speed.add_suffix(" (tokens/s)")
figures["limit (tokens/s)"] = limits["eager"].tokens_per_second
figures["limit of int4 (tokens/s)"] = limits["ONNX, int4"].tokens_per_second
decodeloop.provenance(model=source, provider=graph, figures=figures)
