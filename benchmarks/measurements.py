"""What a benchmark measured, as JSON: rows of numbers, and the machine, versions and commit that they belong to.

A file is ``{"benchmark", "settings", "provenance", "rows"}``. A row is one metric of one engine at one size::

    {"model": "llama-110m", "dtype": "float32", "batch": 1, "context": 24, "engine": "onnx fused",
     "metric": "next token", "unit": "ms", "median": 17.5, "min": 17.3, "max": 18.0, "runs": 5}

``batch`` counts rows of text, ``context`` the tokens of the prompt. The engine ``limit`` is the least time in which
memory can be read. An engine that failed has no numbers, and a ``note`` in one line that says why.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PLACE = ("model", "dtype", "batch", "context", "engine")
NUMBERS = ("median", "min", "max")
MACHINE = ("device", "cpu", "cores", "threads", "mode")  # in the provenance: what makes it another machine
LIMIT, BASE = "limit", "generate"
NEXT, FIRST = "next token", "first token"

#: Each metric's unit, and whether more of it is better; None where it is neither.
METRICS = {
    FIRST: ("ms", False),
    NEXT: ("ms", False),
    "same tokens": ("tokens", True),
    "margin": ("logits", None),
    "first choices": ("%", True),
    "perplexity": ("tokens", False),
    "file": ("MB", False),
    "operators": ("count", False),
    "predicted gain": ("ms", None),
    "measured gain": ("ms", None),
    "weights": ("MB", None),
    "cache and states": ("MB", None),
}


LONGEST_NOTE = 200  # characters


class MeasurementError(Exception):
    """Why a file of measurements is refused, in one line."""


def row(metric: str, values: float | Sequence[float], *, note: str | None = None, **place: Any) -> dict:
    """One row: ``values`` in the metric's unit, one for each run; ``place`` is what :data:`PLACE` lists."""
    values = sorted(values if isinstance(values, Sequence) else [values])
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    numbers = {"median": float(median), "min": float(values[0]), "max": float(values[-1]), "runs": len(values)}
    return _row(metric, place) | numbers | ({"note": note} if note else {})


