"""
.. _l-plot-sampling:

=============================
How is the next token chosen?
=============================

A model does not write text. It gives every token of its vocabulary a probability, and something else picks one. This
page looks at the distributions behind a real answer, draws what temperature, top-k, top-p, min-p and a repetition
penalty do to them, and shows that a seed gives the same tokens on PyTorch and on ONNX. Then it counts: which choice
gives the likeliest text, which gives right programs, and what variety costs.

Load the model
==============

Everything here runs in float32, on a GPU too: rounding is then too small to tip a draw.
"""

import builtins
import functools
import math
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
import transformers

import decodeloop
from decodeloop import Sampler

FAST = decodeloop.unit_test_going()  # fewer samples, the same code

loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
print(f"{model.config.vocab_size} tokens to choose from, on {model.device}")

# %%
# A distribution for every token
# ==============================
#
# The prompt below leaves everything open: not even the function's name says what it should do. We let the model answer
# with the most likely token each time, which is called *greedy*. One pass over the whole text then gives the
# distribution that stood behind each token. Its *entropy* says how unsure the model was: 0 bits when one token is
# certain, 1 bit for a toss of a coin, 6 bits for a throw of a die with 64 faces.

prompt = "def f(x):"
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
length = input_ids.shape[1]
greedy = decodeloop.generate(model, input_ids)
print(tokenizer.decode(greedy[0], skip_special_tokens=True))

with torch.no_grad():
    logits = model(greedy).logits[0, length - 1 : -1]  # before each new token
log_probs = logits.log_softmax(dim=-1)
entropy = -(log_probs.exp() * log_probs).sum(dim=-1) / math.log(2)
unsure, sure = int(entropy.argmax()), int(entropy.argmin())


def look(step):
    top = log_probs[step].exp().topk(3)
    likely = zip(map(tokenizer.decode, top.indices), top.values, strict=True)
    text = tokenizer.decode(greedy[0, : length + step])
    return {
        "the text ends in": repr(text[-20:]),
        "bits": round(float(entropy[step]), 4),
        "likeliest tokens": ", ".join(f"{t!r} {p:.1%}" for t, p in likely),
    }


pandas.DataFrame({"least sure": look(unsure), "surest": look(sure)}).T

# %%
# The picture of the whole answer shows where it was decided. In a few places the model had a real choice; at nearly
# all others one token has almost all of the probability.

_, ax = plt.subplots(figsize=(7, 3.2))
ax.bar(range(len(entropy)), entropy.cpu())
for step in entropy.topk(3).indices.tolist():
    token = repr(tokenizer.decode(greedy[0, length + step]))
    side = "right" if step < unsure else "left"
    ax.text(step, float(entropy[step]) + 0.1, token, ha=side)
ax.set(title="Entropy before each token of the answer", ylim=(0, 8))
ax.set(xlabel="token of the answer (three are named)", ylabel="bits")
open_steps = int((entropy > 1).sum())
print(f"{open_steps} of {len(entropy)} tokens were open to more than 1 bit")
assert open_steps < len(entropy) / 3

# %%
# Temperature
# ===========
#
# A *temperature* divides the logits before the softmax. Below 1 the likely tokens gain, above 1 the unlikely ones do.
# Each curve is one distribution, its tokens sorted from the likeliest to the least. In the open place, the least sure
# one, temperature moves weight among tokens that may well come. In the sure place a high one moves weight to thousands
# of tokens that are all wrong there: little at one step, but an answer has many.

_, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
places = {"open": unsure, "sure": sure}
for ax, (name, step) in zip(axes, places.items(), strict=True):
    for temperature, line in ((0.5, "--"), (1.0, "-"), (2.0, ":")):
        p = (logits[step] / temperature).softmax(dim=-1).cpu()
        p = p.sort(descending=True).values
        ax.loglog(range(1, len(p) + 1), p, line, label=temperature)
        print(f"{name}, temperature {temperature}: best token {p[0]:.2%}")
    ax.set(title=f"The {name} place", xlabel="rank of the token", ylim=(1e-9, 2))
axes[0].set_ylabel("probability")
axes[0].legend(title="temperature")

