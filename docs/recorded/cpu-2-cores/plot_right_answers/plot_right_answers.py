"""
.. _l-plot-right-answers:

=================================
Which choice gives right answers?
=================================

:ref:`l-plot-sampling` shows ways to choose a token: always the likeliest, or one drawn, with a temperature and rules
that cut off unlikely ones. Which of them gives right answers? A program can be run, so this page lets a model write
programs in each of these ways, runs them, and counts how many are right and how many are different.

.. image:: /drawings/run-and-check.svg
   :alt: The head of a function goes into a model, which answers it in three ways. Greedy gives one answer, which passes
         the check. Four answers at a low temperature are mostly right and mostly the same text. Four at a high
         temperature are four different texts, of which one passes.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. The model runs in float32, on a GPU too:
rounding is then too small to change which token is drawn.
"""

import builtins
import sys
import warnings

import matplotlib.pyplot as plt
import pandas

import decodeloop
from decodeloop import Sampler

FAST = decodeloop.unit_test_going()  # fewer answers, the same code
samples, temperatures = 12, [1.0, 1.5, 2.0]
if FAST:
    samples, temperatures = 4, [1.0, 2.0]
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
print(f"{loaded.name} model, {loaded.weights} weights, on {model.device}")

# %%
# Exercises with a check
# ======================
#
# Each exercise is the head of a function, a sentence that says what it should do, and a check that a right answer
# passes. The prompts differ in length, so they are padded on the left (:ref:`l-plot-batch`).

exercises = """
solve(numbers) | Return the second largest number. | solve([1, 5, 3]) == 3
solve(text) | Return the most frequent character of text. | solve('abb') == 'b'
solve(n) | Return the divisors of n. | list(solve(6)) == [1, 2, 3, 6]
median(values) | Return the median of the values. | median([4, 1, 2, 3]) == 2.5
solve(text) | Make the first letter of each word a capital. | solve('ab c') == 'Ab C'
solve(a, b) | Return the greatest common divisor of a and b. | solve(12, 18) == 6
""".strip().splitlines()
exercises = [line.split(" | ") for line in exercises]
prompts = [f'def {head}:\n    """{task}"""' for head, task, _ in exercises]
tokenizer.padding_side = "left"
batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
print(prompts[0])

# %%
# Is a program right?
# ===================
#
# It is, if it runs and the check is true. A small model also writes loops without an end, so Python calls ``trace``
# for each instruction, and the program is stopped after 20,000 of them. A program may use harmless builtins only. This
# guards against accidents, and not against code that means harm. Such code belongs in a sandbox.

names = "abs all any bool chr dict divmod enumerate filter float int"
names += " isinstance len list map max min ord range reversed round set sorted"
names += " str sum tuple zip"
harmless = {name: getattr(builtins, name) for name in names.split()}
warnings.simplefilter("ignore", SyntaxWarning)  # about what the model writes


def is_right(program, check):
    steps, space, before = 0, {"__builtins__": harmless}, sys.gettrace()

    def trace(frame, *_):
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += 1
        if steps > 20_000:
            raise TimeoutError
        return trace

    try:
        sys.settrace(trace)
        exec(program, space)
        return bool(eval(check, space))
    except Exception:
        return False
    finally:
        sys.settrace(before)


assert is_right("def two():\n    return 2", "two() == 2")
assert not is_right("def two():\n    return 3", "two() == 2")
assert not is_right("while True: pass", "True")

# %%
# Count the answers
# =================
#
# A setting writes several answers to each exercise, all in one batch. Of each exercise we note how many answers are
# right, and how many different texts there are among all.


def count(sampler, answers_each):
    rows = [i for i in range(len(exercises)) for _ in range(answers_each)]
    tokens = decodeloop.generate(
        model,
        batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        max_new_tokens=64,
        sampler=sampler,
    )
    right, texts = [0] * len(exercises), [set() for _ in exercises]
    for i, answer in zip(rows, tokens, strict=True):
        text = tokenizer.decode(answer, skip_special_tokens=True)
        right[i] += is_right(text, exercises[i][2])
        texts[i].add(text)
    return {
        "right (%)": 100 * sum(right) / len(rows),
        "different": sum(len(each) for each in texts) / len(exercises),
        "solved": sum(n > 0 for n in right),
    }


