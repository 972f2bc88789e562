"""Run the notebooks of a built site as their readers do: each in an empty folder, with the package that is installed.

With UNITTEST_GOING=1 on the fast path, in minutes. Prints a table of pages, seconds and what went wrong.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from recorded import ROOT

#: What no output should hold: the Python objects behind a plot, and warnings.
DEBRIS = re.compile(r"<(matplotlib|Axes|Figure|function|generator)\b[^>]*>|\w+Warning: .*|<[\w.]+ (object )?at 0x\w+>")


def newest_site() -> Path | None:
    """The folder of the HTML that was built last."""
    built = sorted((ROOT / "docs" / "_build").glob("*/html/index.html"), key=lambda path: path.stat().st_mtime)
    return built[-1].parent if built else None


def run_notebook(path: Path, timeout: int = 1800) -> str:
    """Run it in an empty folder; what went wrong, or nothing."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-") as folder:
        client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": folder}})
        client.extra_arguments = ["--IPKernelApp.log_level=40"]  # errors
        try:
            client.execute()
        except CellExecutionError as error:
            return f"fails: {error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}"
        except CellTimeoutError:
            return f"fails: a cell takes more than {timeout} s"
    found = [DEBRIS.search(text) for cell in notebook.cells for text in shown(cell)]
    return next((f"shows {match[0]}" for match in found if match), "")


def shown(cell) -> list[str]:
    """The text that a cell's outputs show: a table's HTML stands for its text."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        plain = "" if {"text/html", "image/png"} & data.keys() else data.get("text/plain", "")
        texts.append(output.get("text", "") or plain)
    return texts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s notebooks --", description=__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as plot_generate; all of them if none is named")
    parser.add_argument("--site", type=Path, default=newest_site(), help="else the newest in docs/_build")
    options = parser.parse_args(arguments)
    if options.site is None:
        parser.error("no site is built: nox -s docs -- --fast builds one.")
    paths = sorted(options.site.glob("_downloads/*/plot_*.ipynb"), key=lambda path: path.name)
    paths = [path for path in paths if not options.pages or path.stem in options.pages]
    if not paths:
        parser.error(f"{options.site} holds no such notebook.")
    os.environ.setdefault("UNITTEST_GOING", "1")
    failed = 0
    for path in paths:
        started = time.perf_counter()
        wrong = run_notebook(path)
        failed += bool(wrong)
        print(f"{path.stem:28}{time.perf_counter() - started:8.0f} s  {wrong or 'passed'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
