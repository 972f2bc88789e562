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


@pytest.mark.parametrize(("idle", "threads", "spinning"), [(4.0, 0, True), (3.1, 3, False), (0.2, 1, False)])
def test_a_session_takes_one_thread_for_each_core_that_is_idle(monkeypatch, phi_graph, idle, threads, spinning):
    monkeypatch.setattr(onnx_session, "idle_cores", lambda: idle)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    onnx_session.threads_beside_others.cache_clear()
    decoder = OnnxDecoder(phi_graph.path, device="cpu")
    onnx_session.threads_beside_others.cache_clear()
    options = decoder.session.get_session_options()
    assert (options.intra_op_num_threads, decoder.spinning) == (threads, spinning)  # 0: onnxruntime takes all cores
