"""
.. _l-plot-traps-numbers:

====================================
Ten traps: six lost or wrong numbers
====================================

A clock that is wrong still shows a number, and work that is done for nothing changes no token, so that whoever looks
only at the text does not notice. These are six such traps; four that change text or logits are on :ref:`l-plot-traps`.
Each has the wrong code and what it did, a remedy, and the right code, which passes the check that the wrong one fails:

* `5. A device that is not there`_
* `6. Half precision on a CPU`_
* `7. A clock that does not wait`_
* `8. The prompt counted as generated`_
* `9. A last pass for nothing`_
* `10. A cache that is copied at each step`_

.. image:: /drawings/clock.svg
   :alt: A clock stops when the CPU has launched its work, while the GPU still computes. The right one waits for it.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it.
"""

import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import onnxruntime
import pandas
import torch

import decodeloop

loaded = decodeloop.load(dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
text = 12 * "# A comment that is long.\n" + "def factorial(n):"
ids = tokenizer(text, return_tensors="pt").input_ids.to(device)
count, options = 8, {"max_new_tokens": 8, "eos_token_id": None}
costs, figures = {}, {}  # what each trap did here

# %%
# 5. A device that is not there
# =============================
#
# An :term:`execution provider` is the set of ONNX Runtime's operators for one kind of device. A program may ask for one
# that is not installed. ONNX Runtime then writes a warning, goes on with the CPU, and is only slow.

# WRONG: nobody looks at what the session runs on
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "model.onnx"
served = decodeloop.load().model  # float16 on a GPU, as its graph wants it
decodeloop.export_onnx(served, path, exporter="fused")
candidates = {"CUDAExecutionProvider", "CoreMLExecutionProvider"}
asked = min(candidates - set(onnxruntime.get_available_providers()))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as one line in a long log
    session = onnxruntime.InferenceSession(path, providers=[asked])
got = session.get_providers()[0]
assert got != asked
costs["a device that is not there"] = f"it runs on {got}"

# %%
# .. admonition:: Remedy
#
#    Look at ``get_providers()`` after opening a session. ``OnnxDecoder`` does, and refuses a device that is missing.

# RIGHT
decoder = decodeloop.OnnxDecoder(path, device=device.type)
assert decoder.providers[0].startswith(device.type.upper())  # CUDA... or CPU...

# %%
# 6. Half precision on a CPU
# ==========================
#
# The checkpoint's weights are in float16. On a CPU they round as coarsely as on a GPU, but not every CPU has fast
# operators for them. So an answer may take less time, as much, or more: the table at the end says by what factor here.

# WRONG: the checkpoint's own dtype on any device
half = decodeloop.load(device="cpu", dtype="float16").model
single = decodeloop.load(device="cpu").model
rounding = decodeloop.verify(single, half, ids, max_new_tokens=5).max_logit_diff
assert rounding > 1e-3
loops = {}
for each in (half, single):
    loops[each.dtype] = partial(decodeloop.generate, each, ids.cpu(), **options)
times = decodeloop.measure_all(loops, device="cpu")
factor = times[torch.float16].median / times[torch.float32].median
costs["half precision"] = f"{rounding:.1g} off, {factor:.1f} times the time"

# %%
# .. admonition:: Remedy
#
#    Take float32 on a CPU, as :func:`decodeloop.load` does by itself. For more speed there is :ref:`l-plot-precision`.

# RIGHT
exact = decodeloop.verify(model, single, ids, max_new_tokens=5).max_logit_diff
assert exact < 1e-3

# %%
# 7. A clock that does not wait
# =============================
#
# Work that was asked for may not be done yet. :func:`decodeloop.stream` computes nothing until its first token is
# taken, and PyTorch hands operators to a GPU and goes on. We count the model's *passes* until the clock stops.

passes = []
model.register_forward_hook(lambda *given: passes.append(1))

# WRONG: the clock stops before the work begins
start = time.perf_counter()
tokens = decodeloop.stream(model, ids, **options)
speed = count / (time.perf_counter() - start)
assert len(passes) == 0
costs["a clock that does not wait"] = f"{speed:,.0f} tokens/s in no pass at all"

# %%
# .. admonition:: Remedy
#
#    Take all tokens and wait for the device before the clock stops, as :func:`decodeloop.measure` does.

# RIGHT
timing = decodeloop.measure(lambda: list(tokens), repeats=1, warmup=0)
assert len(passes) == count
right_speed = count / timing.median
print(f"the right clock: {right_speed:,.0f} tokens/s, {len(passes)} passes")

if device.type == "cuda":  # the same with one large product
    matrix = torch.ones(8192, 8192, dtype=torch.float16, device=device)
    waited = decodeloop.measure(lambda: matrix @ matrix).median
    start = time.perf_counter()
    matrix @ matrix
    queued = time.perf_counter() - start  # WRONG: not waited for
    figures["a product, clock that does not wait (ms)"] = 1000 * queued
    figures["a product, clock that waits (ms)"] = 1000 * waited
    print(f"a product: {1000 * queued:.2f} ms, if waited for {1000 * waited:.2f}")

# %%
# 8. The prompt counted as generated
# ==================================
#
# ``generate`` returns prompt and answer in one tensor. Its length includes the prompt, which was read in one pass.

# WRONG: all tokens count
passes.clear()
outputs = decodeloop.generate(model, ids, **options)
times_too_high = outputs.shape[1] / len(passes)
assert times_too_high > 1
costs["the prompt counted"] = f"tokens/s {times_too_high:.0f} times too high"

# %%
# .. admonition:: Remedy
#
#    Subtract the prompt's length. Better still, time prefill and decode apart: :func:`decodeloop.prefill_and_decode`.

# RIGHT
assert outputs.shape[1] - ids.shape[1] == len(passes)

# %%
# 9. A last pass for nothing
# ==========================
#
# A loop that reads each token as soon as it is chosen reads the last one too, although no token is chosen after it. The
# tokens are right, but there is one pass more than there are tokens.


# WRONG: choose, then read
@torch.no_grad()
def wasteful(text, count):
    outputs = model(text, use_cache=True)
    for _ in range(count):
        new = outputs.logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, new], dim=-1)
        outputs = model(new, past_key_values=outputs.past_key_values)
    return text


