"""
.. _l-plot-precision:

===============================
How few bits does a model need?
===============================

To write one token, a model reads every weight once. Weights in half the bits are half the bytes to read, so the limit
on its speed doubles. This page stores one model in 32, 16, 8 and 4 bits per weight, then rounds it to 2 by hand. It
measures what each step saves, what it costs, and which tokens change.

The model in float32
====================

All comparisons are with the model in float32, 4 bytes per weight. Its weights were saved in float16, so storing
them in 16 bits again changes none of them. It only makes the arithmetic between them coarser.
"""

import copy
import itertools
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxruntime
import pandas
import torch
from onnx import numpy_helper

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer repeats and sizes, the same code

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
assert all(torch.equal(w, w.half().float()) for w in model.parameters())
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
print(f"{model.num_parameters() / 1e6:.1f} million weights, on {model.device}")

# %%
# A block and a scale
# ===================
#
# 4 bits tell 16 numbers apart, here -8 to 7. A matrix is cut into *blocks*, say of 32 weights of one column. Each
# block has a *scale*, and a weight is stored as the nearest whole multiple of it. The scale is such that the
# block's largest weight, up or down, becomes exactly -8. That is all there is to it:


def round_to_blocks(matrix, bits, block):
    """Whole numbers [columns, blocks, block], and the scale of each block."""
    half = 2 ** (bits - 1)
    blocks = matrix.T.reshape(matrix.shape[1], -1, block)
    high, low = blocks.max(-1, keepdims=True), blocks.min(-1, keepdims=True)
    scales = np.where(high > -low, high, low) / -half
    numbers = np.round(blocks / np.where(scales == 0, 1, scales))
    return np.clip(numbers, -half, half - 1), scales


# %%
# We try it on the first matrix of the ONNX graph. An error is at most half a scale where the number was only
# rounded. A weight that would be 8 is cut to 7, which can cost up to a whole scale.

path = folder / "float32.onnx"
options = {"exporter": "fused", "logits": "all"}
decodeloop.export_onnx(model, path, check=False, **options)  # only looked at


def constants(path):
    tensors = onnx.load(path).graph.initializer
    return {t.name: numpy_helper.to_array(t) for t in tensors}


name = "layers.0.qkv_up.weight"
matrix = constants(path)[name]
numbers, scales = round_to_blocks(matrix, bits=4, block=32)
rounded = (numbers * scales).reshape(matrix.T.shape).T
errors = np.abs(rounded - matrix).T.reshape(numbers.shape) / np.abs(scales)
print("first weights:", matrix[:6, 0].round(3))
print("their numbers:", numbers[0, 0, :6].astype(int), f"x {scales[0, 0, 0]:.4f}")
print("stored weights:", rounded[:6, 0].round(3))
print(f"errors in scales: mean {errors.mean():.2f}, largest {errors.max():.2f}")
assert errors[numbers < 7].max() < 0.501
assert errors.max() < 1.001

# %%
# :func:`decodeloop.quantize_onnx` does this to the matrices of all layers. It stores two numbers in a byte, the first
# in the lower half, and adds 8 so that none is negative. Its file holds the bytes that our lines give, but where a
# weight lies halfway between two numbers: numpy takes the even one.

decodeloop.quantize_onnx(path, path.with_name("check.onnx"), bits=4)
stored = constants(path.with_name("check.onnx"))
unsigned = (numbers + 8).astype(np.uint8)
packed = unsigned[..., ::2] | unsigned[..., 1::2] << 4
same = (packed == stored[f"{name}.quantized"]).mean()
print(
    f"{matrix.nbytes:,} bytes are now {packed.nbytes:,} and {scales.nbytes:,} of scales"
)
print(f"{same:.2%} of our packed bytes are those in the file, the rest are ties")
assert np.allclose(scales[..., 0], stored[f"{name}.scales"])
assert same > 0.999

# %%
# What a model loses by it
# ========================
#
# *Perplexity* says how surprised a model is by a text. A perplexity of 3 is the surprise of a guess among 3 equally
# likely tokens, at each token on average. We take some functions in the style that the model was trained on, and some
# in another one. Their lengths differ, so the shorter ones are padded on the left, which is not counted.

