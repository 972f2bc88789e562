"""
.. _l-plot-many-users:

==========
Many users
==========

A decode step reads all weights of a model, for one user as for many, so whoever answers one user after the other reads
them anew for each. This page counts what a batch wastes when its answers differ in length, and shows the two ideas
with which servers avoid that, :term:`continuous batching` and the :term:`paged cache`. Then it measures the engine that
comes with transformers and has both.

.. image:: /drawings/continuous-batch.svg
   :alt: Eight requests of different lengths on four rows, over time. In static batches, the rows of short answers stay
         idle until the longest has ended, and only then do the next four begin. In continuous batching, the next
         request begins in a row as soon as it is free, fewer steps are needed, and few are idle.
   :class: drawing

Setup
=====

What is loaded, and where. Nothing in this cell is the topic; skip it. The bundled model is there for its tokens, and a
larger one for the times. Its weights are random, since time depends on the shape alone.
"""

import math
import random
import threading

import torch

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer and shorter runs, the same code
device = "cuda" if torch.cuda.is_available() else "cpu"
small = decodeloop.load(dtype="float32")
shape = "microsoft/phi-1_5" if device == "cuda" else "Xenova/llama2.c-stories110M"
large = decodeloop.load() if FAST else decodeloop.load(shape, random_weights=True)
count, rows, mean = (12, 4, 5) if FAST else (24, 8, 12)  # of tokens: a mean
print(f"tokens: {small.name}; times: {large.name}, {large.model.dtype}, {device}")

# %%
# Why one at a time is a waste
# ============================
#
# A step reads every weight once, and the :term:`KV cache` of each row. So the bytes for a token are divided by nearly
# the number of rows, as long as nearly all of what is read are weights. This is what a step reads after 100 positions:

for n in (1, 4, 16, 64):
    # only its bytes are used, so any bandwidth will do
    read = decodeloop.roofline(large.model, length=100, batch=n, bandwidth=1e9)
    megabytes = (read.weights + read.cache) / 1e6
    each = megabytes / n
    print(f"{n:2} rows: {megabytes:.0f} MB a step, {each:.1f} MB a token")

# %%
# Rows that wait
# ==============
#
# A :term:`static batch` is put together once and runs until its longest answer has ended. Until then the rows of
# shorter answers go on computing, for nobody. *Continuous* batching gives such a row to the next user, after any step.
# So its rows are idle only at the end, when nobody waits any more. Both can be counted without a model. A *row-step* is
# one step of one row. We make up lengths of answers, of which many are short and a few are long:

draw = random.Random(0)
lengths = []
for _ in range(count):
    length = 1 + round(draw.expovariate(1 / mean))
    lengths.append(min(length, 4 * mean))


def static_steps(lengths, rows):
    batches = [lengths[i : i + rows] for i in range(0, len(lengths), rows)]
    return sum(max(batch) for batch in batches)


def continuous_steps(lengths, rows):
    waiting, left, steps = list(lengths), [], 0
    while waiting or left:
        while waiting and len(left) < rows:  # a free row, and a user for it
            left.append(waiting.pop(0))
        left = [n - 1 for n in left if n > 1]
        steps += 1
    return steps


needed = sum(lengths)
for steps in (static_steps, continuous_steps):
    paid = rows * steps(lengths, rows)
    idle = 1 - needed / paid
    print(f"{steps.__name__}: {paid} row-steps for {needed}, {idle:.0%} idle")
assert continuous_steps(lengths, rows) < static_steps(lengths, rows)

# %%
# A cache in pages
# ================
#
# A user whose answer may have 100 tokens needs a cache with room for 100. Most answers are shorter, but nobody knows
# beforehand which. A paged cache hands out *pages* of a few positions, when they are needed and wherever they are free.
# A table for each user says which pages are theirs, in the order of the text. Attention gathers them, and then reads
# the same keys and values as without pages. Here it is for the keys of one user:

size, length = 16, 40  # positions of a page, and of the text so far
store, free = torch.zeros(8, size, 4), [5, 2, 7, 0, 3, 6, 1, 4]  # 8 pages of keys
keys, table = torch.randn(length, 4), []
for position in range(length):
    if position % size == 0:  # the last page is full, or there is none yet
        table.append(free.pop(0))
    store[table[-1], position % size] = keys[position]
gathered = store[table].flatten(0, 1)[:length]
assert torch.equal(gathered, keys)
print("this user's pages:", *table)

# %%
# What does that save? We count positions for the users above, with prompts of 24 tokens: those that they fill; those of
# their pages, of which each user has at most one that is not full; and those of caches with room for the longest
# answer.

prompt = 24
filled = sum(prompt + n for n in lengths)
paged = sum(size * math.ceil((prompt + n) / size) for n in lengths)
reserved = count * (prompt + max(lengths))
assert filled <= paged < filled + size * count
print(f"filled: {filled}; in pages: {paged}; for the longest: {reserved}")