passes.clear()
tokens = wasteful(ids, count)
assert len(passes) == count + 1
costs["a last pass for nothing"] = f"{len(passes)} passes for {count} tokens"

# %%
# .. admonition:: Remedy
#
#    Read first and then choose, so that the loop ends between the two.

# RIGHT
passes.clear()
expected = decodeloop.generate(model, ids, **options)
assert torch.equal(tokens, expected)
assert len(passes) == count

# %%
# 10. A cache that is copied at each step
# =======================================
#
# ``torch.cat`` makes a new tensor. So a cache that grows by it is written anew for each token, and the bytes that are
# written grow with the square of the length. Here are the keys of one layer.

# WRONG: all old keys are copied to make room for a new one
size = 1000
new_keys = torch.randn(size, 1, 4, 1, 64)
grown, copied = new_keys[0], [new_keys[0].nbytes]
for new in new_keys[1:]:
    grown = torch.cat([grown, new], dim=2)
    copied.append(grown.nbytes)
assert sum(copied) > 100 * grown.nbytes

# %%
# .. admonition:: Remedy
#
#    A buffer of the final size, in which each place is written once (:ref:`l-plot-cache-memory`).

# RIGHT
buffer, once = torch.zeros(1, 4, size, 64), []
for step, new in enumerate(new_keys):
    buffer[:, :, step : step + 1] = new
    once.append(new.nbytes)
assert torch.equal(grown, buffer)
assert sum(once) == buffer.nbytes
more = sum(copied) / sum(once)
costs["a cache grown by torch.cat"] = f"{more:,.0f} times the bytes"

written = {"torch.cat": copied, "one buffer": once}
written = pandas.DataFrame(written, index=range(1, size + 1)).cumsum()
ax = (written / 2**20).plot(loglog=True, style=["-", "--"], xlabel="tokens")
_ = ax.set(title="Written to keep the keys of one layer", ylabel="MiB so far")

# %%
# How to be safe? Count passes and bytes first, since counts are exact. Only then start a clock, one that waits.

pandas.DataFrame({"what it did here": costs})

# %%
# Measured on
# ===========

figures |= {
    "float16 on a CPU (largest logit difference)": rounding,
    "float16 on a CPU (times float32's time)": factor,
    "clock that does not wait (tokens/s)": speed,
    "clock that waits (tokens/s)": right_speed,
    "prompt counted (times too high)": times_too_high,
    "growing cache (times the bytes)": more,
}
decodeloop.provenance(model=loaded, provider=decoder, figures=figures)
