"""A script run by several processes, the *ranks*, which talk to each other: started, guarded, and ended together.

:func:`run_ranks` starts `torchrun <https://docs.pytorch.org/docs/stable/elastic/run.html>`_, which starts this module
in each rank, and that runs the script.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from decodeloop.checks import check_choice, check_count, given_path, is_real, shown

_GUARD = "DECODELOOP_RANKS"  # seconds, and a folder for what the ranks report
_GRACE = 20.0  # seconds for processes that were told to end
_ENDED = re.compile(r"rank +: (\d+) \(local_rank: \d+\)\n +exitcode +: (-?\d+)")  # as torchrun lists those that failed
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (\S+)', re.MULTILINE)


def run_ranks(
    script: str | os.PathLike[str],
    *arguments: str,
    ranks: int = 2,
    device: str = "auto",
    timeout: float = 600,
    threads: int | None = None,
) -> str:
    """Run a script in several processes of this machine, which have joined one ``torch.distributed`` process group.

    On GPUs, each rank has one (``"cuda"`` is its own) and they talk through NCCL; on a CPU they share the cores and
    talk through gloo. The group is left when the script ends. Whatever happens, no process is left.

    Parameters
    ----------
    script : str or path
        Python, run as ``__main__``; it asks ``torch.distributed.get_rank()`` which rank it is.
    *arguments : str
        The script's, ``sys.argv[1:]``.
    ranks : int
        How many processes.
    device : "auto", "cuda" or "cpu"
        ``"auto"`` is CUDA where there are GPUs for all ranks, else the CPU.
    timeout : float
        Seconds after which a rank that has not ended is ended.
    threads : int, optional
        Of each rank on a CPU; default: the cores, shared out.

    Returns
    -------
    str
        What the ranks printed.

    Raises
    ------
    ValueError
        If an argument cannot be used, or there are fewer GPUs than ranks.
    FileNotFoundError
        If there is no such script.
    RuntimeError
        If this PyTorch cannot do it, or a rank fails, is killed or hangs: which one, and its own error.
    """
    script, ranks = given_path("script", script).resolve(), check_count("ranks", ranks, 1)
    if not script.is_file():
        raise FileNotFoundError(f"{script.name!r} does not exist: expected a Python script.")
    if not is_real(timeout) or timeout <= 0:
        raise ValueError(f"timeout={shown(timeout)}: expected seconds, above 0.")
    device = _pick(check_choice("device", device, "auto", "cuda", "cpu"), ranks)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // ranks) if threads is None else check_count("threads", threads, 1, note="or None")
    with tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True) as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [*torchrun, "--module", __name__, str(script), *map(str, arguments)]
        environment = _environment(device, share) | {_GUARD: f"{timeout} {folder}"}
        code, out, err = _run(command, environment, Path(folder), timeout + _GRACE)
        if code == 0:
            return out
        reason, details = _failure(Path(folder), ranks, timeout, err, script.name)
    error = RuntimeError(f"{script.name} on {ranks} ranks: {reason}")
    error.add_note(details)
    raise error


def _pick(device: str, ranks: int) -> str:
    if not dist.is_available():
        raise RuntimeError("this PyTorch was built without torch.distributed: install another build of it.")
    gpus = torch.cuda.device_count()
    if device == "auto":
        return "cuda" if gpus >= ranks and dist.is_nccl_available() else "cpu"
    if device == "cuda" and gpus < ranks:
        raise ValueError(f"ranks={ranks} on GPUs, and this machine has {gpus}: expected one for each; or device='cpu'.")
    if device == "cuda" and not dist.is_nccl_available():
        raise RuntimeError("this PyTorch has no NCCL, through which GPUs talk: install a build for CUDA on Linux.")
    return device


def _environment(device: str, threads: int) -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if sys.platform == "linux":  # one machine: no need to be found by others
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment.setdefault(name, "lo")
    return environment


def _run(command: list[str], environment: dict[str, str], folder: Path, timeout: float) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; nothing that it started is left."""
    with open(folder / "out", "w+b") as out, open(folder / "err", "w+b") as err:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        finally:
            if process.poll() is None:
                process.terminate()  # torchrun ends its ranks, which are not in its process group; a kill would not
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
                process.kill()
            code = process.wait()
        texts = [stream.seek(0) or stream.read().decode(errors="replace") for stream in (out, err)]
    return code, *texts  # type: ignore[return-value]