familiar = '''def count_vowels(text):
    """
    Count the vowels in text
    """
    count = 0
    for char in text:
        if char in "aeiou":
            count += 1
    return count
|def gcd(a, b):
    """
    Return the greatest common divisor of a and b
    """
    while b:
        a, b = b, a % b
    return a
|def is_palindrome(text):
    """
    Return True if text is a palindrome
    """
    return text == text[::-1]
'''
strange = '''def chunked(stream, size):
    """Yield pieces of a stream until a piece comes back empty."""
    while piece := stream.read(size):
        yield piece
|async def fetch_all(urls, client):
    """Fetch pages side by side, and keep those that answered."""
    pages = await asyncio.gather(*(client.get(url) for url in urls))
    return [page for page in pages if page.status == 200]
'''


def batch(texts):
    padded = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left"
    )
    return padded.to(model.device)


def perplexity(decoder, text):
    rows = batch(text.split("|"))
    return decodeloop.perplexity(decoder, **rows)


exact = {text: perplexity(model, text) for text in (familiar, strange)}
print(f"perplexity of the familiar text: {exact[familiar]:.2f}")
print(f"perplexity of the strange text: {exact[strange]:.1f}")
assert exact[familiar] < exact[strange]

# %%
# One model in seven files
# ========================
#
# Not every machine runs every type. Where ONNX Runtime has no operators for one, PyTorch runs it instead, and the
# output says so.


def onnx_or_torch(dtype):
    plain = decodeloop.load(dtype=dtype).model
    path = folder / f"{dtype}.onnx"
    try:  # an export is run before it is written
        decodeloop.export_onnx(plain, path, exporter="fused", logits="all")
        decoder = decodeloop.OnnxDecoder(path)
        decoder.generate(batch(["def"]).input_ids, max_new_tokens=4)
        return decoder
    except Exception as error:  # its class differs from machine to machine
        reason = str(error).replace(f"{folder}/", "").strip()
        print(textwrap.fill(f"{dtype} by PyTorch: {reason[:140]}...", 80))
        return plain


types = ["float32", "float16", "bfloat16"]
decoders = {dtype: onnx_or_torch(dtype) for dtype in types}

# %%
# The quantized files are made from the float16 graph on a GPU, from the float32 graph elsewhere.

source = "float16" if model.device.type == "cuda" else "float32"
for bits, block in itertools.product((8, 4), (32, 128)):
    name = f"int{bits}, block {block}"
    target = folder / f"{name}.onnx"
    decodeloop.quantize_onnx(
        folder / f"{source}.onnx", target, bits=bits, block_size=block
    )
    decoders[name] = decodeloop.OnnxDecoder(target)

# %%
# A float16 file is half as large. Is it also half to read? ONNX Runtime can write down the graph that it really runs.
# Where it has no 16-bit product, it unpacks the weights once, when it opens the file.

options = onnxruntime.SessionOptions()
options.log_severity_level = 3
options.optimized_model_filepath = str(folder / "as_run.onnx")
decodeloop.OnnxDecoder(decoders["float16"].path, session_options=options)
reads = {
    name: decodeloop.roofline(getattr(decoder, "path", decoder)).weights / 1e6
    for name, decoder in decoders.items()
}
as_run = decodeloop.roofline(options.optimized_model_filepath).weights / 1e6
print(f"float16: {reads['float16']:.1f} MB to read, {as_run:.1f} MB as run")

# %%
# What each saves, and what it costs
# ==================================
#
# The model in float32 answers eight prompts, half of them of kinds that it does not know. Each file then reads these
# answers, and at each token says which one it would have written. So a changed token does not hide those after it.

tasks = {
    "print_prime(n)": "Print all primes between 1 and n",
    "fibonacci(n)": "Return the first n Fibonacci numbers",
    "merge(a, b)": "Merge two sorted lists",
    "reverse_words(sentence)": "Reverse the order of the words",
    "zip_with_gap(rows, fill)": "Rotate a matrix and mark every hole in it",
    "fetch_all(urls)": "Download pages side by side and keep the good ones",
    "money(amount)": "Format an amount in the smallest unit of a currency",
    "schedule(jobs, day)": "Plan the jobs of a day so that none overlap",
}
prompts = [
    f'def {head}:\n    """\n    {text}\n    """' for head, text in tasks.items()
]
rows, steps = batch(prompts), 20 if FAST else 40
given = {"attention_mask": rows.attention_mask, "max_new_tokens": steps}
reports = {
    name: decodeloop.verify(model, decoder, rows.input_ids, **given)
    for name, decoder in decoders.items()
}
for name in ("float32", "float16"):
    print(f"{name}: {reports[name]}")
