"""Is anybody else at work? Measured on a machine that is made busy, and what a session makes of it."""

import os
import subprocess
import sys
import time

import pytest
import torch

from decodeloop import OnnxDecoder
from decodeloop.engines import onnx_session
from decodeloop.engines.onnx_session import idle_cores


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_a_machine_whose_cores_are_all_busy_has_few_idle_ones():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.3)
        assert idle_cores() < 0.5 * (os.cpu_count() or 1)
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    onnx_session.threads_beside_others.cache_clear()
    yield
    onnx_session.threads_beside_others.cache_clear()


@pytest.mark.parametrize(("idle", "threads", "spinning"), [(4.0, 0, True), (3.1, 3, False), (0.2, 1, False)])
def test_a_session_takes_one_thread_for_each_core_that_is_idle(
    monkeypatch, phi_graph, four_cores, idle, threads, spinning
):
    monkeypatch.setattr(onnx_session, "idle_cores", lambda: idle)
    decoder = OnnxDecoder(phi_graph.path, device="cpu")
    options = decoder.session.get_session_options()
    assert (options.intra_op_num_threads, decoder.spinning) == (threads, spinning)  # 0: onnxruntime takes all cores


@pytest.mark.parametrize(
    ("idle", "threads", "looks"),
    [
        ([3.9], None, 1),  # nobody else
        ([2.2, 1.0, 3.6], None, 3),  # a file was being written
        ([3.0, 1.1, 2.9, 3.1, 2.2], 3, 5),  # a program keeps one core busy, others come and go
        ([0.1, 0.3, 0.0, 0.2, 0.1], 1, 5),  # all are busy: one thread is the least
        ([2.0, None], None, 2),  # the system stopped telling
    ],
)
def test_who_is_busy_for_a_moment_is_not_taken_for_a_program_that_stays(monkeypatch, four_cores, idle, threads, looks):
    seen = iter(idle)
    monkeypatch.setattr(onnx_session, "idle_cores", lambda: next(seen))
    assert onnx_session.threads_beside_others() == threads
    assert len(list(seen)) == len(idle) - looks