# %%
# Cut the tail
# ============
#
# Those thousands of tokens are the *tail*: each has next to no probability, together they have some, and one slip can
# spoil an answer. Three rules cut it off. *Top-k* keeps the k likeliest tokens. *Top-p* keeps the likeliest ones until
# their probabilities sum to p. *Min-p* keeps those at least min_p times as likely as the likeliest. All three fit in a
# few lines, and keep the same tokens as the processors of ``transformers`` that :class:`decodeloop.Sampler` uses.


def keep(logits, top_k=None, top_p=math.inf, min_p=0.0):
    p, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    kept = (p.cumsum(dim=-1) - p < top_p) & (p >= min_p * p[:, :1])
    if top_k:
        kept[:, top_k:] = False
    return torch.zeros_like(kept).scatter(-1, order, kept)  # unsorted again


rules = {
    "everything": ({}, None),
    "top_k=10": ({"top_k": 10}, transformers.TopKLogitsWarper(10)),
    "top_p=0.9": ({"top_p": 0.9}, transformers.TopPLogitsWarper(0.9)),
    "min_p=0.1": ({"min_p": 0.1}, transformers.MinPLogitsWarper(0.1)),
}
kept = {name: keep(logits, **rule) for name, (rule, _) in rules.items()}
for name, (_, processor) in rules.items():
    if processor:
        assert torch.equal(kept[name], processor(None, logits).isfinite())

counts = pandas.DataFrame({n: k.sum(dim=-1).tolist() for n, k in kept.items()}).T
counts[[unsure, sure]].set_axis(
    ["kept in the open place", "in the sure place"], axis=1
)

# %%
# Top-k keeps as many tokens where there is one right one as where there are a hundred. The other two follow the
# distribution. This is the open place after each rule: what is kept shares the whole probability.

assert counts.loc["top_p=0.9", sure] == counts.loc["min_p=0.1", sure] == 1
_, axes = plt.subplots(1, 4, figsize=(9, 3.2), sharey=True, sharex=True)
for ax, (name, masks) in zip(axes, kept.items(), strict=True):
    p = logits[unsure, masks[unsure]].softmax(dim=-1).cpu()
    p = p.sort(descending=True).values
    ax.loglog(range(1, len(p) + 1), p)
    ax.fill_between(range(1, len(p) + 1), p, 1e-6, alpha=0.4)
    ax.set(title=f"{name}\n{len(p)} tokens", xlabel="rank", ylim=(1e-6, 1))
axes[0].set_ylabel("probability")

# %%
# A penalty on repetition
# =======================
#
# A *repetition penalty* lowers every token that the text already holds: a positive logit is divided by it, a negative
# one multiplied. It is meant for prose that goes round in circles, but programs repeat themselves for good reasons.
# We penalise the answer's own tokens, each at its place, and count how many are still the most likely.

penalties = [1.0, 1.1, 1.2, 1.3, 1.5, 2.0]
shares = []
for penalty in penalties:
    process = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    stays = 0
    for place, row in enumerate(logits, start=length):
        best = process(greedy[:, :place], row[None]).argmax()
        stays += int(best == greedy[0, place])
    shares.append(100 * stays / len(logits))
assert shares[0] == 100
assert shares[-1] < 100
_, ax = plt.subplots(figsize=(6, 3))
ax.plot(penalties, shares, "o-")
ax.set(title="Tokens of the answer that stay first", ylim=(0, 105))
ax.set_xlabel("repetition penalty")
ax.set_ylabel("% of the tokens")

# %%
# A seed
# ======
#
# To draw a token takes one random number between 0 and 1: lay the probabilities end to end, and see on which token the
# number falls. The *seed* fixes the sequence of these numbers. They come from a generator on the CPU, so they are the
# same whatever runs the model, as the ONNX graph below shows.


@torch.no_grad()
def sample(model, input_ids, eos_token_id, seed, max_new_tokens=100):
    generator = torch.Generator().manual_seed(seed)
    unread, cache = input_ids, None
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        ends = outputs.logits[:, -1].double().softmax(dim=-1).cumsum(dim=-1)
        number = torch.rand(1, 1, dtype=torch.float64, generator=generator)
        unread = torch.searchsorted(ends, number.to(ends.device), right=True)
        input_ids = torch.cat([input_ids, unread], dim=-1)
        if unread.item() == eos_token_id:
            break
    return input_ids