assert reports["float32"].agrees

# %%
# Now the speed. All write the same number of tokens in turns.


def loop(decoder):
    if not isinstance(decoder, decodeloop.OnnxDecoder):
        decoder = decodeloop.TorchDecoder(decoder)
    ids = batch(prompts[:1]).input_ids
    return lambda k: decoder.generate(ids, max_new_tokens=k, eos_token_id=None)


loops = {name: loop(decoder) for name, decoder in decoders.items()}
timings = decodeloop.prefill_and_decode_all(loops, 8 if FAST else 32)
df = pandas.DataFrame(index=decoders)
df["MB"] = [
    sum(f.stat().st_size for f in folder.glob(f"{name}.onnx*")) / 1e6
    for name in decoders
]
df["bytes"] = [4 * reads[name] / reads["float32"] for name in decoders]
df["ms/token"] = [1e3 * t.decode.median for t in timings.values()]
df["familiar"] = [perplexity(d, familiar) for d in decoders.values()]
df["strange"] = [perplexity(d, strange) for d in decoders.values()]
df["changed"] = [r.tokens - r.agreed for r in reports.values()]
df["moved"] = [r.max_logit_diff for r in reports.values()]
df.round(2)

# %%
# *MB* is the file's size. *Bytes* is what a step reads for each weight, scales included. The file also holds the
# *embedding table*, of which a step reads one row. In a graph of float32 it gets 8 bits, and where the last matrix,
# the *head*, is the same table, both read the same bytes; a graph of 16 bits keeps it as it is. *Familiar* and
# *strange* are the perplexities of the two texts, *changed* counts tokens, *moved* is the largest change of any
# logit. Perplexity hardly moves, and on texts this short it can even fall by chance. Tokens and logits are the finer
# measure. Fewer bytes need not be as much faster: this model is small, and a number must be unpacked before it is
# multiplied. :ref:`l-plot-onnx-speed` says what limits each.
#
# Where is the cliff?
# ===================
#
# The files end at 4 bits. Our own lines do not. We round all matrices of the PyTorch model, and read the texts again.


@torch.no_grad()
def rounded_model(bits, block):
    copied = copy.deepcopy(model)
    copied.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    for layer in copied.modules():
        if isinstance(layer, torch.nn.Linear):
            matrix = layer.weight.cpu().numpy().T
            numbers, scales = round_to_blocks(matrix, bits, block)
            rounded = (numbers * scales).reshape(matrix.T.shape)
            layer.weight.copy_(torch.from_numpy(rounded))
    return copied


found = {}
for bits, block in itertools.product(
    (4, 2) if FAST else (8, 6, 5, 4, 3, 2), (32, 128)
):
    copied = rounded_model(bits, block)
    loss = [
        perplexity(copied, text) / exact[text] for text in (familiar, strange)
    ]
    found[bits, block] = [bits / 8 + 4 / block, *loss]
curves = pandas.DataFrame(found, index=["bytes/weight", "familiar", "strange"]).T
in_file = df["familiar"]["int4, block 32"] / exact[familiar]
assert abs(in_file / found[4, 32][1] - 1) < 0.02  # our lines and the file agree
assert found[4, 32][1] < 1.05 < found[2, 32][1] < found[2, 128][1]

_, ax = plt.subplots()
for name, color in (("familiar", "C0"), ("strange", "C1")):
    for block, style in ((32, "o-"), (128, "s--")):
        part = curves.xs(block, level=1).set_index("bytes/weight")
        ax.plot(part[name], style, color=color, label=f"{name}, block {block}")
for name, text in (("familiar", familiar), ("strange", strange)):
    ax.plot(df["bytes"], df[name] / exact[text], "x", color="C2")
