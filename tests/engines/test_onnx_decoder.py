"""The ONNX decoder: sessions reused, buffers that grow, files that are refused."""

import os
import shutil
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from helpers import left_padded, prompt_ids
from onnx import TensorProto, helper

import decodeloop
from decodeloop import OnnxDecoder, PromptLookup, onnx_generate


def test_graphs_with_last_logits_decode_the_same(llama, llama_graph):
    ids, mask = left_padded([7, 2, 4])
    expected = decodeloop.generate(llama, ids, attention_mask=mask, max_new_tokens=20)
    assert torch.equal(onnx_generate(llama_graph.path, ids, attention_mask=mask, max_new_tokens=20), expected)


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
def test_the_last_inputs_give_the_last_step_again_when_its_guesses_were_taken_back(phi_graph, phi_fused, exporter):
    path = {"dynamo": phi_graph, "fused": phi_fused}[exporter].path
    ids = torch.cat([prompt_ids(1, 5)] * 3, dim=-1)
    end = onnx_generate(path, ids, device="cpu", max_new_tokens=12, eos_token_id=None)[0, -1]
    options = {"eos_token_id": int(end), "lookup": PromptLookup(tokens=6, ngram=1), "return_session": True}
    tokens, decoder, feeds = onnx_generate(path, ids, device="cpu", **options)
    assert feeds["attention_mask"].shape[1] > tokens.shape[1]  # the last step read guesses that were wrong
    (logits,) = decoder.session.run(["logits"], {name: tensor.numpy() for name, tensor in feeds.items()})
    assert [int(feeds["input_ids"][0, 0]), int(logits[0, 0].argmax())] == tokens[0, -2:].tolist()


def test_a_session_is_returned_and_reused(phi, phi_graph):
    ids = prompt_ids(1, 5)
    tokens, session, feeds = onnx_generate(phi_graph.path, ids, max_new_tokens=2, return_session=True)
    assert tokens.shape == (1, 7)
    assert feeds["input_ids"].tolist() == [[int(tokens[0, 5])]]
    assert feeds["attention_mask"].tolist() == [[1] * 6]
    assert feeds["position_ids"].tolist() == [[5]]
    assert feeds["past_key_values.0.key"].shape == (1, 4, 5, 32)
    again = onnx_generate(session, ids, max_new_tokens=30)
    assert torch.equal(again, decodeloop.generate(phi, ids, max_new_tokens=30))


def test_one_decoder_serves_growing_and_shrinking_requests(phi, phi_graph):
    decoder = OnnxDecoder(phi_graph.path, device="cpu", capacity=30)
    for batch, length, new in [(1, 3, 2), (4, 30, 10), (2, 1, 60), (5, 9, 3)]:
        ids = prompt_ids(batch, length)
        options = {"max_new_tokens": new, "eos_token_id": None}
        assert torch.equal(decoder.generate(ids, **options), decodeloop.generate(phi, ids, **options))


def test_a_step_beyond_the_capacity_is_refused(phi_graph):
    decoder = OnnxDecoder(phi_graph.path, device="cpu")
    tokens = decoder.generate(prompt_ids(1, 5), max_new_tokens=2, eos_token_id=None)
    decoder.forward(tokens[:, -1:])
    with pytest.raises(ValueError, match="1 tokens do not fit in a cache that has room for 0 more"):
        decoder.forward(tokens[:, -1:])


def test_the_decoder_knows_its_model(phi, phi_graph):
    decoder = OnnxDecoder(phi_graph.path, device="cpu")
    assert decoder.providers == ["CPUExecutionProvider"]
    assert decoder.config.model_type == "phi"
    assert decoder.config.num_hidden_layers == 2
    assert decoder.config.rope_parameters == phi.config.rope_parameters
    assert (decoder.generation_config.eos_token_id, decoder.generation_config.pad_token_id) == (2, 0)
    assert (decoder.vocab_size, decoder.max_positions) == (97, 512)


