import os
import subprocess
import sys
import time

import pytest

import decodeloop
from decodeloop.engines import idle


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_idle_cores_are_between_none_and_all():
    assert 0 <= idle.idle_cores() <= os.cpu_count() + 0.5


def test_a_counted_moment(monkeypatch):
    """Two cores, of which another program keeps one busy for half of the time and this one a quarter."""
    clock, idles, ours = iter([0.0, 0.4]), iter([100.0, 100.5]), iter([(1.0, 0.0, 0, 0, 0), (1.1, 0.0, 0, 0, 0)])
    monkeypatch.setattr(idle.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle.os, "times", lambda: next(ours))
    monkeypatch.setattr(idle, "_idle_seconds", lambda: next(idles))
    assert idle.idle_cores() == pytest.approx(1.5)


def test_without_proc_nobody_can_say(monkeypatch):
    def missing():
        raise FileNotFoundError

    monkeypatch.setattr(idle, "_idle_seconds", missing)
    assert idle.idle_cores() is None
    assert idle.is_idle()


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_a_machine_whose_cores_are_all_busy_is_not_idle():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.3)
        assert not idle.is_idle()
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("is_idle", [True, False])
def test_threads_spin_on_an_idle_machine_alone(is_idle, phi_graph, monkeypatch):
    monkeypatch.setattr("decodeloop.engines.onnx_session.is_idle", lambda: is_idle)
    options = decodeloop.OnnxDecoder(phi_graph.path, device="cpu").session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(is_idle))
