"""The pages as tests: ``UNITTEST_GOING=1 pytest gallery``, or one of them, ``pytest gallery/plot_generate.py``.

A page runs in a process of its own, in an empty folder, as it would after a download. Its exit code decides.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


FAST = os.environ.get("UNITTEST_GOING") == "1"


def page_timeout() -> float:
    """Seconds that a page may take: DECODELOOP_PAGE_TIMEOUT, else 5 minutes in a fast run, an hour in a full one."""
    return float(os.environ.get("DECODELOOP_PAGE_TIMEOUT", 300 if FAST else 3600))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "plot_*.py")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    # In place of the module that pytest would import. A second collector beside it (pytest_collect_file) would run a
    # page twice when it is named on the command line.
    return Page.from_parent(parent, path=module_path) if module_path.name.startswith("plot_") else None


class Page(pytest.File):
    def collect(self):
        yield PageRun.from_parent(self, name="run")


class PageFailed(Exception):
    pass


class PageRun(pytest.Item):
    def runtest(self) -> None:
        timeout = page_timeout()
        with tempfile.TemporaryDirectory(prefix=f"{self.path.stem}-", ignore_cleanup_errors=True) as folder:
            code, out, err = run_page(self.path, Path(folder), timeout)
        self.add_report_section("call", "stdout", out)
        if code:
            outcome = f"no end after {timeout:g} s" if code == TIMED_OUT else f"exit code {code}"
            raise PageFailed(describe(self.path, err, outcome))

    def repr_failure(self, excinfo):
        return str(excinfo.value) if excinfo.errisinstance(PageFailed) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.path.stem


TIMED_OUT = "timed out"


def run_page(page: Path, folder: Path, timeout: float) -> tuple[int | str, str, str]:
    """Exit code (or TIMED_OUT), stdout and stderr of a page run in ``folder``; nothing it started is left running."""
    environment = os.environ | {"MPLBACKEND": "Agg"}
    if FAST:  # pages run side by side, and a tiny model is slowed down by a second thread
        environment.setdefault("OMP_NUM_THREADS", "1")
    paths = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if importlib.util.find_spec("decodeloop") is None:
        paths.insert(0, str(SOURCE))
    environment["PYTHONPATH"] = os.pathsep.join(paths)  # absolute: the page runs in another folder
    work = folder / "work"
    work.mkdir()
    # -P: the page's own folder is not on the path, so it cannot lean on a file beside it.
    command = [sys.executable, "-P", "-X", "faulthandler", str(page)]
    with open(folder / "out", "w+b") as out, open(folder / "err", "w+b") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen(command, cwd=work, env=environment, start_new_session=True, **streams)
        try:
            code: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
            process.send_signal(signal.SIGABRT)  # faulthandler writes down where the page was
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        texts = [stream.seek(0) or stream.read().decode(errors="replace") for stream in (out, err)]
    return code, *texts


def describe(page: Path, err: str, outcome: str) -> str:
    """What a failed page's author wants to see: the cell, the line, and the end of stderr."""
    place = rf'File "{re.escape(str(page))}", line (\d+)'
    # "in <module>" is the line of the cell that was running, whichever function it had called.
    lines = re.findall(f"{place},? in <module>", err) or re.findall(place, err)
    report = [f"{page.name}: {outcome}"]
    if lines:
        source, number = (
            page.read_text(encoding="utf-8").splitlines(),
            int(lines[-1]),
        )
        report = [
            f"{page.name}: {outcome}, in the cell {heading(source, number)!r}",
            f"{os.path.relpath(page)}:{number}",
            f"    {source[number - 1].strip()}",
        ]
    shown = [line for line in err.strip().splitlines() if not line.startswith("Extension modules:")]
    return "\n".join([*report, "", *shown[-30:]])


def heading(source: list[str], number: int) -> str:
    """The heading above a line: a line of the docstring or of a comment that is underlined."""
    found = ""
    for text, rule in pairwise(source[:number]):
        if re.fullmatch(r"(# )?([=\-~^*+])\2{2,}", rule) and text.startswith("#") == rule.startswith("#"):
            found = text.strip("# ") or found
    return found