sampled = sample(model, input_ids, tokenizer.eos_token_id, seed=3)
ours = decodeloop.generate(model, input_ids, sampler=Sampler(seed=3))
assert torch.equal(ours, sampled)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.onnx"
    decodeloop.export_onnx(model, path, exporter="dynamo")
    session = decodeloop.OnnxDecoder(path)
onnx = session.generate(input_ids, sampler=Sampler(seed=3))
assert torch.equal(onnx, sampled)

# %%
# PyTorch and ONNX Runtime drew the same tokens. In a batch, a list of seeds gives each row its own, and a row writes
# what it writes alone. Three seeds, three functions, from one prompt:

seeds = [3, 4, 5]
prompts = input_ids.expand(len(seeds), -1)
rows = decodeloop.generate(model, prompts, sampler=Sampler(seed=seeds))
for seed, row in zip(seeds, rows, strict=True):
    alone = decodeloop.generate(model, input_ids, sampler=Sampler(seed=seed))[0]
    assert torch.equal(row[: len(alone)], alone)
    print(tokenizer.decode(alone, skip_special_tokens=True))

# %%
# The likeliest text
# ==================
#
# Greedy takes the likeliest token each time. Is the result the likeliest text? The probability of an answer is the
# product of those of its tokens, so its logarithm is a sum. *Beam search* keeps the best few beginnings instead of
# one, here four. With ``length_penalty=0`` it compares the sums when they end; by default ``generate`` compares the
# average per token, which favours long answers.


def log_probability(tokens):
    with torch.no_grad():
        log_probs = model(tokens).logits.log_softmax(dim=-1)[:, length - 1 : -1]
    return float(log_probs.gather(-1, tokens[:, length:, None]).sum())


beams = model.generate(
    input_ids, num_beams=4, length_penalty=0.0, max_new_tokens=100
)
answers = {"greedy": greedy, "sampled": sampled, "4 beams": beams}
table = pandas.DataFrame(index=answers)
table["tokens"] = [tokens.shape[1] - length for tokens in answers.values()]
table["log-probability"] = list(map(log_probability, answers.values()))
best = table["log-probability"]
assert best["4 beams"] > best["greedy"] > best["sampled"]
likelier = math.exp(best["4 beams"] - best["greedy"])
print(f"4 beams found a text {likelier:.0f} times as likely as the greedy one:\n")
print(tokenizer.decode(beams[0], skip_special_tokens=True))
table.round(2)

# %%
# Greedy is short-sighted: each of its steps is the likeliest, and their product is not. But likely and right are two
# things, and the last part counts the right ones.
#
# Right against varied
# ====================
#
# A program can be run, so we can count. Six exercises, each with a check that a right answer passes:

exercises = """
solve(numbers) | Return the second largest number. | solve([1, 5, 3]) == 3
solve(text) | Return the most frequent character of text. | solve('abb') == 'b'
solve(n) | Return the divisors of n. | list(solve(6)) == [1, 2, 3, 6]
median(values) | Return the median of the values. | median([4, 1, 2, 3]) == 2.5
solve(text) | Make the first letter of each word a capital. | solve('ab c') == 'Ab C'
solve(a, b) | Return the greatest common divisor of a and b. | solve(12, 18) == 6
""".strip().splitlines()
exercises = [line.split(" | ") for line in exercises]

names = "abs all any bool dict divmod enumerate filter float int isinstance len"
names += " list map max min ord chr range reversed round set sorted str sum tuple"
names += " zip"
harmless = {name: getattr(builtins, name) for name in names.split()}
warnings.simplefilter("ignore", SyntaxWarning)  # about what the model writes


@functools.cache
def is_right(program, check, limit=20_000):
    steps = 0

    def trace(frame, *_):
        nonlocal steps
        frame.f_trace_opcodes = True  # Python calls this for each instruction
        steps += 1
        if steps > limit:  # a loop without an end
            raise TimeoutError
        return trace

    space, before = {"__builtins__": harmless}, sys.gettrace()
    try:
        sys.settrace(trace)
        exec(program, space)
        return bool(eval(check, space))
    except Exception:
        return False
    finally:
        sys.settrace(before)


