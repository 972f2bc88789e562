"""
.. _l-plot-traps:

========================
Ten ways to get it wrong
========================

A decode loop that is wrong still writes text, and a clock that is wrong still shows a number. This page walks into ten
traps on purpose: wrong code, an assertion that fails on it, and the right code, which passes. Each failure is caught,
printed, and kept for the table at the end. Where nothing fails, the page itself does.
"""

import contextlib
import copy
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import onnxruntime
import pandas
import torch

import decodeloop
from decodeloop import max_diff

FAST = decodeloop.unit_test_going()  # fewer tokens, the same code
costs = {}


@contextlib.contextmanager
def caught(trap):
    try:
        yield
    except AssertionError as error:
        costs[trap] = str(error)
        print(f"{trap}: {error}")
    else:
        raise RuntimeError(f"{trap}: nothing failed")


# %%
# The model is in float32 on any device, so that a difference is a mistake and no rounding. Its right answer, to a
# prompt alone, is what the traps are measured by.

loaded = decodeloop.load(dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
short = 'def factorial(n):\n    """Return the factorial of n"""'
alone = tokenizer(short, return_tensors="pt").input_ids.to(device)
answer = decodeloop.generate(model, alone, max_new_tokens=12 if FAST else 100)
answer = answer[:, alone.shape[1] :]
steps = answer.shape[1]
print(
    f"{alone.shape[1]} tokens, answered by {steps}:{tokenizer.decode(answer[0])}"
)

# %%
# The first three traps are about what the model is told besides the tokens: the *position* of each new token in its
# text, and the *attention mask*, which hides the padding of a batch. Our loop takes both as functions.


@torch.no_grad()
def write(text, position, mask):
    unread, cache, logits = text, None, []
    for _ in range(steps):
        length, new = text.shape[1], unread.shape[1]
        given = {
            "position_ids": position(length, new),
            "attention_mask": mask(length),
        }
        outputs = model(unread, past_key_values=cache, use_cache=True, **given)
        cache = outputs.past_key_values
        logits.append(outputs.logits[0, -1])
        unread = outputs.logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, unread], dim=-1)
    wrong = int((text[0, -steps:] != answer[0]).sum())  # in the first row
    return wrong, torch.stack(logits)


# %%
# 1. Positions that are off by one
# ================================
#
# A text of ``length`` tokens ends at position ``length - 1``. A new token is easily given the position of the one
# before it.


def right(length, new):
    return torch.arange(length - new, length, device=device)[None]


def off_by_one(length, new, by=-1):
    return right(length, new) + (by if new == 1 else 0)


wrong_positions, _ = write(alone, off_by_one, lambda length: None)
with caught("positions off by one"):
    assert wrong_positions == 0, f"{wrong_positions} of {steps} tokens wrong"
wrong, logits = write(alone, right, lambda length: None)
assert wrong == 0

# %%
# Off by one to the other side, it leaves a gap before the answer. Fewer tokens are wrong, or none; the *logits*, the
# scores that tokens are chosen by, tell. So compare these as well.

wrong, others = write(alone, lambda *a: off_by_one(*a, by=1), lambda length: None)
print(f"{wrong} tokens wrong, logits {max_diff(logits, others)['abs']:.1f} apart")
assert wrong < wrong_positions
assert not torch.allclose(logits, others, atol=0.1)

# %%
# 2. A padded batch without position ids
# ======================================
#
# A batch's shorter row is padded on its left; its first token still stands at position 0. A loop that counts positions
# from the mask in each step, but not in the prompt, makes the text jump back by the padding. Count them in both.

tokenizer.padding_side = "left"
texts = [short, 12 * "# A comment that is long.\n" + short]
batch = tokenizer(texts, return_tensors="pt", padding=True).to(device)
ids, prompt_mask = batch.input_ids, batch.attention_mask


def full_mask(length):
    return torch.nn.functional.pad(
        prompt_mask, (0, length - ids.shape[1]), value=1
    )


def counted(length, new):
    return (full_mask(length).cumsum(-1) - 1).clamp(min=0)[:, -new:]


wrong_padding, _ = write(
    ids, lambda n, new: None if new > 1 else counted(n, new), full_mask
)
with caught("a padded prompt without position ids"):
    assert wrong_padding == 0, f"{wrong_padding} of {steps} tokens wrong"
wrong, _ = write(ids, counted, full_mask)
assert wrong == 0

# %%
# 3. The prompt's mask, dropped after the first step
# ==================================================
#
# The mask came with the prompt, so it is given with the prompt, and never again. But the padding stays in the cache,
# and each later step looks at it. Let the mask grow with the text: the prompt's own, then ones.

