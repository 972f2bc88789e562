"""Run the tests that keep the promises of docs/promises.toml, and count: docs/promises.csv, which the page shows.

nox -s promises, or nox -s promises -- --only seed; what else is given goes to pytest
"""

import argparse
import csv
import datetime
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMISES, COUNTS = ROOT / "docs" / "promises.toml", ROOT / "docs" / "promises.csv"
COLUMNS = ["We promise", "Passed", "Not run", "Kept by"]


def read_promises(path: Path = PROMISES) -> list[dict]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["promise"]


def run(tests: list[str], *options: str) -> Counter:
    """How the cases of these tests ended: passed, failed, skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([*command, *options, *tests], cwd=ROOT, check=False)
        cases = ElementTree.parse(report).iter("testcase")
        return Counter(outcome(case) for case in cases)


def outcome(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def read_counts(path: Path = COUNTS) -> dict[str, list[str]]:
    """The rows of the last run, by what is promised."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row[0]: row for row in list(csv.reader(file))[1:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the promises that say this; the others keep their counts")
    args, options = parser.parse_known_args()
    rows, failed, kept = [], 0, read_counts() if args.only else {}
    for promise in read_promises():
        if args.only not in promise["says"] and promise["says"] in kept:
            rows.append(kept[promise["says"]])
            continue
        counts = run(promise["tests"], *options)
        failed += counts["failed"] or not counts["passed"]
        files = dict.fromkeys(test.removeprefix("tests/").partition(".py")[0] for test in promise["tests"])
        passed = f"{counts['passed']} of {counts['passed'] + counts['failed']}"
        rows.append([promise["says"], passed, counts["skipped"], ", ".join(files)])
        print(promise["says"], dict(counts), flush=True)
    with COUNTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    print(f"{len(rows)} promises, {failed} broken, on {datetime.date.today()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
