"""The pages as tests: what gallery/conftest.py makes of a page that passes, fails, exits or hangs."""

import os
import signal
import time
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[2] / "gallery" / "conftest.py"
HEAD = '''"""
A page
======

What it shows.
"""

# %%
# First part
# ----------

def helper(x):
    return 1 / x

print("Traceback (most recent call last): no more than a word on stdout")

# %%
# Second part
# -----------
# With some prose.

'''


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a gallery of one page, of HEAD and the given lines."""
    monkeypatch.setenv("UNITTEST_GOING", "1")

    def run(lines: str, *arguments: str) -> pytest.RunResult:
        gallery = pytester.mkdir("gallery")
        (gallery / "conftest.py").write_text(CONFTEST.read_text())
        (gallery / "plot_page.py").write_text(HEAD + lines)
        return pytester.runpytest(*(arguments or ["gallery"]))

    return run


def test_page_that_ends_well_passes_whatever_it_prints(run):
    run("import sys\nprint('Traceback', file=sys.stderr)\n").assert_outcomes(passed=1)


def test_page_named_on_the_command_line_runs_once(run, pytester):
    log = pytester.path / "runs"
    run(f"open({str(log)!r}, 'a').write('x')\n", "gallery/plot_page.py").assert_outcomes(passed=1)
    assert log.read_text() == "x"


def test_page_is_not_collected_by_the_package_tests(run, pytester):
    pytester.makeini("[pytest]\ntestpaths = tests\n")
    pytester.makepyfile(**{"tests/test_one": "def test_one(): pass"})
    run("raise SystemExit(1)\n", "-v").assert_outcomes(passed=1)


def test_page_starts_in_an_empty_folder_as_a_script_on_its_own(run):
    run(
        "import os, sys\n"
        "assert os.listdir() == []\n"
        "assert __name__ == '__main__' and os.environ['MPLBACKEND'] == 'Agg'\n"
        "assert os.path.dirname(__file__) not in sys.path\n"
    ).assert_outcomes(passed=1)


def test_failure_shows_heading_place_source_and_stderr(run):
    result = run("value = 0\nhelper(value)  # the line that fails\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*plot_page.py: exit code 1, in the cell 'Second part'",
            "*plot_page.py:23",
            "    helper(value)  # the line that fails",
            "*ZeroDivisionError: division by zero*",
            "*no more than a word on stdout*",
        ]
    )


def test_syntax_error_shows_its_line(run):
    result = run("def broken(:\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*'Second part'", "*plot_page.py:22", "*SyntaxError*"])


def test_exit_code_alone_fails_a_page(run):
    result = run("import sys\nsys.exit(3)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["plot_page.py: exit code 3"])


def test_hanging_page_is_ended_with_its_children_and_shows_where_it_was(run, pytester, monkeypatch):
    monkeypatch.setenv("DECODELOOP_PAGE_TIMEOUT", "2")
    child = pytester.path / "child"
    result = run(
        "import subprocess, sys, time\n"
        "sleeper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(sleeper.pid))\n"
        "time.sleep(60)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*plot_page.py: no end after 2 s, in the cell 'Second part'", "*plot_page.py:25", "    time.sleep(60)"]
    )
    assert ends(int(child.read_text()))


def ends(pid: int, patience: float = 5) -> bool:
    """Whether a process is gone, or dead and only waiting to be noticed, within ``patience`` seconds."""
    for _ in range(int(patience / 0.1)):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False
