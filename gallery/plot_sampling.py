"""
.. _l-plot-sampling:

=============================
How is the next token chosen?
=============================

A model does not write text. It gives every token of its vocabulary a probability, and something else picks one. This
page looks at real distributions of a real answer, draws what temperature, top-k, top-p, min-p and a repetition
penalty do to them, and shows that a seed gives the same tokens on PyTorch and on ONNX. Then it counts: which choice
gives the likeliest text, which gives right programs, and what variety costs.

Load the model
==============

Everything here runs in float32, on a GPU too. Rounding is then too small to tip the draws of this page, whatever
computes them.
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
print(
    f"{type(model).__name__}, {model.config.vocab_size} tokens, on {model.device}"
)

# %%
# A distribution for every token
# ==============================
#
# The prompt below leaves everything open: not even the function's name says what it should do. We let the model answer
# with the most likely token each time, which is called *greedy*. Then one pass over the whole text gives the
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
assert entropy[unsure] > 4
assert entropy[sure] < 0.01


def look(step):
    top = log_probs[step].exp().topk(3)
    likely = zip(map(tokenizer.decode, top.indices), top.values, strict=True)
    return {
        "the text ends in": repr(
            tokenizer.decode(greedy[0, : length + step])[-20:]
        ),
        "bits": round(float(entropy[step]), 4),
        "likeliest tokens": ", ".join(f"{t!r} {p:.1%}" for t, p in likely),
    }


rows = {"least sure": unsure, "median": int(entropy.argsort()[len(entropy) // 2])}
pandas.DataFrame({k: look(i) for k, i in (rows | {"surest": sure}).items()}).T

# %%
# The picture of the whole answer shows where it was decided. In a few places the model had a real choice; at nearly
# all others one token has almost all of the probability, and a draw would hardly ever take another.

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
# Each curve below is one distribution, its tokens sorted from the likeliest to the least. The same temperature does
# different things to them. In the open place, the least sure one, it moves weight among tokens that may well come. In
# the sure place it moves weight to thousands of tokens that are all wrong there: little at one step, but an answer has
# many.

temperatures = [0.5, 1.0, 2.0]
_, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
places = {"open": unsure, "sure": sure}
for ax, (name, step) in zip(axes, places.items(), strict=True):
    for temperature, line in zip(temperatures, ["--", "-", ":"], strict=True):
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
# Those thousands of tokens are called the tail: each has next to no probability, together they have some, and one slip
# can spoil an answer. Three rules cut it off. *Top-k* keeps the k likeliest tokens. *Top-p* keeps the likeliest ones
# until their probabilities sum to p. *Min-p* keeps those at least min_p times as likely as the likeliest. All three
# fit in three lines. :class:`decodeloop.Sampler` leaves them to ``transformers``' logits processors; they keep the same
# tokens.


def keep(logits, top_k=None, top_p=math.inf, min_p=0.0):
    p, order = logits.softmax(dim=-1).sort(descending=True)
    kept = (p.cumsum(dim=-1) - p < top_p) & (p >= min_p * p[0])
    return order[:top_k][kept[:top_k]]


rules = {
    "everything": ({}, None),
    "top_k=10": ({"top_k": 10}, transformers.TopKLogitsWarper(10)),
    "top_p=0.9": ({"top_p": 0.9}, transformers.TopPLogitsWarper(0.9)),
    "min_p=0.1": ({"min_p": 0.1}, transformers.MinPLogitsWarper(0.1)),
}
kept = {}
for name, (rule, processor) in rules.items():
    kept[name] = [keep(row, **rule) for row in logits]
    if processor:
        finite = processor(None, logits).isfinite()
        assert [set(k.tolist()) for k in kept[name]] == [
            set(row.nonzero().flatten().tolist()) for row in finite
        ]

counts = {n: [len(k) for k in steps] for n, steps in kept.items()}
table = pandas.DataFrame(counts, index=range(len(entropy))).T
table[[unsure, sure]].set_axis(
    ["kept in the open place", "in the sure place"], axis=1
)

# %%
# Top-k keeps as many tokens where there is one right one as where there are a hundred. The other two follow the
# distribution. This is the open place after each rule: the likelier tokens stay, and share the whole probability.

assert counts["top_p=0.9"][sure] == counts["min_p=0.1"][sure] == 1
_, axes = plt.subplots(1, 4, figsize=(9, 3.2), sharey=True, sharex=True)
for ax, (name, steps) in zip(axes, kept.items(), strict=True):
    p = logits[unsure, steps[unsure]].softmax(dim=-1).cpu()
    ax.loglog(range(1, len(p) + 1), p)
    ax.fill_between(range(1, len(p) + 1), p, 1e-6, alpha=0.4)
    ax.set(title=f"{name}\n{len(p)} tokens", xlabel="rank", ylim=(1e-6, 1))
axes[0].set_ylabel("probability")

# %%
# A penalty on repetition
# =======================
#
# A *repetition penalty* lowers every token that the text already holds: a positive logit is divided by it, a negative
# one multiplied. It is meant for prose that goes round in circles. But programs repeat themselves for good reasons.
# We penalise an answer's own tokens, each at the place where the model wrote it, and count how many are still the most
# likely.


def still_first(penalty):
    process = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    texts = (greedy[:, : length + step] for step in range(len(logits)))
    best = [
        process(t, x[None]).argmax() for t, x in zip(texts, logits, strict=True)
    ]
    return float((torch.stack(best) == greedy[0, length:]).float().mean())


penalties = [1.0, 1.1, 1.2, 1.3, 1.5, 2.0]
shares = [still_first(penalty) for penalty in penalties]
assert shares[0] == 1
assert shares[-1] < 1
_, ax = plt.subplots(figsize=(6, 3))
ax.plot(penalties, [100 * share for share in shares], "o-")
ax.set(title="Tokens of the answer that stay first", ylim=(0, 105))
ax.set_xlabel("repetition penalty")
ax.set_ylabel("% of the tokens")

# %%
# A seed
# ======
#
# To draw a token takes one random number between 0 and 1: lay the probabilities end to end, and see on which token the
# number falls. The *seed* fixes the sequence of these numbers. If they come from a generator on the CPU, they are the
# same whatever runs the model. To show it, the ONNX graph below runs on the CPU, wherever the PyTorch model is.


@torch.no_grad()
def sample(
    model, input_ids, eos_token_id, seed, temperature=1.0, max_new_tokens=100
):
    generator = torch.Generator().manual_seed(seed)
    unread, cache = input_ids, None
    for _ in range(max_new_tokens):
        outputs = model(unread, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        p = (outputs.logits[:, -1] / temperature).double().softmax(dim=-1)
        number = torch.rand(1, 1, dtype=torch.float64, generator=generator)
        unread = torch.searchsorted(
            p.cumsum(dim=-1), number.to(p.device), right=True
        )
        input_ids = torch.cat([input_ids, unread], dim=-1)
        if unread.item() == eos_token_id:
            break
    return input_ids


drawn = sample(model, input_ids, tokenizer.eos_token_id, seed=3)
assert torch.equal(
    drawn, decodeloop.generate(model, input_ids, sampler=Sampler(seed=3))
)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.onnx"
    decodeloop.export_onnx(model, path, exporter="gqa")
    session = decodeloop.OnnxDecoder(path, device="cpu")
assert torch.equal(drawn, session.generate(input_ids, sampler=Sampler(seed=3)))

# %%
# PyTorch and ONNX Runtime drew the same tokens. In a batch, a list of seeds gives each row its own; a row then writes
# what it writes alone. Three seeds, three functions, from one prompt:

seeds = [3, 4, 5]
rows = input_ids.expand(len(seeds), -1)
batch = decodeloop.generate(model, rows, sampler=Sampler(seed=seeds))
for seed, row in zip(seeds, batch, strict=True):
    alone = decodeloop.generate(model, input_ids, sampler=Sampler(seed=seed))[0]
    assert torch.equal(row[: len(alone)], alone)
    print(tokenizer.decode(alone, skip_special_tokens=True))

# %%
# The likeliest text
# ==================
#
# Greedy takes the likeliest token each time. Is the result the likeliest text? The probability of an answer is the
# product of those of its tokens, so its logarithm is a sum. *Beam search* keeps the best few beginnings instead of
# one, here four, and compares them when they end. ``generate`` by default compares the average per token, which favours
# long answers; with ``length_penalty=0`` it compares the sums.


def log_probability(tokens):
    with torch.no_grad():
        log_probs = model(tokens).logits.log_softmax(dim=-1)[:, length - 1 : -1]
    return float(log_probs.gather(-1, tokens[:, length:, None]).sum())


beam = functools.partial(
    model.generate, input_ids, num_beams=4, max_new_tokens=100, do_sample=False
)
answers = {
    "greedy": greedy,
    "sampled, temperature 1": drawn,
    "4 beams, average per token": beam(),
    "4 beams, sum": beam(length_penalty=0.0),
}
table = pandas.DataFrame(index=answers)
table["tokens"] = [tokens.shape[1] - length for tokens in answers.values()]
table["log-probability"] = [
    log_probability(tokens) for tokens in answers.values()
]
best = table["log-probability"]
assert best["4 beams, sum"] > best["greedy"] > best["sampled, temperature 1"]
times = math.exp(best["4 beams, sum"] - best["greedy"])
print(f"The beams found a text {times:.0f} times as likely as the greedy one:\n")
print(tokenizer.decode(answers["4 beams, sum"][0], skip_special_tokens=True))
table.round(2)

# %%
# Greedy is short-sighted: its first step into the docstring was the likeliest one, and led to less likely ones. Its
# program fails when run, since nothing gives ``x2`` a value, and the one of the beams does what it says. But that is
# luck: likely and right are two things, and the last part counts the right ones.
#
# Right against varied
# ====================
#
# A program can be run, so we can count. Here are six exercises, each with a check that a right answer passes. The
# answers get a few harmless builtins and are stopped after 20,000 instructions, since a loop without end is a common
# mistake. That guards against accidents; it is no defence against code that means harm.

exercises = {}
for line in """
solve(numbers) | Return the second largest number. | solve([1, 5, 3]) == 3
solve(text) | Return the most frequent character of text. | solve('abb') == 'b'
solve(n) | Return the divisors of n. | list(solve(6)) == [1, 2, 3, 6]
median(values) | Return the median of the values. | median([4, 1, 2, 3]) == 2.5
solve(text) | Make the first letter of each word a capital. | solve('ab c') == 'Ab C'
solve(a, b) | Return the greatest common divisor of a and b. | solve(12, 18) == 6
""".strip().splitlines():
    head, task, check = line.split(" | ")
    exercises[f'def {head}:\n    """{task}"""'] = check

names = (
    "abs all any bool dict divmod enumerate filter float int isinstance len list"
)
names += " map max min ord chr range reversed round set sorted str sum tuple zip"
harmless = {name: getattr(builtins, name) for name in names.split()}
warnings.simplefilter("ignore", SyntaxWarning)  # about what the model writes


@functools.cache
def is_right(program, check, limit=20_000):
    steps = 0

    def trace(frame, *_):
        nonlocal steps
        frame.f_trace_opcodes = True  # Python calls this for each instruction
        steps += 1
        if steps > limit:
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
# Each setting writes several answers to each exercise, all in one batch (:ref:`l-plot-batch`). An answer is *right* if
# it passes the check, and an exercise is *solved* if one of its answers is right. *Distinct* counts the different
# texts among the answers to one exercise.


def answer(sampler, samples):
    prompts = [prompt for prompt in exercises for _ in range(samples)]
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left"
    ).to(model.device)
    tokens = decodeloop.generate(
        model,
        inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=64,
        sampler=sampler,
    )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    groups = [texts[i : i + samples] for i in range(0, len(texts), samples)]
    right = [
        sum(is_right(text, check) for text in group)
        for group, check in zip(groups, exercises.values(), strict=True)
    ]
    return {
        "answers each": samples,
        "right (%)": 100 * sum(right) / len(texts),
        "distinct": sum(len(set(group)) for group in groups) / len(groups),
        "solved": sum(count > 0 for count in right),
    }


samples = 4 if FAST else 16
hot = [2.0] if FAST else [1.5, 2.0]
knobs = {
    "no rule": ({}, [1.0, *hot]),
    "top_k=10": ({"top_k": 10}, hot),
    "top_p=0.9": ({"top_p": 0.9}, hot),
    "min_p=0.1": ({"min_p": 0.1}, [*hot, 3.0]),
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
# Six exercises are few, and one seed's draws are noisy. Still, the plot says something about the knobs. At the same
# temperature, the number beside a point, they differ widely. Yet the points lie close to one falling curve: variety
# costs right answers, whichever knob buys it.

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
# If nobody checks the answer, take what is right most often: the lines below name it, and greedy is the one to beat. If
# answers can be checked, as programs can, draw several and keep one that passes: then the count of solved exercises
# matters, and greedy has a single try. If you raise the temperature, cut the tail as well; the lines say what each
# rule saves. On code, leave the repetition penalty off.

hottest = hot[-1]
for name in knobs:
    row = table.loc[(name, hottest)]
    print(f"temperature {hottest}, {name}: {row['right (%)']:.0f} % right")
for column in ("right (%)", "solved"):
    top = table[column].max()
    which = [
        f"{n} at {t:g}" if t else n for n, t in table[table[column] == top].index
    ]
    print(f"most {column}: {top:.0f}, by {'; '.join(which)}")

# %%
# Measured on
# ===========

decodeloop.provenance(model=loaded.name, provider=session.providers[0])
