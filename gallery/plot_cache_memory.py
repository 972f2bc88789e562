"""
.. _l-plot-cache-memory:

============================
What does the KV cache cost?
============================

Keeping the keys and values of a text saves time (:ref:`l-plot-kv-cache`), and takes memory that grows with every token.
This page says how many bytes a token takes and what some models do to need fewer. Then it shows the kinds of cache that
``transformers`` has, turns one into another in the middle of an answer, and rewinds a cache to use it for another
prompt.

.. image:: /drawings/kinds-of-cache.svg
   :alt: Three caches before and after a token is added. The dynamic one is copied into a new tensor that is longer by
         one place. The static one has a fixed number of places, the next free one is filled, and nothing moves. The
         one with a window has dropped its oldest token to make room.
   :class: drawing

Setup: what is loaded, and where. Nothing in this cell is the topic; skip it. It loads the small model that comes with
the package, in float32, so that rounding does not blur a comparison of tokens.
"""

import matplotlib.pyplot as plt
import pandas
import torch
from transformers import MistralConfig, MistralForCausalLM

import decodeloop
from decodeloop import cache_to_tensors, string_type
from decodeloop.models.shapes import SHAPES

FAST = decodeloop.unit_test_going()  # shorter texts, the same code
loaded = decodeloop.load(dtype="float32")
model, tokenizer = loaded.model, loaded.tokenizer
prompt = '''def print_prime(n):
    """
    Print all primes between 1 and n
    """'''
input_ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
p = input_ids.shape[1]
answer = decodeloop.generate(model, input_ids)
print(f"{loaded.name} model on {model.device}, a prompt of {p} tokens")

# %%
# What one token takes
# ====================
#
# In each layer, a token has a key and a value in each :term:`head`. So it takes 2 x layers x heads x size of a head
# numbers. (In some models several heads share keys and values, which the next section explains. Then each shared key
# counts once.) We compare that with what a real cache holds. :func:`decodeloop.cache_to_tensors` lists its tensors
# layer by layer, in the order in which an ONNX graph takes them (:ref:`l-plot-export`). ``T1s1x4x22x64`` is one of
# float32 and of that shape (``T10``: float16), ``#2[...]`` a list of two.


def bytes_of_token(config, bytes_of_number):
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * size
    return numbers * bytes_of_number


with torch.no_grad():
    cache = model(input_ids).past_key_values
flat = cache_to_tensors(cache)
print(type(cache).__name__, len(flat), "tensors:", string_type(flat[:2], True))
total = sum(tensor.nbytes for tensor in flat)
assert total == p * bytes_of_token(model.config, model.dtype.itemsize)
print(f"{total:,} bytes for {p} tokens")

# %%
# Published models
# ================
#
# In *multi-head* attention (:term:`MHA`) every head has keys and values of its own. In the table, "3 of 9" are the KV
# heads and the heads of queries. In *grouped-query* attention (:term:`GQA`, `Ainslie et al. 2023
# <https://arxiv.org/abs/2305.13245>`_) several heads of queries share one head of keys and values, and only these *KV
# heads* count. The table applies the formula to published shapes in 16-bit numbers. PyTorch's *meta* device knows the
# shapes of tensors without holding their numbers, so that no weights are needed. The last column says after how many
# tokens, those of all rows of a batch added up, the cache is as large as the weights. ``google/gemma-3-1b-it`` is left
# out, because most of its layers forget, which is the topic of the next section, and ``microsoft/phi-1``, because it
# has the shape of phi-1_5.

facts = {}
for name in sorted(SHAPES.keys() - {"microsoft/phi-1", "google/gemma-3-1b-it"}):
    options = {"device": "meta", "dtype": torch.float16}
    meta = decodeloop.load(name, random_weights=True, **options).model
    token = bytes_of_token(meta.config, 2)
    built = decodeloop.empty_tensors(meta.config, length=10, **options)
    assert sum(tensor.nbytes for tensor in built) == 10 * token
    weights = sum(weight.nbytes for weight in meta.parameters())
    kv, heads = meta.config.num_key_value_heads, meta.config.num_attention_heads
    as_large = round(weights / token)
    facts[name] = f"{kv} of {heads}", token / 1024, weights / 2**20, as_large

columns = "KV heads", "KiB per token", "weights (MiB)", "tokens = weights"
pandas.DataFrame(facts, index=columns).T.infer_objects().round(1)

# %%
# Layers that forget
# ==================
#
# Another way to keep a cache small is to forget. With a :term:`sliding window` of *w* tokens, as in `Mistral 7B
# <https://arxiv.org/abs/2310.06825>`_, a token sees itself and the w - 1 tokens before it, and older ones are dropped.
# Small models with random weights read longer and longer texts. The assertion says that their caches hold exactly the
# bytes of the formula, and with a window those of at most w - 1 tokens, so 127 is among the lengths.

