"""Norms, gates and sums join the products of a compiled step, on any architecture that computes them so."""

from collections import Counter

import pytest
import torch
from helpers import SMALL, prompt_ids
from transformers import AutoConfig, AutoModelForCausalLM

import decodeloop
from decodeloop.engines.kernels import merged_linear
from decodeloop.engines.kernels.fusion import Fusion

LAYERS = 2
# by layer: products with their norm, of these with a gate, products with their sum
JOINED = {
    "llama": (2, 1, 2),
    "qwen2": (2, 1, 2),
    "qwen3": (2, 1, 2),
    "gemma": (2, 1, 2),
    "mistral": (2, 1, 2),
    "granite": (2, 1, 0),  # what is added is scaled first
    "phi": (0, 0, 1),
    "gpt_neox": (0, 0, 1),
}


def tiny(kind, dtype):
    torch.manual_seed(0)
    sizes = SMALL | {"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "head_dim": 8}
    if kind == "mistral":
        sizes |= {"sliding_window": None}
    if kind in ("phi", "gpt_neox"):
        sizes = SMALL | {"num_hidden_layers": LAYERS}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), dtype=dtype).eval()


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """On a CPU torch compiles C++, which takes a compiler, and a path to torch without spaces."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.ones(8))
    except Exception as error:
        pytest.skip(f"torch.compile cannot be used here: {str(error).strip().splitlines()[0]}")


class Counting(Fusion):
    """Keeps what the graph holds after the pass."""

    def __call__(self, graph):
        super().__call__(graph)
        self.calls = [node for node in graph.nodes if node.op == "call_function"]

    def count(self) -> tuple[int, int, int]:
        named = Counter(str(node.target).split(".")[1] for node in self.calls if "decodeloop" in str(node.target))
        gates = sum("norm_matvec" in str(node.target) and node.args[-1] != "" for node in self.calls)
        return named["norm_matvec"], gates, named["matvec_add"]

    def uuid(self):
        return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", JOINED)
def test_a_compiled_step_joins_what_stands_around_its_products(kind, dtype, monkeypatch):
    torch._dynamo.reset()  # it compiles a function anew only so many times
    model = tiny(kind, dtype)
    fusion = Counting(dtype)

    def compiled(model):
        monkeypatch.setattr(merged_linear, "linear_for", lambda device: merged_linear.products.linear)
        fast = merged_linear.with_merged_linears(model)
        return lambda: torch.compile(fast.forward, dynamic=False, options={"post_grad_custom_pre_pass": fusion})

    monkeypatch.setattr("decodeloop.engines.torch_static.compiled", compiled)
    ids = prompt_ids(1, 6)
    decoder = decodeloop.TorchDecoder(model, compile=True)
    got = decoder.generate(ids, max_new_tokens=8, eos_token_id=None)
    norms, gates, sums = JOINED[kind]
    head = 1 if norms else 0  # the last norm, into the head
    assert fusion.count() == (LAYERS * norms + head, LAYERS * gates, LAYERS * sums)
    if dtype == torch.float32:
        expected = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert torch.equal(got, expected)
    else:
        assert decodeloop.verify(model, decoder, ids, max_new_tokens=8).agrees


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_a_compiled_step_on_a_cpu_sums_products_and_writes_the_same(kind, dtype):
    model, ids = tiny(kind, dtype), prompt_ids(1, 6)
    decoder = decodeloop.TorchDecoder(model, compile=True)
    options = {"max_new_tokens": 8, "eos_token_id": None}
    if dtype == torch.float32:
        assert torch.equal(decoder.generate(ids, **options), decodeloop.generate(model, ids, **options))
    else:
        assert decodeloop.verify(model, decoder, ids, max_new_tokens=8).agrees
