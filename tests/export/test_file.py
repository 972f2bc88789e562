"""Graphs and weights as files: which layouts open, what is refused and in which words, what a changed bit does."""

import contextlib
import os
import shutil

import onnx
import onnxruntime
import pytest
import torch
from helpers import prompt_ids

import decodeloop
from decodeloop import OnnxDecoder, quantize_onnx

TOKENS = {"max_new_tokens": 6, "eos_token_id": None}


@pytest.fixture
def pair(phi_fused, tmp_path):
    """A copy of phi's fused graph and its weights: ``folder/model.onnx`` and ``folder/model.onnx.data``."""
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(phi_fused.path, folder / "model.onnx")
    shutil.copy(phi_fused.external_data, folder / phi_fused.external_data.name)
    return folder / "model.onnx"


def weights(path):
    return path.with_name(path.name + ".data")


def edit(path, **entries):
    """Write other external data into the graph of a pair, as another tool does."""
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = str(entries.get(entry.key, entry.value))
    onnx.save(graph, path)


def in_hub_cache(path, root):
    """A pair as huggingface_hub's cache keeps it: links in a snapshot's folder, files named by their digests."""
    snapshot, blobs = root / "snapshots" / "abc" / "onnx", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate((path, weights(path))):
        shutil.move(file, blobs / f"digest{number}")
        (snapshot / file.name).symlink_to(f"../../../blobs/digest{number}")
    return snapshot / path.name


def as_hard_links(path, root):
    for file in (path, weights(path)):
        os.link(file, root / file.name)
    return root / path.name


def in_linked_folder(path, root):
    (root / "link").symlink_to(path.parent)
    return root / "link" / path.name


def weights_linked_within(path, root):
    weights(path).rename(path.parent / "elsewhere")
    weights(path).symlink_to("elsewhere")
    return path


def renamed(path, name):
    edit(path, location=name[:200] + ".weights")
    weights(path).rename(path.parent / (name[:200] + ".weights"))
    return path.rename(path.parent / name)