wrong_mask, _ = write(
    ids, counted, lambda n: full_mask(n) if n == ids.shape[1] else None
)
with caught("the mask dropped after the prompt"):
    assert wrong_mask == 0, f"{wrong_mask} of {steps} tokens wrong"
tokens = decodeloop.generate(model, **batch, max_new_tokens=steps)
assert torch.equal(tokens[:1, -steps:], answer)  # it does all three right

# %%
# 4. A device that is not there
# =============================
#
# Ask ONNX Runtime for an *execution provider* (the operators for one device) that is not installed. It warns, once,
# and goes on with the CPU. So look at ``get_providers()`` after opening a session, as ``OnnxDecoder`` does.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
served = decodeloop.load().model  # float16 on a GPU, as this graph wants it
decodeloop.export_onnx(served, path, exporter="fused")
here = onnxruntime.get_available_providers()
candidates = ["CUDAExecutionProvider", "CoreMLExecutionProvider"]
asked = next(provider for provider in candidates if provider not in here)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    session = onnxruntime.InferenceSession(path, providers=[asked])
assert any(asked in str(warning.message) for warning in said)
got = session.get_providers()[0]
with caught("a fallback to the CPU"):
    assert got == asked, f"{got} for {asked}"
with contextlib.suppress(ValueError):
    decodeloop.OnnxDecoder(path, device="cuda:99")  # refuses
    raise RuntimeError("this machine has a hundred GPUs")
decoder = decodeloop.OnnxDecoder(path)
on_gpu = torch.cuda.is_available()
wanted = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
assert decoder.providers[0] == wanted

# %%
# 5. The exported file of yesterday
# =================================
#
# An export takes time, so a script exports only where there is no file yet. Then the weights change, and it runs the
# old ones. Export anew, or put a hash of the weights into the file's name; then :func:`decodeloop.verify`.

trained = copy.deepcopy(served)
trained.model.layers[0].mlp.fc2.weight.data *= 1.1  # stands for more training
if not path.exists():
    decodeloop.export_onnx(trained, path, exporter="fused")
stale = decodeloop.verify(trained, decoder, alone, max_new_tokens=5)
stale = stale.max_logit_diff
with caught("a stale exported file"):
    assert stale < 0.25, f"logits up to {stale:.1f} off"
decodeloop.export_onnx(trained, path.with_name("new.onnx"), exporter="fused")
fresh = decodeloop.OnnxDecoder(path.with_name("new.onnx"))
fresh = decodeloop.verify(trained, fresh, alone, max_new_tokens=5)
assert fresh.max_logit_diff < 0.25

# %%
# 6. Half precision on a CPU
# ==========================
#
# The checkpoint is in float16, so it is loaded in float16, on a CPU as well. Its numbers are coarser there too, and a
# step is not sure to be faster: the factor below is this CPU's. By itself, ``decodeloop.load`` takes float32 on a CPU.

single, half = (
    decodeloop.load(device="cpu", dtype=t).model for t in ("float32", "float16")
)
loops = {
    m.dtype: lambda m=m: decodeloop.generate(m, alone.cpu(), max_new_tokens=3)
    for m in (single, half)
}
times = decodeloop.measure_all(loops, device="cpu")
factor = times[torch.float16].median / times[torch.float32].median
off = decodeloop.verify(single, half, alone, max_new_tokens=5).max_logit_diff
with caught("float16 on a CPU"):
    assert off < 1e-3, f"logits {off:.1g} off, {factor:.1f} times the time"
exact = decodeloop.verify(model, single, alone, max_new_tokens=5)
assert exact.max_logit_diff < 1e-3

# %%
# 7. A clock that does not wait
# =============================
#
# Work that was asked for is not work that was done. :func:`decodeloop.stream` computes nothing until its first token is
# taken. A GPU is the same at every operator: PyTorch queues it and returns. We count *passes*, the calls of the model,
# until the clock stops. Take all tokens and synchronise, as :func:`decodeloop.measure` does.


@contextlib.contextmanager
def counted_passes():
    passes = []
    hook = model.register_forward_hook(lambda *a: passes.append(1))
    yield passes
    hook.remove()


with counted_passes() as passes:
    start = time.perf_counter()
    tokens = decodeloop.stream(model, alone, max_new_tokens=steps)
    speed = steps / (time.perf_counter() - start)
with caught("a clock that does not wait"):
    assert len(passes) == steps, f"{speed:,.0f} tokens/s for {len(passes)} passes"
with counted_passes() as passes:
    timing = decodeloop.measure(lambda: list(tokens), repeats=1, warmup=0)
