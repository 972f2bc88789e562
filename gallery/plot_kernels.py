"""
.. _l-plot-kernels:

===============================
How long must a product take?
===============================

Nearly all that a decode step reads are weight matrices, and it multiplies one row with each. Such a product reads every
weight once and does next to nothing with it, so it should take as long as reading does. This page measures what the
libraries' products take, makes fewer and larger ones of them, writes a :term:`kernel` for a single row in twenty lines,
and then looks at what that brings in a step.

.. image:: /drawings/row-times-matrix.svg
   :alt: A row times three matrices: as three products, each of which has to be started, and as one over all of them.
   :class: drawing

Setup, as on :ref:`l-plot-limit`. Nothing in this cell is the topic; skip it.
"""

import copy

import torch
from torch.nn import functional

import decodeloop

FAST = decodeloop.unit_test_going()  # a small model, the same code
on_gpu = torch.cuda.is_available()
large = "microsoft/phi-1_5" if on_gpu else "Xenova/llama2.c-stories110M"
source, count = ("bundled", 8) if FAST else (large, 64 if on_gpu else 8)
loaded = decodeloop.load(source, random_weights=not FAST)
model = loaded.model.requires_grad_(False)  # nothing is kept for a backward pass
prompt = torch.arange(3, 27, device=model.device)[None]

# %%
# The products of a step
# ======================
#
# Which linear layers read the same row? In a block of Llama, those of queries, keys and values do, and so do *gate* and
# *up*, the first of its MLP. In a block of phi, attention and MLP work side by side and read one row.

q_k_v = [f"self_attn.{name}_proj" for name in "qkv"]
if model.config.model_type == "phi":
    alike = [[*q_k_v, "mlp.fc1"], ["self_attn.dense"], ["mlp.fc2"]]
else:
    gate_up = ["mlp.gate_proj", "mlp.up_proj"]
    alike = [q_k_v, ["self_attn.o_proj"], gate_up, ["mlp.down_proj"]]


def groups(model):
    """Names of linear layers that read the same row, each with their parent."""
    yield model, ["lm_head"]
    for block in model.model.layers:
        for names in alike:
            yield block, names


linears = []
for parent, names in groups(model):
    linears += [parent.get_submodule(name) for name in names]
print(f"{source}, {model.dtype}, {model.device}")
print(f"{len(linears)} products, of {len(list(groups(model)))} different rows")

# %%
# We multiply a row with all matrices, one after the other, as a step does, and leave out all that is between. So each
# weight is read from where a step finds it. A GPU replays a recording, a :term:`CUDA graph`, which leaves out the time
# that Python takes. A product is given as a pair: a function of a row, and the length of that row.


def multiply_all(products):
    new_row = model.lm_head.weight.new_ones
    calls = [(product, new_row(1, 1, length)) for product, length in products]

    @torch.no_grad()
    def run():
        return [product(row) for product, row in calls]

    run()  # libraries and compilers set themselves up
    if not on_gpu:
        return run
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


models = {"separate": model}
ways = {"separate": multiply_all([(each, each.in_features) for each in linears])}

# %%
# Fewer products
# ==============
#
# Products of the same row become one, with their matrices on top of one another. The bytes are the same, but there are
# fewer operators to start, and a larger matrix keeps all of a GPU busy for longer. Of the layers that are joined, the
# first that the model calls computes the product, and each takes its part of the result.


class Joined:
    def __init__(self, layers, multiply):
        self.weight = torch.cat([each.weight for each in layers])
        biases = [each.bias for each in layers]
        self.bias = None if biases[0] is None else torch.cat(biases)
        self.multiply, self.result = multiply, None

    def __call__(self, x):
        return self.multiply(x, self.weight, self.bias)


class Part(torch.nn.Module):
    def __init__(self, joined, part):
        super().__init__()
        self.joined, self.part = joined, part

    def forward(self, x):
        if self.part.start == 0:  # the first one called
            self.joined.result = self.joined(x)
        return self.joined.result[..., self.part]


