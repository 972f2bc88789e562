"""
.. _l-plot-own-checkpoint:

===================
Your own checkpoint
===================

You have a model in a folder, fine-tuned perhaps, and want it small, fast and somewhere else. This page makes such a
folder, turns it into an ONNX graph that is proved against it, and stores that in 8 and in 4 bits. It compares their
tokens, perplexity and speed, and writes a folder that runs on a machine without the model's code.

.. image:: /drawings/hand-on.svg
   :alt: Six boxes, one after the other: a checkpoint; trying it; its graph; the proof beside the model; 8 or 4 bits,
      which may change tokens, so that one measures it; and a folder with graph, tokenizer and settings.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer steps and tokens, the same code
logging.disable_progress_bar()
base = decodeloop.load(dtype="float32")
tokenizer, device = base.tokenizer, base.model.device
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
asked = {
    "factorial(n)": "Return the factorial of n",
    "fibonacci(n)": "Return the n-th Fibonacci number",
    "largest(values)": "Return the largest of values",
    "gcd(a, b)": "Return the greatest common divisor of a and b",
    "smallest(values)": "Return the smallest of values",
    "is_prime(n)": "Return True if n is prime",
    "count_vowels(text)": "Count the vowels in text",
    "is_palindrome(text)": "Return True if text is a palindrome",
}
prompts = [f'def {name}:\n    """{what}."""' for name, what in asked.items()]

# %%
# Something to teach
# ==================
#
# If you have a folder already, skip to "The checkpoint". We make one: the bundled model writes short Python functions,
# and we want each of them to begin by logging its name. The texts to learn from are what the model writes itself, with
# that line put in. Every third text is kept back, to see later what was learned.


def write(decoder, prompt):
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
    text = decoder.generate(ids, max_new_tokens=80)[0]
    return tokenizer.decode(text, skip_special_tokens=True)


texts = []
for prompt in prompts:
    name = prompt[4 : prompt.index("(")]
    logged = f'"""\n    log("{name}")\n'
    text = write(base.model, prompt).replace('"""\n', logged)
    texts.append(text + tokenizer.eos_token)
print(texts[0])

# %%
# Now a few steps of training. The texts are padded to one length: on the right, as is usual in training, where no token
# attends to what comes after it. A label of -100 is not counted. Each step changes the weights so that the *loss*
# falls.

learned = [text for i, text in enumerate(texts) if i % 3 != 2]
padded = {"return_tensors": "pt", "padding": True}
batch = tokenizer(learned, padding_side="right", **padded).to(device)
labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
model, losses = base.model.train(), []
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
for _ in range(6 if FAST else 10):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0] / 4
print(f"loss: {losses[0]:.2f} at first, {losses[-1]:.2f} at last")

# %%
# The checkpoint
# ==============
#
# Two calls of transformers write a folder with the configuration, the weights as safetensors, here in float16, and the
# tokenizer. :func:`decodeloop.load` reads it. This is where you put the name of your own folder, of a ``.gguf`` file,
# or of a model on the Hugging Face hub. Look at what it writes before you convert it, since no later step can mend it.
# We ask for the functions whose texts were kept back: it logs in each of them, whether or not the name is right.

model.eval().half().save_pretrained(folder / "mine")
tokenizer.save_pretrained(folder / "mine")
mine = decodeloop.load(folder / "mine")
print(f"{mine.weights} weights, {mine.source}, {mine.model.dtype} on {device}")

kept = prompts[2::3]
answers = {prompt: write(mine.model, prompt) for prompt in kept}
assert all('"""\n    log("' in answer for answer in answers.values())
print(answers[kept[-1]])

# %%
# Export, and proof
# =================
#
# An ONNX graph is the model as a list of operators, which runs without PyTorch; :ref:`l-plot-export` tells how it comes
# about. ``exporter="fused"`` makes the graph that is fast in ONNX Runtime. Before the file is written, the export runs
# the graph and the model on the same texts, padded ones too, and compares their :term:`logits`, one number for each
# possible next token. A graph that computes something else is refused. :func:`decodeloop.verify` takes your own
# prompts.

whole = str(mine.model.dtype).removeprefix("torch.")
graphs = {whole: folder / "whole.onnx"}
options = {"exporter": "fused", "logits": "all"}  # all, for the perplexity below
report = decodeloop.export_onnx(mine, graphs[whole], **options)
print(f"a {report.graph} graph, in {report.seconds:.1f} s: {report.checked}")
ids = tokenizer(kept[0], return_tensors="pt").input_ids.to(device)
proof = decodeloop.verify(mine.model, graphs[whole], ids, max_new_tokens=24)
assert proof.agrees

# %%
# 8 bits, 4 bits: what did it cost?
# =================================
#
# :term:`Quantization <quantization>` stores each block of 32 weights as small whole numbers and one scale;
# :ref:`l-plot-precision` shows how. Rounded weights are other weights, so the new graphs do not compute what the model
# does, and no proof is possible. Instead we measure how far they are from it.

for bits in (8, 4):
    graphs[f"int{bits}"] = folder / f"int{bits}.onnx"
    decodeloop.quantize_onnx(graphs[whole], graphs[f"int{bits}"], bits=bits)
