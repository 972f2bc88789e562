"""Whatever stops a writer, and whoever reads or writes meanwhile: one whole pair is there, and nothing else stays."""

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from decodeloop.export import save
from decodeloop.export.file import read_graph
from decodeloop.export.save import save_graph
from decodeloop.scratch import PREFIX

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="stops processes of its own")
NOT_REACHED, SAVED, FAILED = 10, 11, 12
OPERATIONS = {"open", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.utime"}


def model(number):
    """``y = x @ w - b``: 0 for ones, if ``w``, in the file of weights, and ``b``, in the graph's, belong together."""
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x, y = (ir.Value(name=name, type=float32, shape=ir.Shape([1, 64])) for name in "xy")
    arrays = {"w": np.full((64, 64), number / 64, np.float32), "b": np.full(1, number, np.float32)}
    w, b = (ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items())
    product = ir.node("MatMul", [x, w])
    nodes = [product, ir.node("Sub", [product.outputs[0], b], outputs=[y])]
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[w, b], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10, metadata_props={"number": str(number)})


def read(path):
    """Which model is in a file, as onnxruntime opens it: "mixed" if graph and weights are of two."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (zeros,) = session.run(None, {"x": np.ones((1, 64), np.float32)})
    return "mixed" if zeros.any() else int(session.get_modelmeta().custom_metadata_map["number"])


def start(work):
    """Run in a process of its own, which ends with the number that ``work`` returns, else with 0, or 1 if it raises."""
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        code = result if isinstance(result := work(), int) else 0
    os._exit(code)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=[[], [2], [1, 2]], ids=["nothing", "a pair", "a pair that replaced one"])
def path(request, tmp_path):
    """Where model 3 will be written: over nothing, or over model 2."""
    for number in request.param:
        save_graph(model(number), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def each_operation(path, action):
    """Save model 3 with ``action`` before its first, second, ... operation on files; yields, after each, its end."""
    content = {file: file.read_bytes() for file in path.parent.iterdir()}
    for number in itertools.count(1):
        for file in path.parent.iterdir():
            file.unlink()
        for file, data in content.items():
            file.write_bytes(data)
        code = ended(start(lambda number=number: save_with(path, number, action)))
        if code == NOT_REACHED:
            assert number > 20
            return
        yield code


def save_with(path, number, action):
    count = 0

    def hook(event, arguments):  # for as long as this process lives
        nonlocal count
        count += event in OPERATIONS
        if event in OPERATIONS and count == number:
            action()

    sys.addaudithook(hook)
    code = SAVED
    try:
        save_graph(model(3), path)
    except OSError as error:
        code = FAILED if error.filename == str(path) else 1
    return code if count >= number else NOT_REACHED


def test_killed_at_any_moment_it_leaves_the_old_pair_or_the_new_one(path, monkeypatch):
    monkeypatch.setattr(save, "GRACE", 0.0)
    before = read(path) if path.exists() else None
    seen = set()
    for code in each_operation(path, kill):
        assert code == -signal.SIGKILL
        seen.add(read(path) if path.exists() else None)
        for _ in range(2):  # the next run removes what is left; weights that it replaces, the one after it
            save_graph(model(4), path)
        assert read(path) == 4
        assert len(os.listdir(path.parent)) == 2
    assert seen == {before, 3}


def test_on_a_disk_that_is_full_at_any_moment_it_leaves_the_old_pair_and_nothing_else(path, monkeypatch):
    monkeypatch.setattr(save, "GRACE", 0.0)
    before = read(path) if path.exists() else None
    old, seen = set(os.listdir(path.parent)), set()
    for code in each_operation(path, fill_the_disk):
        assert code in (SAVED, FAILED)
        found = read(path) if path.exists() else None
        seen.add((code, found))
        if found == before:
            left = {name for name in os.listdir(path.parent) if not name.startswith(PREFIX)}
            assert left <= old  # what could not be removed either, the next run removes
        for _ in range(2):
            save_graph(model(4), path)
        assert len(os.listdir(path.parent)) == 2
    assert seen == {(SAVED, 3), (FAILED, before)}


def test_an_error_of_the_system_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: fill_the_disk())
    with pytest.raises(OSError, match="No space left on device: '.*model.onnx'") as error:
        save_graph(model(1), tmp_path / "model.onnx")
    assert error.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_what_a_check_refuses_is_not_written(path):
    listing = sorted(os.listdir(path.parent))

    def refuse(staged):
        assert read(staged) == 3
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        save_graph(model(3), path, refuse)
    assert sorted(os.listdir(path.parent)) == listing


def test_a_refused_graph_waits_for_no_checksum(path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(save, "checksum", lambda files: released.wait(60))
    listing = sorted(os.listdir(path.parent))

    def refuse(staged):
        raise ValueError("no")

    try:
        with pytest.raises(ValueError, match="no"):
            save_graph(model(3), path, refuse)
        assert not released.is_set()
        assert sorted(os.listdir(path.parent)) == listing
    finally:
        released.set()


def test_a_checksum_that_fails_is_an_error_of_the_file(path, monkeypatch):
    def fail(files):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(save, "checksum", fail)
    listing = sorted(os.listdir(path.parent))
    with pytest.raises(OSError, match="Input/output error.*model.onnx"):
        save_graph(model(3), path)
    assert sorted(os.listdir(path.parent)) == listing


def test_where_no_thread_can_be_had_a_graph_is_written_all_the_same(path, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    save_graph(model(3), path)
    assert read(path) == 3


def test_a_thread_that_outlives_the_main_one_still_writes(tmp_path):
    said = subprocess.run([sys.executable, "-c", LATE, tmp_path / "model.onnx"], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    assert (tmp_path / "model.onnx").exists()


LATE = """
import sys, threading
from pathlib import Path