assert is_right("def two():\n    return 2", "two() == 2")
assert not is_right("while True: pass", "True")

# %%
# The few builtins and the limit guard against accidents; they are no defence against code that means harm.
#
# Each setting writes several answers to each exercise, all in one batch (:ref:`l-plot-batch`). *Distinct* counts the
# different texts among the answers to one exercise, and an exercise is *solved* if one of its answers is right.


def answer(sampler, samples):
    prompts = [f'def {head}:\n    """{task}"""' for head, task, _ in exercises]
    prompts = [prompt for prompt in prompts for _ in range(samples)]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    tokens = decodeloop.generate(
        model,
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=64,
        sampler=sampler,
    )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    right, distinct = [], []
    for i, (_, _, check) in enumerate(exercises):
        group = texts[i * samples : (i + 1) * samples]
        right.append(sum(is_right(text, check) for text in group))
        distinct.append(len(set(group)))
    return {
        "answers each": samples,
        "right (%)": 100 * sum(right) / len(texts),
        "distinct": sum(distinct) / len(exercises),
        "solved": sum(count > 0 for count in right),
    }


samples = 4 if FAST else 12
knobs = {
    "no rule": ({}, [1.0, 2.0] if FAST else [1.0, 1.5, 2.0]),
    "top_k=10": ({"top_k": 10}, [2.0]),
    "top_p=0.9": ({"top_p": 0.9}, [2.0]),
    "min_p=0.1": ({"min_p": 0.1}, [2.0, 3.0]),
}
results = {("greedy", 0.0): answer(None, 1)}
for penalty in (1.5, 2.0):
    sampler = Sampler(do_sample=False, repetition_penalty=penalty)
    results[f"greedy, repetition_penalty={penalty}", 0.0] = answer(sampler, 1)
for name, (knob, heat) in knobs.items():
    for t in heat:
        results[name, t] = answer(Sampler(temperature=t, seed=0, **knob), samples)
table = pandas.DataFrame(results).T
table.index.names = ["choice", "temperature"]
table.round(1)

# %%
# Six exercises are few, and one seed's draws are noisy. Still, at the same temperature, the number beside a point, the
# rules differ widely, and more variety goes with fewer right answers.

_, ax = plt.subplots()
for (name, (_, heat)), marker in zip(knobs.items(), "osD^", strict=True):
    points = table.loc[name]
    ax.plot(points["distinct"], points["right (%)"], marker, label=name, ms=8)
    for t in heat:
        place = points.loc[t, ["distinct", "right (%)"]]
        ax.annotate(f"{t:g}", place, (7, 4), textcoords="offset points")
ax.set(title="Right answers against distinct ones, by temperature", ylim=(-4, 80))
ax.set_xlabel(f"distinct answers of {samples} to an exercise")
ax.set_ylabel("right answers (%)")
ax.legend()

drawn = table.loc[list(knobs)]
order = drawn["distinct"].rank().corr(drawn["right (%)"].rank())
print(f"rank correlation of distinct and right: {order:.2f}")
assert order < -0.5

# %%
# Which should I use?
# ===================
#
# If nobody checks the answer, take greedy, or little variety: see *right* in the table. If answers can be checked, as
# programs can, draw several and keep one that passes: then *solved* counts, and greedy has a single try. If you raise
# the temperature, cut the tail as well. On code, leave the repetition penalty off.

right = table["right (%)"]
hot = {name: right[name, 2.0] for name in knobs}
assert max(hot, key=hot.get) != "no rule"
assert right["greedy, repetition_penalty=2.0", 0.0] < right["greedy", 0.0]
assert drawn["solved"].max() >= table.loc[("greedy", 0.0), "solved"]
# %%
# Measured on
# ===========

figures = {
    "open to more than 1 bit (% of tokens)": 100 * open_steps / len(entropy),
    "repetition penalty of 2 (% of tokens that stay first)": shares[-1],
    "4 beams against greedy (times as likely)": likelier,
    "distinct and right answers (rank correlation)": order,
    "greedy (% right)": right["greedy", 0.0],
    "temperature 1 (% right)": right["no rule", 1.0],
}
figures |= {f"temperature 2, {n} (% right)": hot[n] for n in knobs}
decodeloop.provenance(model=loaded, provider=session, figures=figures)
