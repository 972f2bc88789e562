"""Folders that are handed on: what is in them, that they are whole or not there, and who opens them."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import build, prompt_ids
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import decodeloop
from decodeloop.folder import genai_settings

PROMPT = 'def square(x):\n    """Return café."""'


@pytest.fixture(scope="module")
def folders(bundled, tmp_path_factory):
    """The bundled model's folders, by exporter and bits; each is written once."""
    root, reports = tmp_path_factory.mktemp("folders"), {}

    def folder(exporter="fused", bits=None):
        name = f"{exporter}-{bits}"
        if name not in reports:
            reports[name] = decodeloop.save_folder(bundled, root / name, exporter=exporter, bits=bits, check=not bits)
        return reports[name]

    return folder


@pytest.mark.parametrize("exporter", ["fused", "dynamo"])
def test_a_folder_gives_the_models_tokens(bundled, folders, exporter):
    report = folders(exporter)
    assert report.path.is_file()
    assert report.external_data.is_file()
    assert report.checked.compared
    decoder, tokenizer = decodeloop.open_folder(report.path.parent, device="cpu")
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert torch.equal(ids, bundled.tokenizer(PROMPT, return_tensors="pt").input_ids)
    assert torch.equal(decoder.generate(ids), decodeloop.generate(bundled, ids))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_folder_holds_the_quantized_graph_alone(folders, bits):
    report = folders(bits=bits)
    assert report.operators["MatMulNBits"] > 0
    assert sum(file.stat().st_size for file in report.path.parent.glob("model*")) == report.bytes
    assert report.bytes < folders().bytes / 2
    decoder, tokenizer = decodeloop.open_folder(report.path.parent, device="cpu")
    assert decoder.generate(tokenizer(PROMPT, return_tensors="pt").input_ids, max_new_tokens=3).shape[1] > 3


def test_it_is_opened_without_the_models_code(folders):
    code = f"""
        import sys, decodeloop
        decoder, tokenizer = decodeloop.open_folder({str(folders().path.parent)!r}, device="cpu")
        tokens = decoder.generate(tokenizer({PROMPT!r}, return_tensors="pt").input_ids, max_new_tokens=3)
        print([name for name in sys.modules if "modeling_phi" in name])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_the_settings_of_the_folder_count_and_may_be_edited(folders, tmp_path):
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folders().path.parent), str(folder)], check=True)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"suppress_tokens": [5], "eos_token_id": 9}))
    decoder, _ = decodeloop.open_folder(folder, device="cpu")
    assert (decoder.generation_config.eos_token_id, decoder.generation_config.suppress_tokens) == (9, [5])


@pytest.mark.parametrize("exporter", ["fused", "dynamo"])
def test_genai_writes_the_same_tokens(bundled, folders, exporter):
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    expected = decodeloop.generate(bundled, prompt_ids(1, 9), max_new_tokens=20, eos_token_id=None)[0]
    model = genai.Model(str(folders(exporter).path.parent))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(expected))
    generator = genai.Generator(model, settings)
    generator.append_tokens(expected[:9].to(torch.int32).numpy())
    while not generator.is_done():
        generator.generate_next_token()
    assert generator.get_sequence(0).tolist() == expected.tolist()


def test_genais_settings_are_left_out_where_they_would_be_wrong(bundled, folders):
    assert genai_settings(folders(), bundled)["model"]["decoder"]["num_hidden_layers"] == 6
    window = build(MistralForCausalLM, MistralConfig, sliding_window=8)
    assert genai_settings(folders(), decodeloop.LoadedModel(window, bundled.tokenizer, "w", "random", "local")) is None
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    longer = build(LlamaForCausalLM, LlamaConfig, rope_parameters=scaled)
    assert genai_settings(folders(), decodeloop.LoadedModel(longer, bundled.tokenizer, "l", "random", "local")) is None


def test_a_folder_that_is_taken_is_left_alone(bundled, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "file").touch()
    for name in ("taken", "file"):
        with pytest.raises(FileExistsError, match=f"{name}' exists already"):
            decodeloop.save_folder(bundled, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        decodeloop.save_folder(bundled, tmp_path / "nowhere" / "out")
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(bundled, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("decodeloop.folder.quantize_onnx", fail)
    with pytest.raises(OSError, match="No space left"):
        decodeloop.save_folder(bundled, tmp_path / "out", bits=4, check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no locks that die with a process")
def test_a_killed_export_leaves_nothing_that_counts_and_the_next_one_clears_it(bundled, tmp_path):
    code = f"""
        import time, decodeloop, decodeloop.folder
        def quantize(*args, **options):
            print("exported", flush=True)
            time.sleep(60)
        decodeloop.folder.quantize_onnx = quantize
        decodeloop.save_folder(decodeloop.load(device="cpu"), {str(tmp_path / "out")!r}, bits=4, check=False)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "exported\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    decodeloop.save_folder(bundled, tmp_path / "out", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_saved_or_opened_is_named(bundled, llama, folders, tmp_path):
    with pytest.raises(ValueError, match="expected what decodeloop.load returns"):
        decodeloop.save_folder(bundled.model, tmp_path / "out")
    with pytest.raises(ValueError, match="has no tokenizer"):
        decodeloop.save_folder(decodeloop.LoadedModel(llama, None, "x", "random", "local"), tmp_path / "out")
    with pytest.raises(ValueError, match="bits=2: expected None, 8 or 4"):
        decodeloop.save_folder(bundled, tmp_path / "out", bits=2)
    with pytest.raises(FileNotFoundError, match="has no model.onnx: expected a folder that"):
        decodeloop.open_folder(tmp_path)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folders().path.parent), str(copy)], check=True)
    (copy / "tokenizer.json").write_text("cut")
    with pytest.raises(ValueError, match="tokenizer.json' is not JSON"):
        decodeloop.open_folder(copy)