# %%
# :term:`Greedy <greedy>` always gives the same answer, so one is enough. So it does with a *repetition penalty*, which
# makes tokens less likely that are in the text already.

penalty = Sampler(do_sample=False, repetition_penalty=2.0)
results = {"greedy": count(None, 1), "greedy, penalty 2": count(penalty, 1)}
right = {name: result["right (%)"] for name, result in results.items()}
assert right["greedy, penalty 2"] < right["greedy"]
pandas.DataFrame(results).T.round(1)

# %%
# Programs have good reasons to repeat a name, so the penalty makes them worse.
#
# Draw, with and without a tail
# =============================
#
# Now we draw tokens, at rising :term:`temperature`, with no rule and with each of the rules that cut off the *tail*,
# the many tokens with next to no probability. *Different* is the average number of different texts among the answers to
# an exercise. An exercise is *solved* if at least one of its answers is right.

rules = {
    "no rule": {},
    "top_k=10": {"top_k": 10},
    "top_p=0.9": {"top_p": 0.9},
    "min_p=0.1": {"min_p": 0.1},
}
drawn = {}
for name, rule in rules.items():
    for temperature in temperatures:
        sampler = Sampler(temperature=temperature, seed=0, **rule)
        drawn[name, temperature] = count(sampler, samples)

table = pandas.DataFrame(drawn).T.rename_axis(["rule", "temperature"])
table.round(1)

# %%
# Right against different
# =======================
#
# Six exercises are few, and one seed's draws are noisy. Still, more variety goes with fewer right answers. The numbers
# at the ends of a line are its temperatures, in its color; where lines meet, one may hide another.

order = table["different"].rank().corr(table["right (%)"].rank())
assert order < -0.5
_, ax = plt.subplots()
sides = [(-10, -14), (6, 4), (-14, -10), (4, 6)]  # so that labels stay apart
for name, marker, side in zip(rules, "osD^", sides, strict=True):
    points = table.loc[name]
    line = points["different"], points["right (%)"]
    color = ax.plot(*line, marker + "-", label=name)[0].get_color()
    for temperature, point in points.iloc[[0, -1]].iterrows():
        place = point["different"], point["right (%)"]
        label = {"xytext": side, "textcoords": "offset points", "color": color}
        ax.annotate(f"{temperature:g}", place, **label)
ax.set(title="Right answers against different ones", ylabel="right answers (%)")
ax.set_xlabel(f"different answers of {samples} to an exercise")
ax.margins(y=0.12)
ax.legend()
print(f"rank correlation of different and right: {order:.2f}")

# %%
# Which should I use?
# ===================
#
# If nobody checks the answer, take greedy. If answers can be checked, as programs can, draw several and keep one that
# passes: then *solved* counts, and greedy has a single try. (Many times the work need not solve many more, and at a
# high temperature may solve fewer.) If you raise the temperature, cut off the tail as well; of the rules here, min-p
# kept the most answers right, and the fewest different ones. On code, leave the repetition penalty off: one of 2 did
# harm here.

hot = table.xs(2.0, level="temperature")["right (%)"]
most, alone = table["solved"].max(), results["greedy"]["solved"]
assert right["greedy"] >= table.loc[("no rule", 1.0), "right (%)"]
assert hot.idxmax() == "min_p=0.1"
assert most >= alone
print(f"Right answers at temperature 2: {hot.max():.0f} % with", end=" ")
print(f"{hot.idxmax()}, {hot['no rule']:.0f} % with no rule.")
print(f"Of {len(exercises)} exercises greedy solved {alone:.0f},", end=" ")
print(f"the best setting with {samples} drawn answers each {most:.0f}.")

# %%
# Measured on
# ===========

figures = {
    "distinct and right answers (rank correlation)": order,
    "greedy (% right)": right["greedy"],
    "temperature 1 (% right)": table.loc[("no rule", 1.0), "right (%)"],
}
for name, share in hot.items():
    figures[f"temperature 2, {name} (% right)"] = share
decodeloop.provenance(model=loaded, figures=figures)
