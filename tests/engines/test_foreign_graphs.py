"""Graphs of other makers: the tokens of generate in every way of use, or a refusal in one line."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from helpers import left_padded, prompt_ids
from onnx import TensorProto, helper

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup

SAID = {
    "model": {
        "context_length": 512,
        "decoder": {"head_size": 32, "num_key_value_heads": 4},
        "eos_token_id": [2, 5],
        "pad_token_id": 0,
    },
    "search": {"do_sample": False, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0},
}


def stripped(report):
    proto = onnx.load(report.path)
    del proto.metadata_props[:]
    return proto


@pytest.fixture
def genai_proto(phi_fused):
    """Ours as onnxruntime-genai's builder writes it: all keys before all values, their size left open."""
    proto = stripped(phi_fused)
    for values in (proto.graph.input, proto.graph.output):
        cache = [value for value in values if value.name.endswith((".key", ".value"))]
        for value in cache:
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
            values.remove(value)
        values.extend(sorted(cache, key=lambda value: value.name.rsplit(".", 1)[-1]))
    return proto


@pytest.fixture
def opened(tmp_path):
    def save(proto, said=SAID):
        onnx.save(proto, tmp_path / "model.onnx")
        if said is not None:
            (tmp_path / "genai_config.json").write_text(said if isinstance(said, str) else json.dumps(said))
        return OnnxDecoder(tmp_path / "model.onnx", device="cpu")

    return save


def assert_every_way_of_use(model, decoder):
    def expected(ids, mask, count):
        return model.generate(ids, attention_mask=mask, max_new_tokens=count, eos_token_id=None, pad_token_id=0)

    batch, mask = left_padded([3, 9, 6])
    last, last_mask = batch[:1], mask[:1]
    row = prompt_ids(1, 7)
    for ids, seen in [(row, torch.ones_like(row)), (last, last_mask), (batch, mask)]:
        whole = expected(ids, seen, 12)
        options = {"eos_token_id": None}
        assert torch.equal(decoder.generate(ids, attention_mask=seen, max_new_tokens=12, **options), whole)
        start = decoder.generate(ids, attention_mask=seen, max_new_tokens=5, **options)
        longer = torch.cat([seen, seen.new_ones(len(seen), 5)], dim=1)
        for engine in (decoder, decodeloop.TorchDecoder(model)):  # in the order of layers, keys first
            decoder.generate(ids, attention_mask=seen, max_new_tokens=5, **options)
            on = {"attention_mask": longer, "past_key_values": decoder.cache(), "max_new_tokens": 7}
            assert torch.equal(engine.generate(start, **on, **options), whole)
    for ids in (row.repeat(1, 3), torch.cat([torch.zeros_like(row), row, row], dim=1)):
        seen = (ids != 0).long()
        looked_up = decoder.generate(
            ids, attention_mask=seen, max_new_tokens=20, lookup=PromptLookup(), eos_token_id=None
        )
        assert torch.equal(looked_up, expected(ids, seen, 20))


def test_a_graph_like_genais_with_its_file(phi, genai_proto, opened):
    decoder = opened(genai_proto)
    assert decoder.generation_config.eos_token_id == [2, 5]
    assert decoder.max_positions == 512
    assert_every_way_of_use(phi, decoder)


def test_a_graph_like_genais_with_the_models_files(phi, genai_proto, opened, tmp_path):
    phi.config.save_pretrained(tmp_path)
    phi.generation_config.save_pretrained(tmp_path)
    decoder = opened(genai_proto, said=None)
    assert decoder.generation_config.eos_token_id == 2
    assert_every_way_of_use(phi, decoder)


def test_a_graph_like_optimums(phi, phi_graph, opened):
    assert_every_way_of_use(phi, opened(stripped(phi_graph), said=None))


def test_open_sizes_need_a_file(genai_proto, opened):
    with pytest.raises(ValueError, match=r"past_key_values.0.key has shape .*'kv_cache_dim'.*genai_config.json beside"):
        opened(genai_proto, said=None)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}'])
def test_a_broken_file_is_named(genai_proto, opened, text):
    with pytest.raises(ValueError, match="genai_config.json' is not what onnxruntime-genai's builder writes"):
        opened(genai_proto, said=text)


def test_a_window_that_the_graph_lacks_limits_the_text(genai_proto, opened):
    decoder = SAID["model"]["decoder"] | {"sliding_window": {"window_size": 6}}
    decoder = opened(genai_proto, SAID | {"model": SAID["model"] | {"decoder": decoder}})
    assert decoder.max_positions == 6
    with pytest.raises(ValueError, match="need 7 positions, and the model has 6"):
        decoder.generate(prompt_ids(1, 5), max_new_tokens=2)


def attention(proto):
    return [node for node in proto.graph.node if node.op_type == "GroupQueryAttention"]


def unread_mask(proto):
    mask = next(value for value in proto.graph.input if value.name == "attention_mask")
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == mask.name:
                node.input[index] = "other_mask"
    proto.graph.initializer.append(helper.make_tensor("other_mask", TensorProto.INT64, [1, 1], [1]))


def lengths_from_elsewhere(proto):
    proto.graph.initializer.append(helper.make_tensor("seqlens", TensorProto.INT32, [1], [0]))
    for node in attention(proto):
        node.input[5] = "seqlens"


def computed_tables(proto):
    first = attention(proto)[0]
    proto.graph.node.insert(0, helper.make_node("Identity", [first.input[7]], ["computed"]))
    first.input[7] = "computed"


def quantized_cache(proto):
    for value in proto.graph.input:
        if value.name.startswith("past_key_values."):
            value.type.tensor_type.elem_type = TensorProto.INT8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unread_mask, "does not read its attention_mask"),
        (lengths_from_elsewhere, "does not take its rows' lengths from its attention_mask"),
        (computed_tables, "computes its rotary frequencies as it goes"),
        (quantized_cache, "keeps its cache in a type"),
    ],
)
def test_what_would_come_out_wrong_is_refused(genai_proto, opened, change, reason):
    change(genai_proto)
    with pytest.raises(ValueError, match=rf"^model.onnx {reason}.*decodeloop.export_onnx\.$"):
        opened(genai_proto)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed")
def test_a_graph_of_genais_builder(llama, tmp_path):
    source, built = tmp_path / "source", tmp_path / "built"
    llama.save_pretrained(source)
    for tokenizer in (Path(decodeloop.__file__).parent / "bundled").glob("tokenizer*"):
        shutil.copy(tokenizer, source)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*command, "-i", source, "-o", built, "-c", tmp_path / "cache"], check=True, capture_output=True)
    decoder = OnnxDecoder(built / "model.onnx", device="cpu")
    assert 2 in torch.tensor(decoder.generation_config.eos_token_id)
    assert_every_way_of_use(llama, decoder)