ax.plot([], [], "x", color="C2", label="the files of the table")
ax.axhline(1, color="gray", ls=":", label="float32")
ax.set_xscale("log", base=2)
ticks = [0.25, 0.5, 1, 2, 4]
ax.set_xticks(ticks, map(str, ticks))
ax.set_title("Perplexity against bytes per weight")
ax.set_xlabel("bytes per weight, scales included")
ax.set_ylabel("perplexity / float32's")
ax.legend()

# %%
# Down to 4 bits the lines are flat, up to the chance of a short text. With 2 bits, 4 numbers for each weight, they
# leave the floor, and the sooner the larger the block. A model that is larger, or less sure of what it
# writes, has its cliff elsewhere; the way to find it is the same.
#
# Which tokens change?
# ====================
#
# The model takes the token with the largest logit. Its lead over the second is the *margin* of a step. If rounding
# moves no logit by more than d, then the first loses at most d and another one gains at most d. So no token can
# change where the margin is above 2 d. :func:`decodeloop.verify` lets two decoders read the same text, and reports the
# first token on which they differ, and its margin. We take each answer of each quantized file by itself.

quantized = [name for name in decoders if name.startswith("int")]
changes, margins, known = {name: [] for name in quantized}, [], 0
for i, prompt in enumerate(prompts):
    start = batch([prompt]).input_ids
    text = decodeloop.generate(model, start, max_new_tokens=steps)
    with torch.no_grad():
        logits = model(text).logits[0, start.shape[1] - 1 : -1]
    for name in quantized:
        report = decodeloop.verify(
            model, decoders[name], start, max_new_tokens=steps
        )
        if (first := report.divergence) is not None:
            assert first.margin <= 2 * report.max_logit_diff
            changes[name].append((len(margins) + first.step, first.margin))
    best, second = logits.topk(2).values.T
    margins += (best - second).tolist()
    known = len(margins) if i < len(prompts) // 2 else known

_, ax = plt.subplots()
ax.plot(margins, ".", color="C5", ms=4, label="all tokens of float32")
for (name, points), marker in zip(changes.items(), "^svx", strict=True):
    x, y = zip(*points, strict=True) if points else ((), ())
    ax.plot(x, y, marker, mfc="none", mew=2, label=f"first changed by {name}")
ax.axvline(known, color="gray", ls=":", label="tasks it does not know begin")
ax.set_yscale("log")
ax.set_title("Margin of each step, and of the first token that changes")
ax.set_xlabel("step, over all eight answers")
ax.set_ylabel("margin (difference of two logits)")
ax.legend(fontsize="small")

# %%
# A model that knows what to write leads by a wide margin, and rounding does not reach it. Where it is in doubt, a small
# push decides. So a few prompts that a model knows well say little about a quantized file; prompts at the edge of what
# it knows say more.

print(f"the median of all margins is {np.median(margins):.2g}")
for name, points in changes.items():
    left = sum(step < known for step, _ in points)
    print(
        f"{name}: {left} of the {len(prompts) // 2} answers that it knows change,"
    )
    print(f"  {len(points) - left} of the others", end="")
    at = max((margin for _, margin in points), default=None)
    print("" if at is None else f", at margins up to {at:.2g}")

# %%
# Which should I use?
# ===================
#
# 16 bits where the machine multiplies them: half of float32's bytes. 8 bits where it does not, or where memory is
# short: little more than a quarter of the bytes. 4 bits take about a sixth, less with larger blocks. What the model
# knows survives that here; some of what it is unsure of changes. Try your own texts before you take them. In order of
# speed, on this machine:

moved, changed = df["moved"], df["changed"]
assert moved["float16"] < moved["int4, block 32"]
assert moved["int8, block 32"] < moved["int4, block 32"]

for name, row in df.sort_values("ms/token").iterrows():
    print(f"{name}: {row['ms/token']:.2f} ms per token,", end=" ")
    print(f"{row['bytes']:.2f} bytes per weight, {changed[name]} tokens changed")

# %%
# Measured on
# ===========

names = ["float32", "float16", "int8, block 32", "int4, block 32"]
figures = {f"{n} (ms/token)": df["ms/token"][n] for n in names}
figures |= {f"{n}: largest change (logits)": moved[n] for n in names[1:]}
figures |= {f"{n}: changed (tokens)": changed[n] for n in names[1:]}
decodeloop.provenance(model=loaded, provider=decoders["float16"], figures=figures)
