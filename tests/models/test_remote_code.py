"""Checkpoints that bring code of their own: it is never run, nobody is asked, and what needs it is refused."""

import builtins
import json
import shutil

import pytest
import torch

import decodeloop
from decodeloop.models.load import BUNDLED

CODE = """
import pathlib
pathlib.Path({canary!r}).write_text("code of the checkpoint ran")
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizer
class C(PhiConfig):
    model_type = "evil"
class M(PhiForCausalLM):
    config_class = C
class T(PreTrainedTokenizer):
    pass
def generate(model, *args, **options):
    return None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The bundled model's files, with a Python file that tells when it is run."""
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(BUNDLED, folder)
    (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "evil.py", folder / "custom_generate" / "generate.py")

    def asked(*args):
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", asked)
    yield folder
    assert not canary.exists()


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(folder, match, **options):
    match += ".*code of the checkpoint's own, which is never run here"
    with pytest.raises(ValueError, match=match) as caught:
        decodeloop.load(folder, device="cpu", **options)
    line = str(caught.value)
    assert str(folder) in line
    assert "\n" not in line
    assert "trust_remote_code" not in line


def native(folder, bundled):
    """It loads, with transformers' classes."""
    loaded = decodeloop.load(folder, device="cpu")
    assert type(loaded.model) is type(bundled.model)
    text = "def f(n):\n    return n"
    assert loaded.tokenizer(text).input_ids == bundled.tokenizer(text).input_ids
    prompt = torch.tensor([bundled.tokenizer(text).input_ids])
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(loaded.model.generate(prompt, **options), bundled.model.generate(prompt, **options))


AUTO = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}


@pytest.mark.parametrize("auto_map", [AUTO, {name: f"other/repository--{value}" for name, value in AUTO.items()}])
@pytest.mark.parametrize("random_weights", [False, True])
def test_a_model_of_its_own_is_refused(folder, auto_map, random_weights):
    edit(folder / "config.json", model_type="evil", architectures=["M"], auto_map=auto_map)
    refused(folder, "its model_type 'evil' needs", random_weights=random_weights)
    edit(folder / "config.json", model_type="vit")
    refused(folder, "a decoder of its model_type 'vit' needs", random_weights=random_weights)


def test_code_beside_a_model_that_transformers_knows_is_not_run(folder, bundled):
    edit(folder / "config.json", auto_map=AUTO)
    edit(folder / "generation_config.json", custom_generate="other/repository")
    native(folder, bundled)


def test_attention_code_that_the_configuration_names_is_not_fetched(folder, bundled):
    edit(folder / "config.json", attn_implementation="other/repository")
    native(folder, bundled)
    assert decodeloop.load(folder, device="cpu", random_weights=True).weights == "random"


def test_a_tokenizer_of_its_own_is_refused_unless_its_json_says_all(folder, bundled):
    edit(folder / "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["evil.T", None]})
    native(folder, bundled)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in vocabulary["merges"]))
    (folder / "tokenizer.json").unlink()
    refused(folder, "its tokenizer")


@pytest.mark.parametrize("broken", ["{", "[]", '{"version": "1.0", "model": {"type": "Nonsense"}}', '{"version": 5}'])
def test_a_tokenizer_that_cannot_be_read_is_one_line(folder, broken):
    (folder / "tokenizer.json").write_text(broken)
    with pytest.raises(ValueError, match="tokenizer") as caught:
        decodeloop.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
