"""Is anybody else at work? Measured on a machine that is made busy."""

import os
import subprocess
import sys
import time

import pytest

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