def merge(model, multiply):
    """A copy of the model with joined layers, and its products."""
    model, products = copy.deepcopy(model), []
    for parent, names in groups(model):
        layers = [parent.get_submodule(name) for name in names]
        joined, start = Joined(layers, multiply), 0
        products.append((joined, layers[0].in_features))
        for name, each in zip(names, layers, strict=True):
            columns = slice(start, start + each.out_features)
            parent.set_submodule(name, Part(joined, columns))
            start = columns.stop
    return model, products


models["joined"], products = merge(model, functional.linear)
ways["joined"] = multiply_all(products)

# %%
# A kernel for one row
# ====================
#
# Libraries tune products for many rows, and with a single one may leave part of the memory's speed unused. With one
# row, each number of the result belongs to a row of the matrix: the two rows are multiplied and summed up. On a CPU we
# write just that, and ``torch.compile`` makes one loop of it: faster than a library's on some CPUs, slower on others.
# For a GPU we write a kernel in `Triton <https://triton-lang.org>`_. Many copies of it, the *programs*, run at once.
# Each takes ``H`` rows of the matrix, ``W`` columns of them at a time, adds up in float32, and stores ``H`` numbers.

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

    def one_row(x, weight, bias):
        rows, columns = weight.shape
        width = min(2048, triton.next_power_of_2(columns))
        y, height = x.new_empty(1, 1, rows), 4096 // width
        sizes = rows, columns, bias is not None, height, width
        given = x, weight, weight if bias is None else bias, y
        programs = triton.cdiv(rows, height)
        kernel[(programs,)](*given, *sizes, num_warps=2, num_stages=4)
        return y
else:

    @torch.compile(dynamic=False)
    def one_row(x, weight, bias):
        row = (weight * x.flatten()).sum(-1)
        return (row if bias is None else row + bias)[None, None]


def multiply(x, weight, bias):
    if x.shape[1] > 1:  # a prompt has many rows
        return functional.linear(x, weight, bias)
    return one_row(x, weight, bias)


try:
    with_kernel, products = merge(model, multiply)
    ways["kernel"] = multiply_all(products)
    models["kernel"] = with_kernel
except torch._dynamo.exc.BackendCompilerFailed as error:
    print(f"torch.compile fails here: {type(error.inner_exception).__name__}")

# %%
# How fast are they? All ways take turns. The :term:`limit` is reading the weights at the memory's speed of this moment.

limit = decodeloop.roofline(model)
alone = decodeloop.measure_all(ways)
alone.plot(limit, title=f"All products of a step\n{source}, {model.device.type}")
speeds = alone.table(limit)
speeds["GB/s"] = limit.weights / 1e6 / speeds["median (ms)"]
speeds.round(2)

# %%
# In a step
# =========
#
# Each model is run by a :class:`decodeloop.TorchDecoder`, which records its steps on a GPU. It must write the tokens of
# the model as it was, up to a :term:`near tie`. Then all take turns. A gain is how much less time a step takes than in
# the way before; the expected one is what its products gained. A gain of a smaller share than the spread is noise.

decoders = {name: decodeloop.TorchDecoder(each) for name, each in models.items()}
options = {"max_new_tokens": count, "eos_token_id": None}
for decoder in decoders.values():
    assert decodeloop.verify(model, decoder, prompt, **options).agrees


def loop_of(decoder):
    return lambda k: decoder.generate(prompt, **(options | {"max_new_tokens": k}))


turns = {name: loop_of(decoder) for name, decoder in decoders.items()}
timings = decodeloop.prefill_and_decode_all(turns, count)
in_step = decodeloop.roofline(model, length=prompt.shape[1] + count // 2)
table = timings.table(in_step).drop(columns="first token (ms)")
table["expected gain (ms)"] = -speeds["median (ms)"].diff()
table["measured gain (ms)"] = -table["next token (ms)"].diff()
(table.round(2) + 0.0).T.astype(object).fillna("")

# %%
# Which should I use?
# ===================
#
# A library's product, unless it is far from the limit for sizes that you have. ``TorchDecoder(model, compile=True)``
# joins products, and takes a CPU's faster way, or a GPU kernel with norms and gates in it: :ref:`l-plot-limit`.
#
# Measured on
# ===========

figures = table["tokens/s"].add_suffix(" (tokens/s)")
for name, each in speeds["GB/s"].items():
    figures[f"products, {name} (GB/s)"] = each
decodeloop.provenance(model=loaded, figures=figures)
