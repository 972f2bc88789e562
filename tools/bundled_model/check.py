"""Does a piece of Python do what its family says? It is run to find out.

`verdict` runs code in this process and suits the project's own references. `verdicts` is for what a model wrote: it
runs in a process of its own, in an empty folder, with limits on time and memory. That keeps accidents away; it is no
defence against code that means harm.
"""

import contextlib
import copy
import inspect
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .family import Family

SECONDS = 2.0  # for all cases of one answer
MEMORY = 2 << 30
ITEMS = 2000  # a generator that yields more is taken to be endless
PRINTED = 100_000


class OutOfTime(BaseException):
    """Not an Exception: an answer's own ``except Exception`` must not swallow it."""


class Output(io.StringIO):
    def write(self, text):
        if self.tell() > PRINTED:
            raise ValueError("too much output")
        return super().write(text)


def verdict(family: Family, source: str, name: str, seconds: float = SECONDS) -> str:
    """Run every case of the family: "" where all are right, else what went wrong first."""

    def ring(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    output = Output()
    try:
        with contextlib.redirect_stdout(output):
            namespace = {"__name__": "answer"}
            exec(compile(source, "<answer>", "exec"), namespace)
            for case in family.cases:
                output.seek(0)
                output.truncate()
                wrong = judge(family, namespace[name], case, output)
                if wrong:
                    return wrong
        return ""
    except OutOfTime:
        return "out of time"
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(family: Family, answer, case: tuple, output: Output) -> str:
    if family.kind == "class":
        statements, expression, expected = case
        namespace = {"C": answer}
        exec(statements, namespace)
        got = eval(expression, namespace)
    else:
        expected = family.answer(*copy.deepcopy(case))
        got = answer(*copy.deepcopy(case))
        if family.kind == "print":
            expected, got = [str(token) for token in expected], output.getvalue().split()
        elif family.kind == "yield":
            if not inspect.isgenerator(got):
                return f"a {type(got).__name__} is no generator"
            expected, got = list(expected), list(itertools.islice(got, ITEMS))
    return "" if same(expected, got) else f"{short(case)}: expected {short(expected)}, got {short(got)}"


def same(expected, got) -> bool:
    """Equality that tells True from 1, a list from a tuple, and forgives the last digits of a float."""
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return expected == got or math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)
    if type(expected) is not type(got):
        return False
    if isinstance(expected, list | tuple):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict):
        return expected.keys() == got.keys() and all(same(expected[k], got[k]) for k in expected)
    return expected == got


def short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def verdicts(answers: list[tuple[str, str, str]], batch: int = 50) -> list[str]:
    """Verdicts on (family key, source, name), each batch in a process of its own."""
    results = []
    for start in range(0, len(answers), batch):
        part = answers[start : start + batch]
        found = in_process(part)
        if found is None:  # something broke the process: find out which, one by one
            found = [(in_process([answer]) or ["broke the process"])[0] for answer in part]
        results += found
    return results


def in_process(answers: list[tuple[str, str, str]]) -> list[str] | None:
    command = [sys.executable, "-m", f"{__package__}.check"]
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                command, input=json.dumps(answers), capture_output=True, text=True, cwd=empty, env=environment,
                timeout=20 + 2 * SECONDS * len(answers),
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError):
            return None
    return found if len(found) == len(answers) else None


def main() -> None:
    import resource

    from .families import FAMILIES

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = json.load(sys.stdin)
    sys.stdin = io.StringIO()
    found = [verdict(FAMILIES[key], source, name) for key, source, name in answers]
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