LAYOUTS = {
    "a hub's cache": in_hub_cache,
    "hard links": as_hard_links,
    "a linked folder": in_linked_folder,
    "a link to weights in the folder": weights_linked_within,
    "spaces and other letters": lambda path, root: renamed(path, "mödel nº 1 — 模型.onnx"),
    "255 bytes": lambda path, root: renamed(path, "n" * 250 + ".onnx"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opens_and_quantizes_in(layout, pair, phi, tmp_path):
    ids = prompt_ids(1, 5)
    expected = decodeloop.generate(phi, ids, **TOKENS)
    path = LAYOUTS[layout](pair, tmp_path)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert torch.equal(OnnxDecoder(path, device="cpu").generate(ids, **TOKENS), expected)
    before = path.read_bytes()
    target = quantize_onnx(path, path.with_name("quantized.onnx"))
    assert OnnxDecoder(target, device="cpu").generate(ids, **TOKENS).shape == expected.shape
    assert path.read_bytes() == before
    assert torch.equal(OnnxDecoder(path, device="cpu").generate(ids, **TOKENS), expected)


@pytest.mark.parametrize(
    "name", ["mödel nº 1 — 模型.onnx", "m" * 250 + ".onnx", "模" * 80 + ".onnx", "no ending", ".data"]
)
def test_writes_to_any_name(name, pair, tmp_path):
    for _ in range(2):
        target = quantize_onnx(pair, tmp_path / name)
    assert len(os.listdir(tmp_path)) == 3  # the folder of the pair, and one pair
    onnx.load(target)
    assert OnnxDecoder(target, device="cpu").generate(prompt_ids(1, 5), **TOKENS).shape == (1, 11)


@pytest.mark.parametrize("which", ["graph", "weights"])
def test_a_flipped_bit_is_an_error(which, pair):
    file = pair if which == "graph" else weights(pair)
    good = file.read_bytes()
    for place in range(len(good) // 20, len(good), len(good) // 10):
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(ValueError, match=f"{file.name} is not as it was exported.*checksum"):
            OnnxDecoder(pair, device="cpu")
    with pytest.raises(ValueError, match="is not as it was exported"):
        quantize_onnx(pair, pair.with_name("quantized.onnx"))
    file.write_bytes(good)
    OnnxDecoder(pair, device="cpu")


def test_a_flipped_bit_in_the_checksums_themselves_changes_no_token(pair, phi):
    good, ids = pair.read_bytes(), prompt_ids(1, 5)
    expected = decodeloop.generate(phi, ids, **TOKENS)
    for bit in range(0, 8 * (good.index(b" ") + 9), 29):
        pair.write_bytes(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
        with contextlib.suppress(ValueError):
            assert torch.equal(OnnxDecoder(pair, device="cpu").generate(ids, **TOKENS), expected)


def test_verification_can_be_left_out(pair):
    data = bytearray(weights(pair).read_bytes())
    data[5000] ^= 1
    weights(pair).write_bytes(data)
    OnnxDecoder(pair, device="cpu", verify_weights=False)


def test_a_graph_that_another_tool_rewrote_is_not_called_damaged(pair, phi):
    graph = onnx.load(pair)
    graph.doc_string = "changed"
    pair.unlink()
    weights(pair).unlink()
    onnx.save(graph, pair, save_as_external_data=True, location="model.onnx.data")
    ids = prompt_ids(1, 5)
    expected = decodeloop.generate(phi, ids, **TOKENS)
    assert torch.equal(OnnxDecoder(pair, device="cpu").generate(ids, **TOKENS), expected)


def cut(file, share):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


BROKEN = {
    "an empty graph": (lambda path: cut(path, 0), "model.onnx' is not an ONNX graph, or was cut: it has no outputs"),
    "a cut graph": (lambda path: cut(path, 0.5), "model.onnx.*(is not as it was exported|was cut)"),
    "a graph cut at its end": (lambda path: cut(path, 0.9999), "model.onnx.*(is not as it was exported|was cut)"),
    "a text": (lambda path: path.write_text("no graph"), "model.onnx' is not an ONNX graph, or was cut"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "model.onnx' is a directory: expected a graph in it"),
    "cut weights": (lambda path: cut(weights(path), 0.9), "model.onnx expects .* bytes of 'model.onnx.data' .* cut"),
    "empty weights": (lambda path: cut(weights(path), 0), "model.onnx expects .* in a file of 0: .* cut"),
    "weights elsewhere": (lambda path: edit(path, location="/etc/passwd"), "outside its own folder: refused"),
    "weights above": (lambda path: edit(path, location="../x"), "outside its own folder: refused"),
    "a zero in the name": (lambda path: edit(path, location="a\0b"), "keeps its weights in 'a.x00b', which is not"),
    "a long name": (lambda path: edit(path, location="x" * 300), "keeps its weights in 'x*', which is not beside it"),
    "memory": (lambda path: edit(path, location="*/_ORT_MEM_ADDR_/*"), "keeps its weights in .* which is not beside"),
    "an offset too far": (lambda path: edit(path, offset=10**12), "model.onnx expects .* from 1000000000000 on"),
    "an offset below 0": (lambda path: edit(path, offset=-4), "model.onnx expects .* from -4 on"),
    "no number": (lambda path: edit(path, offset="x"), "model.onnx expects .* from x on"),
    "another length": (lambda path: edit(path, length=10), "model.onnx expects .* gives it 10 from"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_in_one_line(what, pair):
    damage, words = BROKEN[what]
    damage(pair)
    for use in (OnnxDecoder, lambda path: quantize_onnx(path, path.with_name("quantized.onnx"))):
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            use(pair)
        assert "\n" not in str(error.value).strip()
    assert "quantized.onnx" not in os.listdir(pair.parent)


def test_a_link_out_of_the_folder_is_refused(pair, tmp_path):
    weights(pair).rename(tmp_path / "outside")
    weights(pair).symlink_to(tmp_path / "outside")
    for use in (OnnxDecoder, lambda path: quantize_onnx(path, path.with_name("quantized.onnx"))):
        with pytest.raises(ValueError, match="at 'model.onnx.data', outside its own folder: refused"):
            use(pair)


def test_a_source_and_its_weights_survive_any_target(pair, phi, tmp_path):
    ids = prompt_ids(1, 5)
    expected = decodeloop.generate(phi, ids, **TOKENS)
    (tmp_path / "link.onnx").symlink_to(pair)
    os.link(pair, tmp_path / "hard.onnx")
    for target in (pair, weights(pair), tmp_path / "link.onnx", tmp_path / "hard.onnx"):
        with pytest.raises(ValueError, match="source and target are both '.*model.onnx"):
            quantize_onnx(pair, target)
    edit(pair, location="other.onnx.data")  # the name that the target's weights would have
    weights(pair).rename(pair.with_name("other.onnx.data"))
    for bits in (8, 4):
        target = quantize_onnx(pair, pair.with_name("other.onnx"), bits=bits)
        OnnxDecoder(target, device="cpu")
    assert torch.equal(OnnxDecoder(pair, device="cpu").generate(ids, **TOKENS), expected)


def test_weights_of_constants_in_a_file_come_along(tmp_path):
    values = {"w": torch.randn(64, 64).numpy(), "c": torch.randn(1, 64).numpy()}
    constants = {name: onnx.numpy_helper.from_array(value, name) for name, value in values.items()}
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=constants["c"]),
        onnx.helper.make_node("MatMul", ["x", "w"], ["xw"]),
        onnx.helper.make_node("Add", ["xw", "c"], ["y"]),
    ]
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], [constants["w"]])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    source = tmp_path / "source.onnx"
    onnx.save(model, source, save_as_external_data=True, size_threshold=0, convert_attribute=True, location="w.data")
    target = quantize_onnx(source, tmp_path / "target.onnx")
    for file in (source, tmp_path / "w.data"):
        file.unlink()
    x = torch.ones(1, 64).numpy()
    (y,) = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert abs(y - (x @ values["w"] + values["c"])).max() < 0.5
