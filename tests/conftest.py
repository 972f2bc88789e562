"""Tiny random decoders, each exported once for the whole run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub starts one of its own, in a process of its own

import pytest
import torch
from helpers import build
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

import decodeloop

torch.set_num_threads(1)  # models this small are slowed down by a second thread, most of all on a busy machine


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
