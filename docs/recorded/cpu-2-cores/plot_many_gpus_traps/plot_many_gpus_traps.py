"""
.. _l-plot-many-gpus-traps:

===============================
What goes wrong on several GPUs
===============================

A model that is spread over several processes (:ref:`l-plot-many-gpus`) can go wrong in ways that a single process does
not know. Some of them are silent: the text is another one, or nothing is saved. This page walks into five of them, each
caught by an assertion, and says what helps. At its end it shows which error one gets from a run whose ranks fail.

.. image:: /drawings/other-texts.svg
   :alt: Two ranks with one prompt. Without a seed they draw different numbers and choose different tokens.
         With one seed, they draw and choose the same.
   :class: drawing

- `No seed`_: each rank writes another text.
- `Heads that do not divide`_: three heads of keys, two ranks.
- `No plan`_: an error, or the whole model on each rank.
- `Layers in two processes`_: other tokens.
- `A baseline with other threads`_: a gain that is none.

Setup
=====

Nothing in this cell is the topic; skip it. All of these traps can be shown without GPUs, so here two processes, the
*ranks* (:term:`rank`), share the CPU. ``spread`` hands transformers the weights of a model that is in memory already;
mostly it reads them from a folder. ``run`` writes functions into a script and starts it on both ranks.
"""

import inspect
import json
import tempfile
import textwrap
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

import decodeloop

home = tempfile.TemporaryDirectory()
HEAD = """
import json, os
import torch, transformers
import torch.distributed as dist
import decodeloop
transformers.utils.logging.disable_progress_bar()
"""


def spread(model, **sizes):
    """The same model, spread over both ranks."""
    how = {"distributed_config": transformers.DistributedConfig(**sizes)}
    how["config"] = type(model.config).from_dict(model.config.to_dict())
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    return type(model).from_pretrained(None, state_dict=weights, **how).eval()


def run(*functions, **options):
    script = Path(home.name) / "rank.py"
    parts = [HEAD, *map(inspect.getsource, functions), "main()"]
    script.write_text("\n\n".join(parts))
    return decodeloop.run_ranks(script, device="cpu", threads=1, **options)


# %%
# No seed
# =======
#
# transformers' ``generate`` draws on each rank from that rank's own generator. So the ranks choose different tokens and
# write them into one cache, of which each of them holds half. Nothing says so. (Here each rank has a seed of its own,
# so that it shows in every run.)
#
# .. tip:: Seed all ranks alike, or use our loops: they send a seed of the first rank to all others.


def no_seed():
    model = decodeloop.load(device="cpu", dtype="float32").model
    part, ids = spread(model, tp_size=2), torch.arange(3, 15)[None]
    torch.manual_seed(dist.get_rank())
    count = {"min_new_tokens": 12, "max_new_tokens": 12}
    theirs = part.generate(ids, do_sample=True, **count)
    ours = decodeloop.generate(part, ids, sampler=decodeloop.Sampler())
    texts = [None, None]
    dist.all_gather_object(texts, (theirs.tolist(), ours.tolist()))
    assert texts[0][1] == texts[1][1]  # right: ours
    assert texts[0][0] == texts[1][0], "the ranks wrote different texts"  # wrong


# %%
# Heads that do not divide
# ========================
#
# Three heads of keys cannot be split between two ranks. What transformers does with them depends on its version. Our
# loops let the model read one token first, and refuse if that does not work.
#
# .. tip:: Take a number of ranks that divides ``num_key_value_heads``.


def odd_heads():
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
    sizes = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 96}
    config = transformers.LlamaConfig(num_hidden_layers=2, **heads, **sizes)
    part = spread(transformers.LlamaForCausalLM(config), tp_size=2)
    try:
        decodeloop.generate(part, torch.arange(3, 15)[None])
    except ValueError as error:
        raise AssertionError(error) from None


# %%
# No plan
# =======
#
# How a model is split is written down for each architecture, and for GPT-2 it is not. Some versions of transformers say
# so; others leave the model whole on each rank, without a word.
#
# .. tip:: Where it is no error, count the bytes that a rank has, as here.


def no_plan():
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 64}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    whole = sum(weight.nbytes for weight in model.parameters())
    try:
        part = spread(model, tp_size=2)
    except ValueError as error:
        raise AssertionError(error) from None
    here = 0
    for weight in part.parameters():
        local = weight.to_local() if hasattr(weight, "to_local") else weight
        here += local.nbytes
    share = here / whole
    assert share < 0.6, f"each rank has {share:.0%} of the weights"


# %%
# Layers in two processes
# =======================
#
# With ``pp_size=2`` each process has half of the layers. transformers supposes that the last norm of a model is called
# ``norm``. In Phi it has another name, and so another text is written.
#
# .. tip:: Compare with the whole model, once, in float32. Or use ``device_map``, in one process.


def two_stages():
    model = decodeloop.load(device="cpu", dtype="float32").model
    ids = torch.arange(3, 15)[None]
    options = {"max_new_tokens": 12, "eos_token_id": None}
    whole = decodeloop.generate(model, ids, **options)
    staged = decodeloop.generate(spread(model, pp_size=2), ids, **options)
    assert torch.equal(staged, whole), "other tokens than the whole model's"


# %%
# A baseline with other threads
# =============================
#
# ``torchrun`` gives each process one thread unless it is told otherwise, and so does ``run`` above; by itself,
# :func:`decodeloop.run_ranks` divides the cores among the ranks. So a model that is timed whole in one of the ranks has
# a part of the machine only, and two ranks seem faster than one process, even if they are not. (We only count threads.)
#
# .. tip:: Time the baseline in a process of its own, with the threads that it would have.


def threads():
    baseline, both = torch.get_num_threads(), 2 * torch.get_num_threads()
    assert baseline == both, f"{baseline} thread against {both} of two ranks"


# %%
# All five, in one run
# ====================


def main():
    said = {}
    for trap in (no_seed, odd_heads, no_plan, two_stages, threads):
        try:
            trap()
        except AssertionError as error:
            said[trap.__name__] = str(error)
    if dist.get_rank() == 0:
        print(json.dumps(said))


traps = no_seed, odd_heads, no_plan, two_stages, threads
said = json.loads(run(spread, *traps, main, timeout=200).splitlines()[-1])
for trap in traps:
    message = said[trap.__name__]  # missing, if the trap is none any more
    print(textwrap.fill(f"{trap.__name__}: {message}", 80))

# %%
# Ranks that fail
# ===============
#
# A rank that fails leaves the others waiting for it, at their next all-reduce. :func:`decodeloop.run_ranks` ends them,
# and the error is the rank's own. More ranks than there are GPUs are refused before anything starts.


def main():
    if dist.get_rank() == 1:
        raise KeyError("the second rank cannot go on")
    dist.barrier()


script = Path(home.name) / "rank.py"
too_many = {"device": "cuda", "ranks": torch.cuda.device_count() + 1}
calls = {
    "one fails": lambda: run(main, timeout=60),
    "too many": lambda: decodeloop.run_ranks(script, **too_many),
}
for name, call in calls.items():
    try:
        call()
    except (ValueError, RuntimeError) as error:
        print(textwrap.fill(f"{name}: {error}", 80))
    else:
        raise AssertionError(f"{name}: this should have failed")

# %%
# Which should I use?
# ===================
#
# Before you trust a model that is spread, compare its tokens with those of one process in float32, and count the bytes
# that each rank has. Set a timeout for every run, since processes that go wrong mostly wait for each other forever.
#
# Measured on
# ===========

decodeloop.provenance(device="cpu", dtype=torch.float32)