def test_a_graph_without_metadata_takes_the_files_beside_it(phi, phi_graph, tmp_path):
    proto = onnx.load(phi_graph.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "plain.onnx")
    ids = prompt_ids(1, 4)
    bare = OnnxDecoder(tmp_path / "plain.onnx", device="cpu")
    assert bare.config is None
    with pytest.raises(ValueError, match="plain.onnx does not say which token ends a text.*eos_token_id"):
        bare.generate(ids)
    expected = decodeloop.generate(phi, ids, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(bare.generate(ids, max_new_tokens=8, eos_token_id=None), expected)
    phi.config.save_pretrained(tmp_path)
    phi.generation_config.save_pretrained(tmp_path)
    assert OnnxDecoder(tmp_path / "plain.onnx", device="cpu").generation_config.eos_token_id == 2


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ONNX graph at '.*nothing.onnx'"):
        OnnxDecoder(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("this is not a graph")
    with pytest.raises(ValueError, match="text.onnx' is not an ONNX graph"):
        OnnxDecoder(tmp_path / "text.onnx")


def test_a_graph_without_a_cache_is_refused(tmp_path):
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    out = helper.make_tensor_value_info("logits", TensorProto.INT64, ["batch", "sequence"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["logits"])], "g", [ids], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "nocache.onnx")
    with pytest.raises(ValueError, match="nocache.onnx has no cache inputs.*its inputs are input_ids"):
        OnnxDecoder(tmp_path / "nocache.onnx")


def test_missing_weights_are_named(phi_graph, tmp_path):
    shutil.copy(phi_graph.path, tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"keeps its weights in 'model.onnx.data', which is not beside it"):
        OnnxDecoder(tmp_path / "model.onnx")


@pytest.mark.parametrize("where", ["../model.onnx.data", "{absolute}", "link.data"])
def test_weights_outside_the_folder_are_refused(phi_graph, tmp_path, where):
    folder = tmp_path / "graph"
    folder.mkdir()
    outside = tmp_path / "model.onnx.data"
    shutil.copy(phi_graph.external_data, outside)
    (folder / "link.data").symlink_to(outside)
    proto = onnx.load(phi_graph.path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = where.format(absolute=outside)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="outside its own folder: refused"):
        OnnxDecoder(folder / "model.onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there, and here is one")
def test_cuda_without_a_gpu_is_an_error(phi_graph):
    with pytest.raises(ValueError, match=r"device='cuda': torch .* sees 0 GPUs"):
        OnnxDecoder(phi_graph.path, device="cuda")


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_must_be_positive(phi_graph, capacity):
    with pytest.raises(ValueError, match=f"capacity={capacity}"):
        OnnxDecoder(phi_graph.path, capacity=capacity)


@pytest.mark.parametrize("exporter", ["dynamo", "fused"])
def test_capacity_must_hold_the_prompt(phi, phi_graph, phi_fused, exporter):
    path = {"dynamo": phi_graph, "fused": phi_fused}[exporter].path
    decoder = OnnxDecoder(path, device="cpu", capacity=10)
    with pytest.raises(ValueError, match="capacity=10 is smaller than the prompt, which has 11 positions"):
        decoder.generate(prompt_ids(1, 11))
    ids = prompt_ids(1, 10)
    assert torch.equal(decoder.generate(ids, max_new_tokens=90), decodeloop.generate(phi, ids, max_new_tokens=90))


def test_a_cache_of_open_sizes_is_named(phi_graph, tmp_path):
    proto = onnx.load(phi_graph.path)
    past = next(value for value in proto.graph.input if value.name == "past_key_values.0.key")
    past.type.tensor_type.shape.dim[1].dim_param = "heads"
    onnx.save(proto, tmp_path / "open.onnx")
    with pytest.raises(ValueError, match=r"past_key_values.0.key has shape .*'heads'.*expected \[batch, heads"):
        OnnxDecoder(tmp_path / "open.onnx", device="cpu")


def test_a_vocabulary_of_open_size_needs_the_configuration(phi, phi_graph, tmp_path):
    proto = onnx.load(phi_graph.path)
    del proto.metadata_props[:]
    next(node for node in proto.graph.node if "logits" in node.output).output[0] = "all_logits"
    proto.graph.initializer.append(helper.make_tensor("kept", TensorProto.BOOL, [97], [True] * 97))
    proto.graph.node.append(helper.make_node("Compress", ["all_logits", "kept"], ["logits"], axis=2))
    next(value for value in proto.graph.output if value.name == "logits").type.tensor_type.shape.dim[2].dim_param = "v"
    onnx.save(proto, tmp_path / "open.onnx")
    with pytest.raises(ValueError, match=r"open.onnx does not say how many tokens its vocabulary has.*config.json"):
        OnnxDecoder(tmp_path / "open.onnx", device="cpu")
    phi.config.save_pretrained(tmp_path)
    decoder, ids = OnnxDecoder(tmp_path / "open.onnx", device="cpu"), prompt_ids(1, 4)
    expected = decodeloop.generate(phi, ids, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(decoder.generate(ids, max_new_tokens=8, eos_token_id=None), expected)


def spins(decoder):
    return decoder.session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning")


def test_threads_spin_as_asked(phi_graph):
    for wanted in (True, False):
        decoder = OnnxDecoder(phi_graph.path, device="cpu", spinning=wanted)
        assert decoder.spinning is wanted
        assert spins(decoder) == str(int(wanted))


def test_decoders_of_one_process_spin_alike_whatever_goes_on_beside_them(phi_graph):
    first = OnnxDecoder(phi_graph.path, device="cpu")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert OnnxDecoder(phi_graph.path, device="cpu").spinning == first.spinning
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_session_options_say_whether_threads_spin(phi_graph):
    options = onnxruntime.SessionOptions()
    assert OnnxDecoder(phi_graph.path, device="cpu", session_options=options).spinning  # onnxruntime's default
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    assert not OnnxDecoder(phi_graph.path, device="cpu", session_options=options).spinning
    with pytest.raises(ValueError, match="spinning is one of session_options: give one of the two"):
        OnnxDecoder(phi_graph.path, device="cpu", session_options=options, spinning=True)


def test_opening_a_decoder_leaves_the_environment_as_it_was(phi_graph, monkeypatch):
    before, seen = dict(os.environ), []
    opened = onnxruntime.InferenceSession
    monkeypatch.setattr(
        "onnxruntime.InferenceSession",
        lambda *args, **options: seen.append(dict(os.environ)) or opened(*args, **options),
    )
    OnnxDecoder(phi_graph.path, device="cpu")
    assert [*seen, dict(os.environ)] == [before, before]