def _failure(folder: Path, ranks: int, timeout: float, err: str, script: str) -> tuple[str, str]:
    """Why a run failed, in one line, and all that there is to know."""
    stacks = {rank: path.read_text() for rank in range(ranks) if (path := folder / f"{rank}.stack").exists()}
    if any("Timeout (" in text for text in stacks.values()):  # the other ranks were ended then, and say where, too
        where = (f"rank {rank} in {_place(text, script)}" for rank, text in stacks.items() if text)
        return f"no end after {timeout:g} s: {', '.join(where)}.", "\n".join(stacks.values())
    ended = _ENDED.findall(err)
    for rank, code in ended:
        if int(code) < 0 and int(code) != -signal.SIGTERM:  # which torchrun ends the others with
            return f"rank {rank} was killed by {signal.Signals(-int(code)).name}.", err
    failed = sorted(folder.glob("*.failed"), key=lambda path: path.stat().st_mtime_ns)
    if failed:  # the first one; others fail since it is gone
        text = failed[0].read_text()
        return f"rank {failed[0].stem} failed: {text.strip().splitlines()[-1]}", text
    if ended:
        return f"rank {ended[-1][0]} ended with code {ended[-1][1]}.", err
    return f"torchrun ended without one of its own: {(err.strip().splitlines() or ['no message'])[-1]}", err


def _place(dump: str, script: str) -> str:
    """The innermost line of the script in a dump of faulthandler, and what it had called."""
    frames = _FRAME.findall(dump.rpartition("most recent call first")[2])
    own = next(((file, line) for file, line, _ in frames if Path(file).name == script), None)
    inner = frames[0][2] if frames else "unknown code"
    return f"{script}, line {own[1]} ({inner})" if own else inner


def _main() -> None:
    """One rank: join the others, run the script, leave."""
    limit, folder = os.environ.pop(_GUARD).split(" ", 1)
    rank, local = os.environ["RANK"], int(os.environ["LOCAL_RANK"])
    stack = open(f"{folder}/{rank}.stack", "w")  # noqa: SIM115 (it is written to when the time is over)
    faulthandler.dump_traceback_later(float(limit), exit=True, file=stack)
    if hasattr(faulthandler, "register"):  # torchrun ends a rank so when another one's time is over first
        faulthandler.register(signal.SIGTERM, file=stack, chain=True)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    if isinstance(sys.stdout, io.TextIOWrapper):  # torchrun has text and newline written apart, so that ranks mix lines
        sys.stdout.reconfigure(line_buffering=True, write_through=False)
    try:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", local) if cuda else None
        if device is not None:
            torch.cuda.set_device(device)
        patience = timedelta(seconds=float(limit) + _GRACE)  # the guard is first, and says where
        dist.init_process_group("nccl" if cuda else "gloo", timeout=patience, device_id=device)
        sys.argv = sys.argv[1:]
        sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as for any script
        runpy.run_path(sys.argv[0], run_name="__main__").clear()
        gc.collect()  # captured steps, for whose kernels NCCL would wait
        if dist.is_initialized():
            dist.destroy_process_group()
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        Path(f"{folder}/{rank}.failed").write_text(traceback.format_exc())
        os._exit(1)  # now: at exit, some libraries wait for ranks that wait for this one
    faulthandler.cancel_dump_traceback_later()


def _follow(parent: int) -> None:
    """End when the parent has: a torchrun that is killed tells its ranks nothing."""
    while os.getppid() == parent != 1:  # 1 adopts those who are left
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    _main()
