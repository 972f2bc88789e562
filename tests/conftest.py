"""Tiny random decoders and the bundled one, each exported once for the run, by the process that needs it first."""

import os
import pickle

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub starts one of its own

import pytest
import torch
from filelock import FileLock
from helpers import build
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

import decodeloop

torch.set_num_threads(1)  # models this small are slowed down by a second thread, most of all on a busy machine


class OwnPhi(PhiForCausalLM):
    """A class that is not transformers': the fused export does not know its layers, and traces it."""


@pytest.fixture(scope="session")
def phi():
    """Wide enough that the rotated half of a head has the size that the fused attention asks for."""
    shape = {"hidden_size": 128, "initializer_range": 0.2}
    return build(PhiForCausalLM, PhiConfig, partial_rotary_factor=0.5, tie_word_embeddings=True, **shape)


@pytest.fixture(scope="session")
def llama():
    return build(LlamaForCausalLM, LlamaConfig, num_key_value_heads=2, head_dim=16)


@pytest.fixture(scope="session")
def bundled():
    """The model that ships, on the CPU."""
    return decodeloop.load(device="cpu")


@pytest.fixture(scope="session")
def export_once(tmp_path_factory):
    """``export_once(name, model, **options)``: the report of an export that all processes of a parallel run share."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def export(name, model, **options):
        folder, report = root / name, root / f"{name}.report"
        with FileLock(root / f"{name}.lock"):
            if not report.exists():
                folder.mkdir(exist_ok=True)
                exported = decodeloop.export_onnx(model, folder / "model.onnx", **options)
                report.write_bytes(pickle.dumps(exported))
        return pickle.loads(report.read_bytes())

    return export


@pytest.fixture(scope="session")
def phi_graph(phi, export_once):
    """The report of phi's export."""
    return export_once("phi-dynamo", phi, logits="all")


@pytest.fixture(scope="session")
def llama_graph(llama, export_once):
    return export_once("llama-last", llama, logits="last")


@pytest.fixture(scope="session")
def phi_fused(phi, export_once):
    """The report of phi's export with a shared cache: a graph put together from fused operators."""
    return export_once("phi-fused", phi, exporter="fused", logits="all")


@pytest.fixture(scope="session")
def phi_traced(phi, export_once):
    """The same with a graph that was traced: a shared cache too, and position ids among its inputs."""
    own = OwnPhi(phi.config).eval()
    own.load_state_dict(phi.state_dict())
    return export_once("phi-traced", own, exporter="fused", logits="all")


@pytest.fixture(scope="session")
def bundled_graphs(bundled, export_once):
    """The reports of the bundled model's exports, by exporter."""
    return {name: export_once(f"bundled-{name}", bundled.model, exporter=name) for name in ("dynamo", "fused")}


@pytest.fixture(params=["torch", "static", "dynamo", "fused", "traced"])
def decoder(request, phi, phi_graph, phi_fused, phi_traced):
    """``generate(input_ids, **options)`` of all loops, over the same weights."""
    if request.param == "static":
        return decodeloop.TorchDecoder(phi).generate
    if request.param == "torch":
        return lambda input_ids, **options: decodeloop.generate(phi, input_ids, **options)
    graphs = {"dynamo": phi_graph, "fused": phi_fused, "traced": phi_traced}
    return decodeloop.OnnxDecoder(graphs[request.param].path, device="cpu").generate