shape = {"hidden_size": 256, "num_attention_heads": 8, "head_dim": 32}
shape |= {"vocab_size": 100, "intermediate_size": 256, "num_hidden_layers": 2}
lengths = [16, 64, 127, 256, 512] if FAST else [16, 64, 127, 256, 512, 1024, 2000]
held = pandas.DataFrame(index=lengths)
for kv_heads, window in ((8, None), (2, None), (1, None), (2, 128)):
    shape |= {"num_key_value_heads": kv_heads, "sliding_window": window}
    small = MistralForCausalLM(MistralConfig(**shape)).eval()
    name = f"{kv_heads} of 8 KV heads"
    if window:
        name += f", window {window}"
    for length in lengths:
        text = torch.ones(1, length, dtype=torch.int64)
        with torch.no_grad():
            windowed = small(text).past_key_values  # the last one is used below
        kept = min(length, window - 1) if window else length
        total = sum(tensor.nbytes for tensor in cache_to_tensors(windowed))
        assert total == kept * bytes_of_token(small.config, 4)
        held.loc[length, name] = total / 1024

_, ax = plt.subplots()
held.plot(ax=ax, style=["o-", "s-", "^-", "D:"], logx=True, logy=True)
ax.set(title="Memory of a cache", xlabel="tokens so far", ylabel="KiB")
ax.set_xticks(lengths, lengths)
ax.minorticks_off()

# %%
# Sharing heads makes the line lower, and a window makes it level off. Both need a model that was trained so. What a
# window does to an answer is the topic of :ref:`l-plot-long-text`, and :ref:`l-plot-states` shows models whose memory
# does not grow at all.
#
# Kinds of cache, and one into another
# ====================================
#
# A ``DynamicCache`` grows: each step copies it into new tensors that are longer by one token. A ``StaticCache`` is a
# set of buffers of fixed size, its :term:`capacity`, in which each step fills the next place. Compiled code wants that,
# because a new shape may mean compiling again, and a :term:`CUDA graph` needs it, because it replays a step at the same
# addresses. The flat list of tensors turns into either, and the answer goes on from there. It is the same answer. The
# list must end one token before the prompt does, because the model has to be given at least one token to say what comes
# next.

flat = cache_to_tensors(decodeloop.crop_cache(cache, p - 1))
forms = {
    "dynamic": decodeloop.tensors_to_cache(flat, model.config),
    "static": decodeloop.tensors_to_static(flat, model.config, capacity=256),
}
facts = pandas.DataFrame(index=forms)
for name, form in forms.items():
    before = form.layers[0].keys
    again = decodeloop.generate(model, input_ids, past_key_values=form)
    assert torch.equal(again, answer)
    after = form.layers[0].keys
    moved = after.data_ptr() != before.data_ptr()
    assert moved == (name == "dynamic")
    facts.loc[name, "places before"] = before.shape[2]
    facts.loc[name, "places after"] = after.shape[2]
    facts.loc[name, "filled"] = cache_to_tensors(form)[0].shape[2]
    facts.loc[name, "in memory"] = "moved" if moved else "stayed"

facts.convert_dtypes()

# %%
# Code written for older versions of ``transformers`` wants a tuple with a pair of keys and values for each layer. The
# tensors are not copied for that.

pairs = decodeloop.tensors_to_legacy(flat)
assert all(a is b for a, b in zip(cache_to_tensors(pairs), flat, strict=True))
print(string_type(pairs[:2], with_shape=True), "...")

# %%
# A cache for another prompt
# ==========================
#
# :func:`decodeloop.crop_cache` rewinds a cache to an earlier token. Where another prompt begins with the same tokens,
# the cache of the first one serves it too, and only the rest has to be read.

other = tokenizer(prompt.replace("primes", "even numbers"), return_tensors="pt")
other = other.input_ids.to(model.device)
same = other[0, : p - 1] == input_ids[0, : other.shape[1]][: p - 1]
shared = int(same.int().cumprod(0).sum())  # up to the first that differs
decodeloop.crop_cache(cache, shared)
again = decodeloop.generate(model, other, past_key_values=cache)
assert torch.equal(again, decodeloop.generate(model, other))
print(f"{shared} of {other.shape[1]} tokens were in the cache already")

# %%
# A cache with a window cannot be rewound to an early token, because the tokens in the window before that one were
# dropped. The package refuses it.

try:
    decodeloop.crop_cache(windowed, 200)
    raise RuntimeError("a window was rewound beyond what it holds")
except ValueError as error:
    print("the window:", str(error).partition(":")[0])

# %%
# Which should I use?
# ===================
#
# A dynamic cache will do unless something asks for fixed buffers. Give these no more places than the text needs, since
# they take the memory of all of them from the start. Every step reads the cache as it reads the weights, so a large one
# costs time as well: with some kernels long before it is as large as the weights (:ref:`l-plot-states`), but not while
# starting operators takes longer. Where it costs time, take a model with fewer KV heads or with a window.
#
# Measured on
# ===========

figures = held.iloc[-1].add_suffix(f", {lengths[-1]} tokens (KiB)")
decodeloop.provenance(model=loaded, dtype=model.dtype, figures=figures)
