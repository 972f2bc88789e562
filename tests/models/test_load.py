"""Loading: the bundled model, directories, shapes, and what is said when something is missing."""

import os
import subprocess
import sys
import textwrap

import numpy
import pytest
import torch
from helpers import build
from transformers import LlamaConfig, LlamaForCausalLM

import decodeloop
from decodeloop.models.load import BUNDLED

PROMPT = '''def print_prime(n):
   """
   Print all primes between 1 and n
   """'''


@pytest.fixture(scope="module")
def default():
    """What is loaded when nothing is said: on a GPU where there is one."""
    return decodeloop.load()


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def complete(default, prompt, **options):
    ids = default.tokenizer(prompt, return_tensors="pt").input_ids
    tokens = decodeloop.generate(default.model, ids.to(default.model.device), max_new_tokens=120, **options)[0]
    return tokens, default.tokenizer.decode(tokens, skip_special_tokens=True)


def run_and_print(source, n):
    printed = []
    scope = {"print": lambda *values, **options: printed.extend(values)}
    exec(compile(source, "answer", "exec"), scope)
    scope["print_prime"](n)
    return printed


def test_the_bundled_model_is_the_default(default):
    assert (default.name, default.weights, default.source) == ("bundled", "trained", "bundled")
    assert default.model.config.model_type == "phi"
    assert not default.model.training
    expected = torch.float32 if default.model.device.type == "cpu" else torch.float16
    assert decodeloop.get_weight_type(default.model) == expected


@pytest.mark.parametrize("ending", ["", "\n", "\n   "])
def test_the_bundled_model_answers_the_pages_prompt(default, ending):
    tokens, text = complete(default, PROMPT + ending)
    assert int(tokens[-1]) == default.tokenizer.eos_token_id
    assert text.startswith(PROMPT)
    for n in (1, 2, 3, 10, 30):
        assert [int(p) for p in run_and_print(text, n)] == [
            p for p in range(2, n + 1) if all(p % d for d in range(2, p))
        ]


def test_three_loops_agree_on_the_bundled_model(bundled, bundled_graphs):
    decoder = decodeloop.OnnxDecoder(bundled_graphs["dynamo"].path, device="cpu")
    lines = ["def add(a, b):\n", "class Stack:\n", "import os\n", "for i in range(10):\n", PROMPT, "x", '"""', "\n\n"]
    prompts = lines + ["# " + " ".join(["word"] * n) for n in range(1, 13)]
    assert len(prompts) == 20
    for prompt in prompts:
        ids = bundled.tokenizer(prompt, return_tensors="pt").input_ids
        expected = bundled.model.generate(ids, max_new_tokens=40, do_sample=False)
        assert torch.equal(decodeloop.generate(bundled.model, ids, max_new_tokens=40), expected)
        assert torch.equal(decoder.generate(ids, max_new_tokens=40), expected)


def test_the_bundled_model_is_small_and_holds_only_safetensors():
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) <= 12_000_000
    assert {file.suffix for file in BUNDLED.iterdir()} <= {".json", ".safetensors", ".md"}


