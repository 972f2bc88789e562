"""Tiny random decoders, each exported once for the whole run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub starts one of its own, in a process of its own

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

import decodeloop

torch.set_num_threads(1)  # models this small are slowed down by a second thread, most of all on a busy machine

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide enough for text that does not repeat one token
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def build(model_class, config_class, **options):
    torch.manual_seed(0)
    return model_class(config_class(**(SMALL | options))).eval()


@pytest.fixture(scope="session")
def phi():
    return build(PhiForCausalLM, PhiConfig, partial_rotary_factor=0.5, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def llama():
    return build(LlamaForCausalLM, LlamaConfig, num_key_value_heads=2, head_dim=16)


@pytest.fixture(scope="session")
def phi_graph(phi, tmp_path_factory):
    """The report of phi's export."""
    return decodeloop.export_onnx(phi, tmp_path_factory.mktemp("phi") / "model.onnx")


@pytest.fixture(scope="session")
def llama_graph(llama, tmp_path_factory):
    return decodeloop.export_onnx(llama, tmp_path_factory.mktemp("llama") / "model.onnx", logits="last")


@pytest.fixture(scope="session")
def phi_shared(phi, tmp_path_factory):
    """The report of phi's export with a shared cache."""
    return decodeloop.export_onnx(phi, tmp_path_factory.mktemp("phi-gqa") / "model.onnx", exporter="gqa", logits="all")


@pytest.fixture(params=["torch", "static", "onnx", "gqa"])
def decoder(request, phi, phi_graph, phi_shared):
    """``generate(input_ids, **options)`` of all loops, over the same weights."""
    if request.param == "static":
        return decodeloop.TorchDecoder(phi).generate
    if request.param == "torch":
        return lambda input_ids, **options: decodeloop.generate(phi, input_ids, **options)
    return decodeloop.OnnxDecoder({"onnx": phi_graph, "gqa": phi_shared}[request.param].path, device="cpu").generate


def prompt_ids(batch, length, seed=0):
    """Random token ids that are none of the special ones."""
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


def left_padded(lengths, seed=0):
    """A batch whose rows have these lengths, and its mask."""
    ids = prompt_ids(len(lengths), max(lengths), seed)
    mask = torch.tensor([[0] * (max(lengths) - n) + [1] * n for n in lengths])
    return ids.masked_fill(mask == 0, 0), mask
