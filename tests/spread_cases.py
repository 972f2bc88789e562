"""Run by two ranks, for test_spread.py and test_gpu.py: what each says of every case, as JSON from the first one."""

import copy
import functools
import json

import pytest
import torch
import torch.distributed as dist
from helpers import SMALL, left_padded, prompt_ids
from transformers import AutoConfig, AutoModelForCausalLM, DistributedConfig

import decodeloop
from decodeloop import Sampler, TorchDecoder, generate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
LINEAR = dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4)
LINEAR |= dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8)
SHAPES = {"llama": GROUPED, "phi": {}, "qwen3_5_text": GROUPED | LINEAR | {"num_hidden_layers": 4}}
OPTIONS = {"max_new_tokens": 12, "eos_token_id": None}
CASES = {}


def build(kind, dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | {"vocab_size": 98} | options))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return model.to(DEVICE).eval()


def spread(model, **sizes):
    """The same weights over all ranks, by transformers."""
    weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    how = {"dtype": model.dtype, "distributed_config": DistributedConfig(**sizes)}
    return type(model).from_pretrained(None, config=copy.deepcopy(model.config), state_dict=weights, **how).eval()


@functools.cache
def pair(kind):
    model = build(kind, **SHAPES[kind])
    return model, spread(model, tp_size=dist.get_world_size())


def case(function):
    CASES[function.__name__] = function
    return function


def engine(name, model):
    """``generate`` of one way to run a model."""
    if name == "eager":
        return functools.partial(generate, model)
    return TorchDecoder(model, compile=name == "compiled").generate


def ways(model, run):
    """What a reader does with a loop: the tokens of each way."""
    ids, mask = (tensor.to(DEVICE) for tensor in left_padded([9, 4]))
    yield run(ids[:1], **OPTIONS)
    yield run(ids, attention_mask=mask, **OPTIONS)
    yield run(ids, attention_mask=mask, sampler=Sampler(0.8, top_p=0.9, seed=[1, 2]), **OPTIONS)
    first, cache = run(ids[:1], return_cache=True, **OPTIONS)
    yield run(first, past_key_values=decodeloop.cache_to_tensors(cache), **OPTIONS)
    yield run(first, past_key_values=cache, **OPTIONS)  # which is extended in place
    if "qwen" not in model.config.model_type:
        yield run(ids[:1].repeat(1, 3), lookup=decodeloop.PromptLookup(), **OPTIONS)


def each_way(kind, name):
    model, part = pair(kind)
    both = zip(ways(part, engine(name, part)), ways(model, engine("eager", model)), strict=True)
    for index, (got, want) in enumerate(both):
        assert torch.equal(got, want), f"way {index}: {got.tolist()} for {want.tolist()}"


for kind, names in {"llama": "eager static compiled", "phi": "eager static", "qwen3_5_text": "eager static"}.items():
    for name in names.split():
        CASES[f"{kind} {name}"] = functools.partial(each_way, kind, name)


@case
def without_a_seed_all_ranks_draw_the_same():
    _, part = pair("llama")
    torch.manual_seed(dist.get_rank())
    runs = [generate(part, prompt_ids(2, 5).to(DEVICE), sampler=Sampler(), **OPTIONS).tolist() for _ in range(2)]
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, runs)
    assert said[0] == said[1]
    assert runs[0] != runs[1]
    torch.manual_seed(0)
    assert generate(part, prompt_ids(2, 5).to(DEVICE), sampler=Sampler(), **OPTIONS).tolist() == runs[0]


@case
def a_rank_counts_the_bytes_that_it_reads():
    model, part = pair("llama")
    whole, own = (decodeloop.roofline(each, length=100, bandwidth=1e9) for each in (model, part))
    assert own.cache == whole.cache / 2
    assert 0.5 <= own.weights / whole.weights < 0.55  # norms are on both


@case
def an_all_reduce_is_timed_on_all_ranks():
    timings = decodeloop.measure_all_reduce(64, torch.bfloat16, repeats=2)
    assert list(timings) == (["launched", "captured"] if DEVICE == "cuda" else ["launched"])
    assert all(1e-7 < timing.median < 0.1 for timing in timings.values())
    assert "size=0: expected" in refusal(decodeloop.measure_all_reduce, 0)


@case
def the_cache_of_the_whole_model_is_refused():
    model, part = pair("llama")
    text, cache = generate(model, prompt_ids(1, 5).to(DEVICE), return_cache=True, **OPTIONS)
    for run in (engine("eager", part), engine("static", part)):
        assert "heads of size" in refusal(run, text, past_key_values=copy.deepcopy(cache), **OPTIONS)


@case
def heads_that_do_not_divide_are_refused():
    part = spread(build("llama", num_key_value_heads=1), tp_size=2)
    said = refusal(generate, part, prompt_ids(1, 5).to(DEVICE))
    assert "has 1 and 4 heads, and is spread over 2 ranks: expected a number of ranks that divides them" in said


@case
def verify_compares_whole_and_spread():
    model, part = pair("llama")
    assert decodeloop.verify(model, part, prompt_ids(1, 5).to(DEVICE)).same_tokens
    assert decodeloop.verify(model, TorchDecoder(part), prompt_ids(1, 5).to(DEVICE)).same_tokens


@case
def layers_in_several_processes_write_the_same():
    model, ids = build("llama"), prompt_ids(1, 5).to(DEVICE)
    part = spread(model, pp_size=2)
    assert torch.equal(generate(part, ids, **OPTIONS), generate(model, ids, **OPTIONS))
    assert "are in several processes" in refusal(TorchDecoder, part)


def refusal(function, *arguments, **options):
    """The line of the ValueError that a call ends with."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        function(*arguments, **options)
    return str(refused.value)


def main():
    if DEVICE == "cpu":
        torch.set_num_threads(1)
        torch.compile = functools.partial(torch.compile, backend="eager")  # torch's own needs a C++ compiler
    said = {}
    for name, function in CASES.items():
        try:
            function()
            outcome = ""
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, outcome)
        said[name] = outcomes
    if dist.get_rank() == 0:
        print(json.dumps(said))


if __name__ == "__main__":
    main()