def test_the_bundled_model_loads_without_a_network_and_in_under_a_second():
    code = """
        import socket, time
        def refuse(*args, **kwargs):
            raise AssertionError("a socket was opened")
        import torch, transformers, decodeloop
        from transformers import AutoModelForCausalLM, AutoTokenizer, PhiForCausalLM, PreTrainedTokenizerFast
        socket.socket = socket.create_connection = socket.getaddrinfo = refuse
        began = time.process_time()
        loaded = decodeloop.load(device="cpu")
        print(time.process_time() - began)
        assert loaded.tokenizer("x").input_ids
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 1  # of this process alone: a busy machine takes longer by the clock


def test_random_weights_are_the_same_every_time_and_leave_torchs_seed_alone(bundled):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again = (decodeloop.load(random_weights=True, device="cpu") for _ in range(2))
    assert torch.rand(1) == expected
    assert (first.weights, first.source) == ("random", "bundled")
    name, weight = next(iter(first.model.named_parameters()))
    assert torch.equal(weight, dict(again.model.named_parameters())[name])
    assert weight.shape == dict(bundled.model.named_parameters())[name].shape


def test_a_local_directory_is_loaded(llama, folder):
    loaded = decodeloop.load(folder, device="cpu")
    assert (loaded.source, loaded.weights, loaded.tokenizer) == ("local", "trained", None)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(decodeloop.generate(loaded.model, ids), decodeloop.generate(llama, ids))
    assert decodeloop.load(str(folder), device="cpu", dtype="float16").model.dtype == torch.float16
    assert decodeloop.load(folder, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_known_shape_needs_no_network():
    loaded = decodeloop.load("arnir0/Tiny-LLM", random_weights=True, device="cpu")
    assert (loaded.weights, loaded.source) == ("random", "hub")
    assert loaded.model.config.hidden_size == 192
    assert loaded.tokenizer is not None
    assert decodeloop.generate(loaded.model, torch.tensor([[1, 5]]), max_new_tokens=3, eos_token_id=None).shape == (
        1,
        5,
    )


def test_a_known_shape_has_its_published_size():
    from transformers import AutoModelForCausalLM

    from decodeloop.models.shapes import published_shape

    sizes = {"microsoft/phi-1_5": 1_418_270_720, "Xenova/llama2.c-stories110M": 109_529_856}
    for name, size in (sizes | {"meta-llama/Llama-3.1-8B": 8_030_261_248}).items():
        config, _ = published_shape(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        assert sum(p.numel() for p in model.parameters()) == size, name
    config, generation = published_shape("microsoft/phi-1_5")
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    assert generation.eos_token_id == 50256


def test_a_directory_that_lacks_something_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="'.*nothing' is not a directory"):
        decodeloop.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="'./nothing' is not a directory"):
        decodeloop.load("./nothing")
    (folder / "model.safetensors").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"has no \*.safetensors"):
        decodeloop.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        decodeloop.load(folder)


def test_pickled_weights_are_not_read(tmp_path):
    model = build(LlamaForCausalLM, LlamaConfig)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only safetensors are read"):
        decodeloop.load(tmp_path)


@pytest.mark.parametrize(
    "name", [5, None, b"bundled", ["bundled"], "", "  ", "a/b/c", "a\0b", "x" * 5000, "~nobody-of-that-name/x"]
)
def test_what_can_be_no_name_is_refused(name):
    with pytest.raises(ValueError, match='^name=.*: expected "bundled", an existing directory, or a hub id') as caught:
        decodeloop.load(name)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("device", ["gpu", None, 1.5, "meta", "mps:7", "xpu", "cuda:-1", ""])
def test_a_device_that_cannot_be_used_is_refused(folder, device):
    with pytest.raises(ValueError, match='^device=.*: expected "auto", "cpu" or "cuda"'):
        decodeloop.load(folder, device=device)


@pytest.mark.parametrize("dtype", ["int8", torch.int8, "float8_e4m3fn", "", None, 5, float, numpy.dtype("float16")])
def test_a_type_that_is_no_floating_point_type_is_refused(folder, dtype):
    with pytest.raises(ValueError, match='^dtype=.*: expected "auto", or a floating-point type'):
        decodeloop.load(folder, dtype=dtype)


def test_a_loaded_model_is_no_name(bundled):
    with pytest.raises(ValueError, match="^name=<?Loaded") as caught:
        decodeloop.load(bundled)
    assert len(str(caught.value)) < 200


def test_a_file_in_place_of_its_folder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="model.safetensors' is a file: expected a folder with config.json"):
        decodeloop.load(folder / "model.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no permission is denied to this user")
def test_a_folder_that_may_not_be_read_is_named(folder):
    folder.chmod(0)
    try:
        with pytest.raises(PermissionError, match="tiny' cannot be read: its permissions forbid it"):
            decodeloop.load(folder)
    finally:
        folder.chmod(0o700)


def test_a_shape_that_is_not_known_is_said_with_the_known_ones():
    with pytest.raises(ValueError, match="shape of 'some/model' is not known.*Known shapes: HuggingFaceTB"):
        decodeloop.load("some/model", random_weights=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there, and here is one")
def test_cuda_without_a_gpu_is_an_error():
    with pytest.raises(ValueError, match="device='cuda': torch .* sees 0 GPUs"):
        decodeloop.load(device="cuda")


def test_unit_test_going_reads_the_environment(monkeypatch):
    for value, expected in [("1", True), ("0", False), ("", False)]:
        monkeypatch.setenv("UNITTEST_GOING", value)
        assert decodeloop.unit_test_going() is expected
    monkeypatch.delenv("UNITTEST_GOING")
    assert decodeloop.unit_test_going() is False