# %%
# An engine that does both
# ========================
#
# ``model.generate_batch`` of transformers takes lists of tokens, of any lengths, and pads nothing. It is told how many
# rows it may have, how many pages, and how many tokens it may read at once. A prompt that is longer is read in parts.
# It must write what :func:`decodeloop.generate` writes for each prompt alone.

from transformers import ContinuousBatchingConfig, GenerationConfig


def room(rows):
    most = {"max_requests_per_batch": rows, "max_batch_tokens": 8 * rows}
    return ContinuousBatchingConfig(size, num_blocks=10 * rows, **most)


asked = ["def factorial(n):", "def is_even(n):\n", "def gcd(a, b):"]
ids = [small.tokenizer(text).input_ids for text in asked]
end = small.model.generation_config.eos_token_id
greedy = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=end)
answers = small.model.generate_batch(ids, greedy, room(2))
for answer in answers.values():
    assert answer.error is None, answer.error
    given = torch.tensor([answer.prompt_ids], device=device)
    alone = decodeloop.generate(small.model, given, max_new_tokens=40)[0]
    assert answer.prompt_ids + answer.generated_tokens == alone.tolist()
print(small.tokenizer.decode(alone))

# %%
# Static against continuous
# =========================
#
# Now we answer the users above, all of whom wait at the start. The static batches are written by
# :func:`decodeloop.generate`. The engine is opened for as long as it is needed. It runs in a thread of its own, which
# takes requests at any time and hands back each answer as soon as it has ended. Before they are timed, both must write
# the tokens that each user gets alone. This is checked with the bundled model.

texts = torch.randint(3, 3000, (count, prompt), device=device)


def static(model, rows):
    answers = []
    for i in range(0, count, rows):
        longest, batch = max(lengths[i : i + rows]), texts[i : i + rows]
        options = {"max_new_tokens": longest, "eos_token_id": None}
        written = decodeloop.generate(model, batch, **options).tolist()
        for row, n in zip(written, lengths[i:], strict=False):
            answers.append(row[prompt : prompt + n])
    return answers


def engine(model, rows):
    never_end = GenerationConfig(do_sample=False, eos_token_id=-1)
    how = {"continuous_batching_config": room(rows)}
    return model.continuous_batching_context_manager(never_end, **how)


def continuous(manager):
    names, answers = [], {}
    for text, n in zip(texts.tolist(), lengths, strict=True):
        names.append(manager.add_request(text, max_new_tokens=n))
    while len(answers) < count:
        answer = manager.get_result(timeout=300)
        assert answer, "no answer within five minutes"
        assert answer.error is None, answer.error
        answers[answer.request_id] = answer.generated_tokens
    return [answers[name] for name in names]


with engine(small.model, rows) as manager:
    tokens = continuous(manager)
assert tokens == static(small.model, rows) == static(small.model, 1)

# %%
# Now both are timed with the larger model. They cannot take turns, since the engine has the model to itself while it is
# open. Each is run a few times; where the gray lines overlap, from the fastest to the slowest run, the two are not told
# apart. The engine takes more steps than were counted, since it reads prompts in parts. On a GPU, neither records its
# steps here, so most of their time may be the host's, which starts the operators: :ref:`l-plot-serving` has a loop that
# records.

times = {"repeats": 2, "warmup": 1}
if device == "cuda":
    times = {"repeats": 4, "warmup": 2}
batches = decodeloop.measure(lambda: static(large.model, rows), **times)
with engine(large.model, rows) as manager:
    refilled = decodeloop.measure(lambda: continuous(manager), **times)
for thread in threading.enumerate():
    assert "generation_loop" not in thread.name  # the engine's has ended

timings = decodeloop.Timings({"static": batches, "continuous": refilled})
timings.plot(title=f"{count} users, {rows} rows, on {device}")
timings.table().round(2)

# %%
# Which should I use?
# ===================
#
# A static batch is enough where all prompts are there at once and all answers are about as long, as when a table is
# worked through at night. Where users come one after the other, use an engine that refills its rows. Where only lengths
# differ, such an engine saves steps, but each of its steps may take longer: compare the tokens per second below, unless
# the gray lines above overlap. How long users wait, and how to get from a loop to an engine, is on the next page,
# :ref:`l-plot-serving`.

for name, timing in timings.items():
    print(f"{name}: {needed / timing.median:.0f} tokens/s")
for steps in (static_steps, continuous_steps):
    print(f"{steps.__name__}: {steps(lengths, rows)} steps were needed")

# %%
# Measured on
# ===========

figures = {f"{n} (tokens/s)": needed / t.median for n, t in timings.items()}
decodeloop.provenance(device=device, model=[small, large], figures=figures)
