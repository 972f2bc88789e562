"""A model spread over two processes, and the processes themselves; on two GPUs it is in test_gpu.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import spread_cases

import decodeloop
from decodeloop import TorchDecoder, run_ranks

TESTS = Path(spread_cases.__file__).parent


@pytest.fixture(scope="module")
def said():
    """What both ranks said of every case: one start of two processes for all of them."""
    return json.loads(run_ranks(TESTS / "spread_cases.py", device="cpu", threads=1, timeout=240).splitlines()[-1])


@pytest.mark.parametrize("name", spread_cases.CASES)
def test_a_spread_model(said, name):
    assert said[name] == ["", ""]


@pytest.fixture
def script(tmp_path):
    """A script that works with two ranks, and goes wrong in the second one as its argument says."""
    path = tmp_path / "work.py"
    path.write_text(
        "import os, signal, sys, time\n"
        "import torch, torch.distributed as dist\n"
        "def wait():\n"
        "    time.sleep(600)\n"
        "wrong = sys.argv[1] if dist.get_rank() else ''\n"
        "if wrong == 'raise': raise KeyError('no such thing')\n"
        "if wrong == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
        "if wrong == 'hang': wait()\n"
        "rank = torch.tensor(dist.get_rank())\n"
        "dist.all_reduce(rank)\n"
        "print(f'sum {rank}, {torch.get_num_threads()} threads')\n"
    )
    return path


def running(script):
    """The processes that have this script among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(script).encode() in path.read_bytes():
                found.append(int(path.parts[2]))
        except OSError:
            continue
    return [process for process in found if process != os.getpid()]


def test_all_ranks_are_asked_and_heard(script):
    assert run_ranks(script, "", device="cpu", threads=3) == "sum 1, 3 threads\n" * 2


def test_lines_of_ranks_that_print_at_once_stay_whole(tmp_path):
    script = tmp_path / "print.py"
    script.write_text("for _ in range(20_000):\n    print('a line')\n")
    assert set(run_ranks(script, device="cpu", threads=1, timeout=60).splitlines()) == {"a line"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("raise", "work.py on 2 ranks: rank 1 failed: KeyError: 'no such thing'"),
        ("kill", "work.py on 2 ranks: rank 1 was killed by SIGKILL."),
        ("hang", "no end after 8 s: .*rank 1 in work.py, line 4 .wait."),
    ],
)
def test_a_rank_that_goes_wrong_is_named_and_no_process_is_left(script, wrong, message):
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        run_ranks(script, wrong, device="cpu", timeout=8 if wrong == "hang" else 120)
    assert time.monotonic() - start < 100
    assert running(script) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ranks_end_with_the_process_that_started_them(script):
    code = f"import decodeloop; decodeloop.run_ranks({str(script)!r}, 'hang', device='cpu', timeout=300)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(running(script)) < 4 and time.monotonic() < deadline:  # it, torchrun, two ranks
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)  # the ranks are in groups of their own
    process.wait()
    while running(script) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running(script) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 0}, "ranks=0: expected an int of 1 or more"),
        ({"ranks": 99, "device": "cuda"}, r"ranks=99 on GPUs, and this machine has \d+: expected one for each"),
        ({"device": "tpu"}, "device='tpu': expected 'auto', 'cuda' or 'cpu'"),
        ({"timeout": -1}, "timeout=-1: expected seconds, above 0"),
        ({"threads": 1.5}, "threads=1.5: expected an int of 1 or more, or None"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_process_starts(script, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        run_ranks(script, **options)
    assert "\n" not in str(refused.value)


def test_an_all_reduce_without_ranks_is_refused():
    with pytest.raises(RuntimeError, match="needs ranks: call it in a script that decodeloop.run_ranks"):
        decodeloop.measure_all_reduce(8)


def test_no_nccl_is_said(script, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    with pytest.raises(RuntimeError, match="no NCCL, through which GPUs talk: install a build for CUDA on Linux"):
        run_ranks(script, device="cuda")


def test_a_script_that_is_not_there_is_said():
    with pytest.raises(FileNotFoundError, match=r"'nothing.py' does not exist: expected a Python script"):
        run_ranks("nothing.py")


def test_a_closed_static_decoder_says_so(llama):
    prompt = spread_cases.prompt_ids(1, 4)
    with TorchDecoder(llama) as decoder:
        stream = decoder.stream(prompt, max_new_tokens=3)
        next(stream)
    decoder.close()
    with pytest.raises(RuntimeError, match=f"decoder of {type(llama).__name__} is closed: make another one"):
        decoder.generate(prompt)
    with pytest.raises(RuntimeError, match="was closed"):
        next(stream)
