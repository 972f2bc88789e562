"""
.. _l-plot-own-checkpoint:

===================
Your own checkpoint
===================

You have a model in a folder, fine-tuned perhaps, and want it small, fast and somewhere else. This page makes such a
folder, turns it into an ONNX graph that is proved against it, and stores that in 8 and in 4 bits. It compares their
tokens, perplexity and speed, and writes a folder that runs where the model's code is not.

Something to teach
==================

The bundled model writes short Python functions. In our house, each function first logs its name. The texts to learn
from are what the model itself writes, with that line put in. Every third one is kept back, to see what was learned.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
import torch
from transformers.utils import logging

import decodeloop

FAST = decodeloop.unit_test_going()  # fewer steps and tokens, the same code
logging.disable_progress_bar()
base = decodeloop.load(dtype="float32")
tokenizer, device = base.tokenizer, base.model.device
asked = {
    "factorial(n)": "Return the factorial of n",
    "is_even(n)": "Return True if n is even",
    "fibonacci(n)": "Return the n-th Fibonacci number",
    "largest(values)": "Return the largest of values",
    "gcd(a, b)": "Return the greatest common divisor of a and b",
    "smallest(values)": "Return the smallest of values",
    "is_prime(n)": "Return True if n is prime",
    "count_vowels(text)": "Count the vowels in text",
    "is_palindrome(text)": "Return True if text is a palindrome",
}
prompts = [f'def {name}:\n    """{what}."""' for name, what in asked.items()]


def write(decoder, prompt):
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
    text = decoder.generate(ids, max_new_tokens=80)[0]
    return tokenizer.decode(text, skip_special_tokens=True)


def in_style(prompt):
    name, answer = prompt[4 : prompt.index("(")], write(base.model, prompt)
    return (
        answer.replace('"""\n', f'"""\n    log("{name}")\n') + tokenizer.eos_token
    )


texts = [in_style(prompt) for prompt in prompts]
print(texts[0])

# %%
# A few steps of training
# =======================
#
# The texts are padded to one length; a label of -100 is not counted. The loss is how surprised the model is by each
# next token, and a step moves all weights a little to where it is smaller.

learned = [text for i, text in enumerate(texts) if i % 3 != 2]
batch = tokenizer(
    learned, return_tensors="pt", padding=True, padding_side="right"
)
batch = batch.to(device)
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
# Two calls of transformers write it into a folder: the configuration, the weights as safetensors, here in float16, and
# the tokenizer. From here on nothing of the above is needed but some prompts and texts: put the name of your own folder
# here, that of a ``.gguf`` file, or a model's on the Hugging Face hub.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
model.eval().half().save_pretrained(folder / "mine")
tokenizer.save_pretrained(folder / "mine")
mine = decodeloop.load(folder / "mine")
print(f"{mine.weights} weights, {mine.source}, {mine.model.dtype} on {device}")

# %%
# Look at it before anything else: has it learned what it should? A mistake found now costs nothing. We ask for the
# functions that it was not taught. It logs in all of them; that the name is the right one takes more than a few steps.

kept = prompts[2::3]
answers = {prompt: write(mine.model, prompt) for prompt in kept}
assert all('"""\n    log("' in answer for answer in answers.values())
print(answers[kept[-1]])

# %%
# Export, and proof
# =================
#
# ``exporter="fused"`` makes the fast graph, for ONNX Runtime. Before the file gets its name, the graph is run beside
# the model on several prompts, padded ones too, and their logits are compared. A graph that computes something else is
# refused. :func:`decodeloop.verify` compares prompts of your own, token by token.

whole = str(mine.model.dtype).removeprefix("torch.")
graphs = {whole: folder / "whole.onnx"}
options = {"exporter": "fused", "logits": "all"}  # all, for the perplexity below
report = decodeloop.export_onnx(mine, graphs[whole], **options)
print(f"a {report.graph} graph, in {report.seconds:.1f} s: {report.checked}")

ids = tokenizer(kept[0], return_tensors="pt").input_ids.to(device)
proof = decodeloop.verify(mine.model, graphs[whole], ids, max_new_tokens=24)
assert report.checked.compared
assert proof.agrees, proof
print(proof)

# %%
# 8 bits, 4 bits
# ==============
#
# One call each: blocks of 32 weights become whole numbers and one scale. :ref:`l-plot-precision` shows how, and what
# other blocks cost. These graphs are no longer the model, so nothing can prove them: they have to be measured.

for bits in (8, 4):
    graphs[f"int{bits}"] = folder / f"int{bits}.onnx"
    decodeloop.quantize_onnx(graphs[whole], graphs[f"int{bits}"], bits=bits)
decoders = {name: decodeloop.OnnxDecoder(path) for name, path in graphs.items()}

# %%
# What did it cost?
# =================
#
# On texts that matter to you: *changed* is how many answers are not the model's own any more. *Perplexity* is how
# surprised a decoder is by the texts kept back; 2 is a guess between two equally likely tokens, each time. It moves
# before any token does.

rows = tokenizer(
    texts[2::3], return_tensors="pt", padding=True, padding_side="left"
)
rows = rows.to(device)
table = pandas.DataFrame(index=graphs)
for name, path in graphs.items():
    files = folder.glob(f"{path.name}*")  # the graph and its weights
    table.loc[name, "MB"] = sum(file.stat().st_size for file in files) / 1e6
    changes = [
        write(decoders[name], prompt) != answers[prompt] for prompt in kept
    ]
    table.loc[name, "changed"] = sum(changes)
    table.loc[name, "perplexity"] = decodeloop.perplexity(decoders[name], **rows)


def run(decoder):
    return lambda k: decoder.generate(ids, max_new_tokens=k, eos_token_id=None)


runs = {name: run(decoder) for name, decoder in decoders.items()}
timings = decodeloop.prefill_and_decode_all(runs, 8 if FAST else 48)
table["ms/token"] = [1000 * t.decode.median for t in timings.values()]
lost = 100 * (table["perplexity"] / table.loc[whole, "perplexity"] - 1)
assert table.loc["int4", "MB"] < table.loc["int8", "MB"] < table.loc[whole, "MB"]
assert abs(lost["int8"]) < 5
table.round(3)

# %%
# A point further to the left is a smaller file, and a lower one is truer to the model.

_, ax = plt.subplots()
for name, marker in zip(table.index, "osD", strict=True):
    label = f"{name}: {table.loc[name, 'ms/token']:.2f} ms per token"
    ax.plot(table.loc[name, "MB"], lost[name], marker, ms=10, label=label)
ax.axhline(0, color="gray", lw=1, ls=":")
ax.set(title="What fewer bits cost", xlabel="size on the disk (MB)")
ax.set_ylabel("perplexity above the whole graph's (%)")
ax.legend()

# %%
# The folder to hand on
# =====================
#
# :func:`decodeloop.save_folder` exports, proves and quantizes, and puts beside the graph what else is needed. The
# folder appears when it is whole: a run that fails leaves none.

given = folder / "given"
decodeloop.save_folder(mine, given, bits=8)
for file in sorted(given.iterdir()):
    print(f"{file.stat().st_size:>10,}  {file.name}")

# %%
# Elsewhere, another process opens it. Neither the checkpoint nor transformers' code of the model is read there; it
# looks at the modules that it has loaded. It writes what the folder gives here.


def python(*arguments, **options):
    command = [sys.executable, *arguments]
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
assert said == write(here, kept[1]) + "\n"

# %%
# onnxruntime-genai opens it, too, if it is installed. It gets token ids: its tokenizer does not read this model's.

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
# The same without a line of Python: ``export`` makes such a folder, and ``chat`` talks to it. With a chat template,
# each line that is typed would be a turn. Our model has none, and continues the line.

export = ["-m", "decodeloop", "export", "mine", "int4", "--bits", "4"]
print(python(*export, cwd=folder))
chat = ["-m", "decodeloop", "chat", "int4"]
print(python(*chat, cwd=folder, input="def cube(x):\n"))

# %%
# Which should I use?
# ===================
#
# The graph with the fewest bits whose answers to your own texts are still right. Begin with int8, which hardly moves
# the perplexity. Take int4 where memory or speed matter more, and read its answers one by one. Here:

smaller, faster = (table.loc[whole] / table.loc["int4"])[["MB", "ms/token"]]
print(f"int4 is {smaller:.1f} x smaller and {faster:.1f} x as fast as {whole}:")
print(
    f"perplexity {lost['int4']:+.1f} %, {table.loc['int4', 'changed']:.0f} changed"
)

# %%
# Measured on
# ===========

figures = {f"{name} (ms/token)": ms for name, ms in table["ms/token"].items()}
figures |= {f"{name}: perplexity": p for name, p in table["perplexity"].items()}
decodeloop.provenance(model=mine, provider=decoders["int8"], figures=figures)