def failed(error: BaseException | str, *, metric: str = NEXT, **place: Any) -> dict:
    """The row of an engine that could not be measured: no numbers, and why."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    note = line if len(line) <= LONGEST_NOTE else f"{line[: LONGEST_NOTE - 4]} ..."
    if isinstance(error, Exception):
        note = f"{type(error).__name__}: {note}"
    return _row(metric, place) | dict.fromkeys(NUMBERS) | {"runs": 0, "note": note}


def timed(first: Sequence[float], following: Sequence[float], **place: Any) -> list[dict]:
    """The two rows of a decode loop, of seconds to the first token, and of seconds for each further one."""
    times = {FIRST: first, NEXT: following}
    return [row(metric, [1e3 * second for second in seconds], **place) for metric, seconds in times.items()]


def _row(metric: str, place: Mapping[str, Any]) -> dict:
    return {name: place.get(name) for name in PLACE} | {"metric": metric, "unit": METRICS[metric][0]}


def change(old: dict, new: dict) -> float | None:
    """By what share a metric got better (above 0) or worse from one row to another, where it moved beyond the spread.

    None where the medians differ by no more than the runs of either row lie apart, and where no row is the better one.
    """
    more_is_better = METRICS[old["metric"]][1]
    spread = max(each["max"] - each["min"] for each in (old, new))
    difference = new["median"] - old["median"]
    if more_is_better is None or abs(difference) <= spread:
        return None
    share = difference / abs(old["median"]) if old["median"] else math.copysign(math.inf, difference)
    return share if more_is_better else -share


def machine(facts: Mapping[str, Any]) -> str:
    """The name of a machine's folder, as docs/recorded has it: ``nvidia-h200``, or ``cpu-2-cores``."""
    name = f"cpu {facts['cores']} cores" if facts["device"] == "cpu" else facts["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def add_output_options(parser: argparse.ArgumentParser, benchmark: str) -> None:
    parser.set_defaults(benchmark=benchmark)
    parser.add_argument("--output", "--json", type=Path, help="write the rows there, as JSON")
    parser.add_argument("--record", metavar="NAME", help="write them to benchmarks/results/<this machine>/NAME.json")


def targets(options: argparse.Namespace) -> list[Path]:
    """Where the options of :func:`add_output_options` say that a run is written; nowhere without them."""
    import decodeloop  # not needed to read or compare

    recorded = RESULTS / machine(decodeloop.provenance()) / f"{options.record}.json" if options.record else None
    return [path for path in (options.output, recorded) if path is not None]


def write(options: argparse.Namespace, rows: list[dict], models: list[str], settings: dict) -> None:
    """Write a run to its :func:`targets`."""
    import decodeloop

    facts = dict(decodeloop.provenance(model=models))
    facts["commit"] = vars(options).setdefault("commit", facts["commit"])  # the first: the file is a change, too
    content = {"benchmark": options.benchmark, "settings": settings, "provenance": facts, "rows": rows}
    check(content, "this run")
    lines = {key: value for key, value in content.items() if key != "rows"}
    text = json.dumps(lines, indent=1)[:-2] + ',\n "rows": [\n  '  # one line for each row: short, and easy to compare
    text += ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}\n"
    for path in targets(options):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def read(path: Path) -> dict:
    """A file of measurements.

    Raises
    ------
    MeasurementError
        If there is none, or if it is not as this module says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: cannot be read as JSON ({error}).") from error
    check(content, str(path))
    return content


def check(content: Any, name: str) -> None:
    """Refuse what is no file of measurements, by the first thing that is wrong with it."""
    needed = {"benchmark": str, "settings": dict, "provenance": dict, "rows": list}
    for key, kind in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise MeasurementError(
                f"{name}: expected {key!r}, a {kind.__name__}: write it with a script of benchmarks/."
            )
    if missing := {"device", "cpu", "cores", "mode", "date", "commit"} - content["provenance"].keys():
        raise MeasurementError(f"{name}: its provenance lacks {', '.join(sorted(missing))}.")
    seen = set()
    for index, each in enumerate(content["rows"]):
        where = f"{name}: row {index}"
        if missing := {*PLACE, "metric", "unit", *NUMBERS, "runs"} - each.keys():
            raise MeasurementError(f"{where} lacks {', '.join(sorted(missing))}.")
        if METRICS.get(each["metric"], [None])[0] != each["unit"]:
            known = ", ".join(f"{metric} ({unit})" for metric, (unit, _) in METRICS.items())
            raise MeasurementError(f"{where} has {each['metric']} ({each['unit']}): expected one of {known}.")
        numbers = [each[key] for key in NUMBERS]
        measured = each["runs"] >= 1 and None not in numbers and each["min"] <= each["median"] <= each["max"]
        if not measured and not (each["runs"] == 0 and numbers == [None] * 3 and each.get("note")):
            raise MeasurementError(
                f"{where} has {numbers} of {each['runs']} runs: expected numbers, or a note why not."
            )
        if identity(each) in seen:
            raise MeasurementError(f"{where} is there twice: {named(each)}.")
        seen.add(identity(each))


def refuse_other_machines(old: dict, new: dict) -> None:
    """Numbers of two machines, or of two settings, are not of one table, nor to be compared.

    Raises
    ------
    MeasurementError
    """
    pairs = {key: (old[key], new[key]) for key in ("benchmark", "settings")}
    pairs |= {key: (old["provenance"].get(key), new["provenance"].get(key)) for key in MACHINE}
    for key, (before, now) in pairs.items():
        if before != now:
            raise MeasurementError(f"{key} was {before} and is {now}: expected runs of one benchmark on one machine.")


def joined(old: list[dict], new: list[dict]) -> list[dict]:
    """The rows of both runs; where an engine was measured again, or had failed to open, those of the new one."""
    again = {identity(each) for each in new}
    engines = {each["engine"] for each in new}
    stand = [each for each in old if each["batch"] is not None or each["engine"] not in engines]
    return [each for each in stand if identity(each) not in again] + new


def identity(each: dict) -> tuple:
    """What a row measures, to be found in another file."""
    return (*(each[name] for name in PLACE), each["metric"])


def named(each: dict) -> str:
    size = "" if each["batch"] is None else f", {each['batch']} x {each['context']}"
    return f"{each['model']} {each['dtype']}{size}, {each['engine']}, {each['metric']}"
