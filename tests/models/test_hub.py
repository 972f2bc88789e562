"""Hub ids: whatever breaks is one line, the next try works, and a whole copy in the cache is used."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import decodeloop

FAULTS = {
    "reset": "the connection to the hub broke|the download failed",
    "reset at once": "the connection to the hub broke",
    "cut": "the connection to the hub broke|the download failed",
    "stalled at once": "the Hugging Face hub does not answer in time",
    "stalled": "the Hugging Face hub does not answer in time",
    "a web page": "what the hub sent cannot be used.*a proxy or a login page",
    "a list": "what the hub sent cannot be used",
    "no files": "what the hub sent cannot be used .*names no commit",
    "a page for config.json": "what the hub sent cannot be used .*config.json.* it begins with '<!DOCTYPE html>",
    "no such model": "the Hugging Face hub has no such model",
    "a bare 404": "the Hugging Face hub has no such model",
    "gated": "its owner asks you to accept terms first.*hf auth login",
    "disabled": r"the Hugging Face hub does not give it out \(403\)",
    "too many requests": r"the Hugging Face hub has had too many requests \(429\)",
    "gated for files": "its owner asks you to accept terms first",
    "down for files": r"the Hugging Face hub cannot be reached \(it answers 503\)",
    "no such model for files": "the Hugging Face hub has no such model",
    "down": r"the Hugging Face hub cannot be reached \(it answers 503\)",
}


def load(name="tiny/llama", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = decodeloop.load(name, device="cpu", **options)
    assert (loaded.source, loaded.name) == ("hub", name)
    return loaded


def load_with_warning(match):
    with pytest.warns(UserWarning, match=f"^'tiny/llama': (?s:{match}).*Its copy in the local cache is used") as said:
        loaded = decodeloop.load("tiny/llama", device="cpu")
    assert len([warning for warning in said if warning.category is UserWarning]) == 1
    return loaded


def refused(match, name="tiny/llama", **options):
    """The one line of an OSError, which names the model."""
    with pytest.raises(OSError, match=f"^cannot load '{name}': (?s:{match})") as caught:
        decodeloop.load(name, device="cpu", **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "random_weights=True" in line
    assert len(line) < 500
    return line


def same_weights(loaded, model):
    got = loaded.model.state_dict()
    return loaded.weights == "trained" and all(
        torch.equal(got[name], value) for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_then_a_second_try_works_then_the_copy_is_used(hub, llama, fault):
    hub.fault = fault
    line = refused(FAULTS[fault])
    assert "it is not in the local cache" in line or "its copy in the local cache is not whole" in line
    hub.fault = None
    assert same_weights(load(), llama)
    hub.fault, hub.sha = fault, "f" * 40  # the same fault when a newer commit is asked for
    assert same_weights(load_with_warning(FAULTS[fault].split(".*")[0]), llama)
    hub.fault = None
    assert same_weights(load(), llama)


def test_only_what_is_read_is_downloaded_and_only_once(hub):
    loaded = load()
    assert loaded.tokenizer is None
    assert not any(path.endswith((".bin", "other.safetensors")) for path in hub.asked)
    del hub.asked[:]
    load()
    assert hub.asked == ["/api/models/tiny/llama"]


@pytest.mark.parametrize(
    ("endpoint", "match"),
    [
        ("http://127.0.0.1:9", "the Hugging Face hub cannot be reached"),
        ("http://nowhere.invalid", "the Hugging Face hub cannot be reached"),
        ("not an address", "the Hugging Face hub cannot be reached"),
    ],
)
def test_a_hub_that_is_not_there_is_one_line_and_a_copy_is_used(hub, online, endpoint, match):
    online(endpoint)
    refused(match)
    online(hub.endpoint)
    load()
    online(endpoint)
    load_with_warning(match)


def test_a_proxy_that_refuses_is_named(hub, online, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    online("http://hub.invalid")
    refused("the Hugging Face hub cannot be reached|the proxy")


def test_offline_uses_the_copy_without_a_word(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE=1 forbids asking the hub, and it is not in the local cache. Unset it")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    load()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load()


@pytest.mark.parametrize("token", ["hf_wrong", "hf_wr\u00f6ng", "hf wr\x7fong"])
def test_a_bad_token_is_named_and_not_shown(hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fault = "bad token"
    line = refused("the Hugging Face hub refuses the token|the token cannot be sent")
    assert "Unset HF_TOKEN" in line
    assert token not in line
    monkeypatch.delenv("HF_TOKEN")
    hub.fault = None
    load()
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fault = "bad token"
    load_with_warning("the Hugging Face hub refuses the token|the token cannot be sent")


def spoil(path, how):
    path = path.resolve()
    body = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": body[: len(body) // 2], "empty": b"", "a page": b"<html>".ljust(len(body))}[how])


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "a page"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "generation_config.json"])
def test_garbage_in_the_cache_is_one_line_and_is_fetched_again(hub, online, llama, file, how):
    load()
    (copy,) = Path(constants.HF_HUB_CACHE).glob("models--tiny--llama/snapshots/*")
    spoil(copy / file, how)
    online("http://127.0.0.1:9")
    refused(f"the Hugging Face hub cannot be reached.*, and its copy in the local cache is not whole .*{file}")
    online(hub.endpoint)
    assert same_weights(load(), llama)
    online("http://127.0.0.1:9")
    assert same_weights(load_with_warning("the Hugging Face hub cannot be reached"), llama)


def test_a_copy_that_lacks_a_file_or_its_name_is_found_out(hub, online):
    load()
    (copy,) = Path(constants.HF_HUB_CACHE).glob("models--tiny--llama/snapshots/*")
    main = copy.parents[1] / "refs" / "main"
    assert main.read_text() == copy.name
    main.write_text("")
    online("http://127.0.0.1:9")
    load_with_warning("the Hugging Face hub cannot be reached")
    (copy / "model.safetensors").unlink()
    refused("the Hugging Face hub cannot be reached.*not whole .*has no .*safetensors")


def test_a_broken_update_leaves_the_whole_copy_in_use(hub, online, llama):
    load()
    hub.fault, hub.sha = "cut", "f" * 40
    load_with_warning("the connection to the hub broke|the download failed")
    online("http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="0123456789abcdef"):
        assert same_weights(decodeloop.load("tiny/llama", device="cpu"), llama)


def test_random_weights_need_only_the_configuration(hub):
    loaded = load(random_weights=True)
    assert (loaded.weights, loaded.model.config.model_type) == ("random", "llama")
    assert not any(path.endswith(".safetensors") for path in hub.asked)
    hub.fault = "down"
    with pytest.warns(UserWarning, match="it answers 503"):
        decodeloop.load("tiny/llama", random_weights=True, device="cpu")
    refused("the Hugging Face hub cannot be reached .*not whole .*has no .*safetensors")
    with pytest.raises(ValueError, match="shape of 'tiny/lama' is not known here.*Known shapes: .*503|no such model"):
        decodeloop.load("tiny/lama", random_weights=True, device="cpu")


def test_a_sharded_model_is_downloaded_by_its_index(hub, llama, tmp_path):
    llama.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    hub.files |= {file.name: file.read_bytes() for file in (tmp_path / "shards").iterdir()}
    assert same_weights(load(), llama)
    index = json.loads(hub.files["model.safetensors.index.json"])
    index["weight_map"]["lm_head.weight"] = "../model.safetensors"
    hub.files["model.safetensors.index.json"], hub.sha = json.dumps(index).encode(), "e" * 40
    load_with_warning("what the hub sent cannot be used")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_repository_without_a_checkpoint_is_said(hub, file):
    del hub.files[file]
    refused(f"it has no {re.escape(file)}.*Only safetensors are read")