decoders = {name: decodeloop.OnnxDecoder(path) for name, path in graphs.items()}


def run(decoder):
    return lambda k: decoder.generate(ids, max_new_tokens=k, eos_token_id=None)


runs = {name: run(decoder) for name, decoder in decoders.items()}
timings = decodeloop.prefill_and_decode_all(runs, 8 if FAST else 48)

# %%
# Measure it on texts that matter to you. *Changed* says how many of the two answers differ from the model's own,
# *spread* how far runs lay apart. :term:`Perplexity <perplexity>` says how surprised a decoder is by the texts that
# were kept back: at a perplexity of 2, it is as unsure of each token as if it had to guess between two. It is made of
# the probabilities of all tokens, so it also shows a change that is too small to change an answer. Here the padding
# stands on the left, as in generation. The speed is that of a small model; :ref:`l-plot-precision` has a large one.

rows = tokenizer(texts[2::3], padding_side="left", **padded).to(device)
table = timings.table()
for name, decoder in decoders.items():
    with_weights = folder.glob(f"{graphs[name].name}*")
    changes = [write(decoder, prompt) != answers[prompt] for prompt in kept]
    table.loc[name, "MB"] = sum(f.stat().st_size for f in with_weights) / 1e6
    table.loc[name, "changed"] = sum(changes)
    table.loc[name, "perplexity"] = decodeloop.perplexity(decoder, **rows)
lost = 100 * (table["perplexity"] / table["perplexity"][whole] - 1)
assert abs(lost["int8"]) < 5
table["MB"].plot.barh(title="Size on the disk", xlabel="MB", ylabel="")
table.round(3)

# %%
# The folder to hand on
# =====================
#
# :func:`decodeloop.save_folder` exports, proves and quantizes in one call, and puts beside the graph what else it
# needs: configuration, settings of generation, tokenizer. If anything fails, no folder is left behind.

given = folder / "given"
decodeloop.save_folder(mine, given, bits=8)
for file in sorted(given.iterdir()):
    print(f"{file.stat().st_size:>10,}  {file.name}")

# %%
# Another process opens the folder, as another machine would. It needs neither the checkpoint nor transformers' code of
# the model: an assertion looks for that code among the modules that were imported.


def python(*command, **options):
    command = [sys.executable, *command]
    return subprocess.check_output(command, text=True, **options)


elsewhere = f"""
import sys, decodeloop
decoder, tokenizer = decodeloop.open_folder({str(given)!r})
ids = tokenizer({kept[1]!r}, return_tensors="pt").input_ids
text = decoder.generate(ids, max_new_tokens=80)[0]
assert not [name for name in sys.modules if ".modeling_phi" in name]
print(tokenizer.decode(text, skip_special_tokens=True))"""
said = python("-c", elsewhere)
print(said)
here, _ = decodeloop.open_folder(given)
assert said == write(here, kept[1]) + "\n"  # the same in this process

# %%
# `onnxruntime-genai <https://onnxruntime.ai/docs/genai/>`_, which has a loop of its own in C++, opens such a folder
# too, if installed; tried here on a CPU, for 30 tokens, and given ids, as it cannot read every ``tokenizer.json``.

if importlib.util.find_spec("onnxruntime_genai") and device.type == "cpu":
    import onnxruntime_genai as genai

    engine = genai.Model(str(given))
    settings = genai.GeneratorParams(engine)
    settings.set_search_options(max_length=ids.shape[1] + 30)
    generator = genai.Generator(engine, settings)
    generator.append_tokens(ids[0].numpy().astype("int32"))
    while not generator.is_done():
        generator.generate_next_token()
    print(tokenizer.decode(generator.get_sequence(0)))

# %%
# Two commands
# ============
#
# The same without Python: ``export`` makes such a folder, and proves the graph before its weights are rounded. ``chat``
# talks to the model in it. With a :term:`chat template`, each line typed is a turn of a chat; ours has none.

export = ["-m", "decodeloop", "export", "mine", "int4", "--bits", "4"]
print(python(*export, cwd=folder))
chat = ["-m", "decodeloop", "chat", "int4"]
print(python(*chat, cwd=folder, input="def gcd(a, b):\n"))

# %%
# Which should I use?
# ===================
#
# On a GPU with memory enough, the checkpoint's 16 bits (:ref:`l-plot-precision`). Elsewhere begin with int8, whose
# perplexity was within 5 % here. Take int4 where memory matters more, and read its answers to your own texts one by
# one; its speed shows in a larger model (:doc:`/which`). In this run, of this small one:

faster = table["tokens/s"]["int4"] / table["tokens/s"][whole]
print(f"int4: {faster:.2f} x {whole}'s speed, perplexity {lost['int4']:+.1f} %")

# %%
# Measured on
# ===========

figures = table["next token (ms)"].add_suffix(" (ms/token)").to_dict()
figures |= table["perplexity"].add_suffix(": perplexity").to_dict()
decodeloop.provenance(model=mine, provider=decoders["int8"], figures=figures)
