"""What became slower, and what faster, from one run of a benchmark to another on the same machine?

    python benchmarks/compare.py OLD.json NEW.json

A number fell or rose where the medians differ by more than the spread: by more than the runs of either file lie apart.
The exit code is 1 if anything fell or fails now, and 2 if the files cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from as_table import spread
from measurements import LIMIT, MeasurementError, change, identity, named, read, refuse_other_machines

VERSIONS = ("torch", "transformers", "onnxruntime", "python", "driver", "commit")


def differences(old: dict, new: dict) -> dict[str, list[str]]:
    """Lines of what ``fell``, what ``fails``, what ``rose``, and what is ``missing`` or ``added``."""
    before, now = ({identity(each): each for each in content["rows"]} for content in (old, new))
    found: dict[str, list[str]] = {name: [] for name in ("fell", "fails", "rose", "missing", "added", "one run")}
    for key, was in before.items():
        if was["engine"] == LIMIT:  # the machine's, not the code's
            continue
        if key not in now:
            found["missing"].append(named(was))
            continue
        each = now[key]
        if each["median"] is None or was["median"] is None:
            if was["median"] is not None:
                found["fails"].append(f"{named(was)}: {each['note']}")
        elif each["unit"] == "ms" and min(each["runs"], was["runs"]) < 2:
            found["one run"].append(f"{named(was)}: a single run has no spread")
        elif share := change(was, each):
            better = f"{abs(share):.0%} {'better' if share > 0 else 'worse'}"
            text = f"{named(was)} ({was['unit']}): {spread(was)}, now {spread(each)}: {better}"
            found["rose" if share > 0 else "fell"].append(text)
    found["added"] = [named(each) for key, each in now.items() if key not in before and each["engine"] != LIMIT]
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = read(options.old), read(options.new)
        refuse_other_machines(old, new)
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 2
    for key in VERSIONS:
        before, now = (content["provenance"].get(key) for content in (old, new))
        if before != now:
            print(f"{key}: {before}, now {now}")
    found = differences(old, new)
    for name, lines in found.items():
        print(*(f"{name}: {line}" for line in lines), sep="\n", end="\n" if lines else "")
    print(", ".join(f"{name} {len(lines)}" for name, lines in found.items()))
    return 1 if found["fell"] or found["fails"] else 0


if __name__ == "__main__":
    sys.exit(main())
