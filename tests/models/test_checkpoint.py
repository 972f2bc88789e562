"""Folders with a fault: each is one line, and loads again once it is mended. Nothing outside them is read or run."""

import json
import shutil

import pytest
import torch
from helpers import SMALL, build
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    T5Config,
    ViTConfig,
)

import decodeloop
from decodeloop.models.load import BUNDLED

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def sharded(llama, tmp_path):
    llama.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    return tmp_path / "shards"


def load(folder, **options):
    return decodeloop.load(folder, device="cpu", **options)


def refused(folder, match, error=ValueError, **options):
    """The one line of an error that names the folder and no option that does not exist."""
    with pytest.raises(error, match=match) as caught:
        load(folder, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    assert "trust_remote_code" not in line
    assert len(line) < 600


def same_weights(loaded, model):
    assert loaded.weights == "trained"
    got = loaded.model.state_dict()
    return all(torch.equal(got[name], value) for name, value in model.state_dict().items())


def edit(file, **changes):
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


BROKEN = {
    "empty": b"",
    "a page": b"<!DOCTYPE html><p>Please log in",
    "random": bytes(range(256)) * 4,
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("how", [*BROKEN, "cut", "longer", "a folder", "gone"])
@pytest.mark.parametrize("file", [WEIGHTS, "config.json", "generation_config.json"])
def test_a_broken_file_is_named_and_a_mended_one_loads(llama, folder, file, how):
    path = folder / file
    body = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({**BROKEN, "cut": body[: len(body) // 2], "longer": body + b"}{"}[how])
    if how == "gone" and file == "generation_config.json":
        assert load(folder).model.generation_config.eos_token_id == 2  # from config.json
    else:
        refused(folder, file if how != "gone" or file != WEIGHTS else r"has no \*.safetensors", (ValueError, OSError))
    shutil.rmtree(path) if how == "a folder" else path.unlink(missing_ok=True)
    path.write_bytes(body)
    assert same_weights(load(folder), llama)


def lose(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


def rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


Q = "model.layers.0.self_attn.q_proj.weight"
TENSORS = {
    "renamed": (
        rename(Q, Q.replace("q_proj", "q_prnj")),
        f"{Q} of the model is not in it; .*q_prnj.weight in it is no",
    ),
    "lost": (lose(Q, Q.replace("q_", "k_")), "k_proj.weight, .*q_proj.weight of the model are not in it"),
    "all lost": (lambda tensors: tensors.clear(), "and 18 more of the model are not in it"),
    "one too many": (lambda tensors: tensors.update(extra=torch.zeros(3)), "extra in it is no part of the model"),
    "one twice": (
        lambda tensors: tensors.update({Q[6:]: tensors[Q] + 1}),
        f"{Q[6:]} stands in it with and without 'model.'",
    ),
    "another shape": (
        lambda tensors: tensors.update({Q: torch.zeros(8, 32)}),
        r"q_proj.weight \[8, 32\], expected \[64",
    ),
    "its head lost": (lose("lm_head.weight"), 'lm_head.weight of the model is not in it.*lacks "tie_word_embeddings"'),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_weights_are_trained_only_if_each_tensor_came_from_the_file(llama, folder, fault):
    body = (folder / WEIGHTS).read_bytes()
    change, match = TENSORS[fault]
    edit_tensors(folder, change)
    refused(folder, f"do not fit its config.json: .*{match}")
    assert load(folder, random_weights=True).weights == "random"
    (folder / WEIGHTS).write_bytes(body)
    assert same_weights(load(folder), llama)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_hidden_layers": 1}, "model.layers.1.* and 6 more in it are no part of the model"),
        ({"num_hidden_layers": 3}, "model.layers.2.* and 6 more of the model are not in it"),
        ({"vocab_size": 96}, r"lm_head.weight \[97, 32\], expected \[96, 32\]"),
        ({"attention_bias": True}, "bias .*of the model are not in it"),
    ],
)
def test_a_configuration_of_another_shape_is_refused(folder, changes, match):
    edit(folder / "config.json", **changes)
    refused(folder, match)


def test_tied_embeddings_that_the_configuration_forgot_are_not_drawn_at_random(tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "copy")
    edit(tmp_path / "copy" / "config.json", tie_word_embeddings=None)
    refused(
        tmp_path / "copy", 'lm_head.weight of the model is not in it.*config.json lacks "tie_word_embeddings": true'
    )
    edit(tmp_path / "copy" / "config.json", tie_word_embeddings=True)
    assert load(tmp_path / "copy").weights == "trained"


def test_an_expert_that_is_lost_or_cut_is_refused(tmp_path):
    options = {"num_local_experts": 3, "num_key_value_heads": 2}
    mixtral = build(MixtralForCausalLM, MixtralConfig, **options)
    mixtral.save_pretrained(tmp_path)
    assert same_weights(load(tmp_path), mixtral)
    body = (tmp_path / WEIGHTS).read_bytes()
    names = [name for name in load_file(tmp_path / WEIGHTS) if ".experts." in name]
    assert names
    for name in (names[0], names[-1]):
        edit_tensors(tmp_path, lose(name))
        refused(tmp_path, "experts.* cannot be put together|lack .*experts")
        edit_tensors(tmp_path, lambda tensors, name=name: tensors.update({name: torch.zeros(2, 2)}))
        refused(tmp_path, "experts.* cannot be put together|lack .*experts")
        (tmp_path / WEIGHTS).write_bytes(body)
    edit_tensors(tmp_path, rename(names[0], names[0].replace("experts.0", "experts.7")))
    refused(tmp_path, "lack model.layers.0.*experts.0.w1.weight, and have the one of expert 7")
    (tmp_path / WEIGHTS).write_bytes(body)
    assert same_weights(load(tmp_path), mixtral)


def test_buffers_that_older_versions_wrote_are_no_fault(tmp_path, llama, folder):
    frequencies = torch.ones(8)
    edit_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies}))
    assert same_weights(load(folder), llama)
    mask = torch.ones(1, 1, 512, 512, dtype=torch.bool)
    small = {"n_embd": 32, "n_layer": 2, "n_head": 4}
    gpt2 = build(GPT2LMHeadModel, GPT2Config, n_positions=512, **small)
    neo = build(GPTNeoForCausalLM, GPTNeoConfig, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
    for name, model, prefix in [("gpt2", gpt2, "h.0.attn"), ("neo", neo, "transformer.h.0.attn.attention")]:
        model.save_pretrained(tmp_path / name)
        old = {f"{prefix}.bias": mask, f"{prefix}.masked_bias": torch.tensor(-1e4)}
        edit_tensors(tmp_path / name, lambda tensors, old=old: tensors.update(old))
        assert same_weights(load(tmp_path / name), model)


def test_the_text_part_of_a_multimodal_checkpoint_loads_without_the_rest(tmp_path):
    text = SMALL | {"num_key_value_heads": 2, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}
    text |= {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    whole = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))
    whole.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert (type(loaded.model).__name__, loaded.weights) == ("Qwen3_5ForCausalLM", "trained")
    assert torch.equal(loaded.model.lm_head.weight, whole.lm_head.weight)
    edit_tensors(tmp_path, lose("lm_head.weight"))
    refused(tmp_path, "lm_head.weight of the model is not in it")


def test_a_sharded_checkpoint_is_loaded_and_each_of_its_files_is_needed(llama, sharded):
    (sharded / "pytorch_model.bin").write_bytes(b"never read")
    assert same_weights(load(sharded), llama)
    shard = sorted(sharded.glob("*.safetensors"))[3]
    body = shard.read_bytes()
    shard.write_bytes(body[:-1])
    refused(sharded, f"{shard.name}' is no whole safetensors file: it has ")
    shard.unlink()
    refused(sharded, f"has no {shard.name}", FileNotFoundError)
    shard.write_bytes(body)
    assert same_weights(load(sharded), llama)


@pytest.mark.parametrize("name", ["../model.safetensors", "{}/model.safetensors", "sub/model.safetensors", "w.bin", 3])
def test_an_index_that_leads_elsewhere_is_refused(llama, sharded, tmp_path, name):
    llama.save_pretrained(tmp_path)
    llama.save_pretrained(sharded / "sub")
    torch.save({"lm_head.weight": llama.lm_head.weight}, sharded / "w.bin")
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name.format(tmp_path) if isinstance(name, str) else name
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, "as a file with weights: expected a .*safetensors in the same folder")
    (sharded / INDEX).write_text(json.dumps({"weight_map": []}))
    refused(sharded, "has no weight_map")
    (sharded / INDEX).unlink()
    edit(sharded / "config.json", transformers_weights=str(name))
    refused(sharded, "as a file with weights: expected a .*safetensors in the same folder")


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_a_link_out_of_the_folder_is_refused_and_the_hubs_cache_is_not(llama, folder, tmp_path, file):
    outside, cache = tmp_path / "outside", tmp_path / "models--tiny--llama"
    outside.mkdir()
    (folder / file).rename(outside / "file")
    (folder / file).symlink_to(outside / "file")
    refused(folder, f"{file}' is a link to a file outside its folder")
    (folder / file).unlink()
    refused(folder, "has no", FileNotFoundError)
    (cache / "blobs").mkdir(parents=True)
    (outside / "file").rename(cache / "blobs" / "abc")
    (folder / file).symlink_to(cache / "blobs" / "abc")
    assert same_weights(load(folder), llama)
    (cache / "blobs" / "abc").unlink()
    refused(folder, f"{file}' is a link to a file that is gone", FileNotFoundError)


def test_other_weights_than_a_whole_models_are_named(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    refused(folder, r"has no \*.safetensors with its weights.*found adapter_model.safetensors", FileNotFoundError)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    refused(folder, "holds an adapter.*merge_and_unload")


@pytest.mark.parametrize("config", [T5Config, BartConfig, BertConfig, ViTConfig])
def test_what_is_no_decoder_is_one_line(folder, config):
    config().save_pretrained(folder)
    refused(folder, f"is no decoder: its model_type is '{config.model_type}'")
    refused(folder, f"is no decoder: its model_type is '{config.model_type}'", random_weights=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": None}, 'has no "model_type"'),
        ({"model_type": 5}, 'has no "model_type"'),
        ({"model_type": "nonsense"}, r"transformers [\d.]+ knows no model_type 'nonsense'"),
        ({"hidden_size": "many"}, "is no 'llama' configuration: .*hidden_size"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "transformers cannot load it: .*GPTQ"),
    ],
)
def test_a_configuration_that_means_nothing_is_one_line(llama, folder, changes, match):
    before = (folder / "config.json").read_bytes()
    edit(folder / "config.json", **changes)
    refused(folder, match)
    (folder / "config.json").write_bytes(before)
    assert same_weights(load(folder), llama)