assert len(passes) == steps
right_speed = steps / timing.median
print(f"the right clock: {right_speed:,.0f} tokens/s")

gpu_figures = {}
if torch.cuda.is_available():  # the same with one large product
    matrix = torch.ones(8192, 8192, dtype=torch.float16, device=device)
    waited = decodeloop.measure(lambda: matrix @ matrix).median
    start = time.perf_counter()
    matrix @ matrix
    queued = time.perf_counter() - start
    torch.cuda.synchronize()
    print(f"one product, clock that does not wait: {1000 * queued:.3f} ms")
    print(f"one product, clock that waits: {1000 * waited:.3f} ms")
    gpu_figures = {
        "a product, clock that does not wait (ms)": 1000 * queued,
        "a product, clock that waits (ms)": 1000 * waited,
    }
    del matrix

# %%
# 8. The prompt counted as generated
# ==================================
#
# ``generate`` returns the prompt and the answer in one tensor. Its length over the time is no speed of writing: the
# whole prompt was read in one pass. Subtract it.

with counted_passes() as passes:
    outputs = decodeloop.generate(
        model, ids[1:], max_new_tokens=8, eos_token_id=None
    )
written = outputs.shape[1]
times_too_high = written / len(passes)
with caught("the prompt counted as generated"):
    assert times_too_high == 1, f"tokens/s {times_too_high:.0f} times too high"
assert written - ids.shape[1] == len(passes)

# %%
# 9. A last pass for nothing
# ==========================
#
# A loop that reads each token as soon as it is chosen reads the last one too, and nobody looks at the result. The
# tokens are right, for one pass more than there are tokens. Stop between choosing and reading.


@torch.no_grad()
def wasteful(text, count):
    outputs = model(text, use_cache=True)
    for _ in range(count):
        new = outputs.logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, new], dim=-1)
        outputs = model(new, past_key_values=outputs.past_key_values)
    return text


with counted_passes() as passes:
    tokens = wasteful(alone, 8)
with caught("a last pass for nothing"):
    assert len(passes) == 8, f"{len(passes)} passes for 8 tokens"
with counted_passes() as passes:
    assert torch.equal(
        decodeloop.generate(model, alone, max_new_tokens=8), tokens
    )
assert len(passes) == 8

# %%
# 10. A cache that is copied at each step
# =======================================
#
# ``torch.cat`` makes a new tensor, so a cache that grows by it is written whole for each token: the bytes grow with the
# square of the length. A buffer of the final size is written once in each place. Here are the keys of one layer.

size = 250 if FAST else 1000
new_keys = torch.randn(size, 1, 4, 1, 64)
grown, buffer = new_keys[0], torch.zeros(1, 4, size, 64)
written = pandas.DataFrame(0, range(1, size + 1), ["torch.cat", "one buffer"])
for step, new in enumerate(new_keys):
    grown = torch.cat([grown, new], dim=2) if step else new
    buffer[:, :, step : step + 1] = new
    written.loc[step + 1] = grown.nbytes, new.nbytes
total = written.cumsum()

assert torch.equal(grown, buffer)
copied, once = total.iloc[-1]
with caught("a cache grown by torch.cat"):
    assert copied == buffer.nbytes, (
        f"{copied / once:,.0f} times the bytes, {copied:,}"
    )
assert once == buffer.nbytes

_, ax = plt.subplots()
(total / 2**20).plot(ax=ax, logx=True, logy=True, style=["-", "--"])
ax.set_title("Bytes written to keep the keys of one layer")
ax.set_xlabel("tokens")
ax.set_ylabel("MiB written so far")

# %%
# What each one cost
# ==================

assert len(costs) == 10
pandas.DataFrame({"what it cost here": costs})

# %%
# How to be safe? Compare tokens *and* logits with a reference, in a padded batch as well; count passes and bytes; and
# only then start a clock that waits.
#
# Measured on
# ===========

figures = {
    "positions off by one (% of tokens wrong)": 100 * wrong_positions / steps,
    "no position ids (% of tokens wrong)": 100 * wrong_padding / steps,
    "mask dropped (% of tokens wrong)": 100 * wrong_mask / steps,
    "stale file (largest logit difference)": stale,
    "float16 on a CPU (largest logit difference)": off,
    "float16 on a CPU (times float32's time)": factor,
    "clock that does not wait (tokens/s)": speed,
    "clock that waits (tokens/s)": right_speed,
    "prompt counted (times too high)": times_too_high,
    "growing cache (times the bytes)": copied / once,
}
decodeloop.provenance(
    model=loaded,
    provider=decoder,
    figures=figures | gpu_figures,
)