import numpy as np
import onnx_ir as ir

from decodeloop.export.save import save_graph

w = ir.Value(name="w", const_value=ir.tensor(np.ones((64, 64), np.float32), name="w"))
graph = ir.Graph([], [], nodes=[], initializers=[w], opset_imports={"": 20})

def late():
    threading.main_thread().join()
    save_graph(ir.Model(graph, ir_version=10), Path(sys.argv[1]))

threading.Thread(target=late).start()
"""


def test_two_writers_at_once_leave_the_pair_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "GRACE", 0.0)
    path, winners = tmp_path / "model.onnx", set()
    for _ in range(40):
        children = [start(lambda n=n: save_graph(model(n), path)) for n in (1, 2)]
        assert [ended(child) for child in children] == [0, 0]
        winners.add(read(path))
        assert not list(tmp_path.glob(".decode*"))
    assert winners <= {1, 2}


def test_readers_meet_whole_pairs_while_it_is_written_again_and_again(tmp_path):
    path = tmp_path / "model.onnx"
    save_graph(model(0), path)

    def write():
        for number in range(10**6):
            save_graph(model(number), path)

    writer = start(write)
    try:
        seen = [read(path) for _ in range(200)]
    finally:
        os.kill(writer, signal.SIGKILL)
        ended(writer)
    assert "mixed" not in seen
    assert len(set(seen)) > 2


def test_a_writer_at_work_is_left_alone(tmp_path):
    path = tmp_path / "model.onnx"
    save_graph(model(2), path, lambda staged: save_graph(model(1), path))
    assert read(path) == 2


def test_the_same_weights_are_kept_and_other_ones_get_another_name(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    first, _ = save_graph(model(1), path)
    again, _ = save_graph(model(1), path)
    second, _ = save_graph(model(2), path)
    assert first == again == tmp_path / "model.onnx.data"
    assert second != first
    assert first.exists()  # for who has read the old graph and not yet its weights
    monkeypatch.setattr(save, "GRACE", 0.0)
    save_graph(model(2), path)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, second.name])


def test_weights_that_another_graph_names_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "GRACE", 0.0)
    path, sibling = tmp_path / "model.onnx", tmp_path / "sibling.onnx"
    save_graph(model(1), path)
    os.link(path, sibling)
    for number in (2, 3, 4):
        save_graph(model(number), path)
    assert (read(path), read(sibling)) == (4, 1)


def test_a_damaged_file_is_repaired_by_the_next_export(tmp_path):
    path = tmp_path / "model.onnx"
    weights, _ = save_graph(model(1), path)
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    save_graph(model(1), path)
    assert read(path) == 1
    read_graph(path, verify_weights=True)


def test_other_files_that_look_like_weights_are_not_overwritten(tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(b"mine")
    save_graph(model(1), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").read_bytes() == b"mine"


def test_without_locks_and_hard_links_pairs_are_whole_too(tmp_path, monkeypatch):
    import fcntl

    def missing(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", missing)
    monkeypatch.setattr(os, "link", missing)
    for number in (1, 2):
        save_graph(model(number), tmp_path / "model.onnx")
        assert read(tmp_path / "model.onnx") == number
    assert len(os.listdir(tmp_path)) == 3
