"""What the page "Which should I use?" takes from the recorded benchmarks: its rules, counted, and who was fastest."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

from as_table import number
from measured import cell, list_table
from measurements import BASE, LIMIT, NEXT, RESULTS, read

RULES = Path(__file__).parents[1] / "which.toml"
INCLUDED = "which_measured.inc"
#: The table's columns, and the engines of which each shows the fastest.
GROUPS = {
    "PyTorch": ("torch", "torch static", "torch compiled"),
    "ONNX, the model's own numbers": ("onnx dynamo", "onnx fused no graph", "onnx fused"),
    "8 bits": ("onnx fused int8",),
    "4 bits": ("onnx fused int4",),
    "other programs": ("genai", "genai graph", "llama.cpp Q4_1"),
}

BUSY = re.compile(r", \d+ busy$")
Place = tuple  # machine, model, dtype, rows, tokens of the prompt, and the file of the run
Cases = dict[Place, dict[tuple[str, str], dict]]  # by engine and metric, the row that was measured


def measured_cases(results: Path = RESULTS) -> Cases:
    """All recorded rows, those that one run measured at one place together.

    Of two runs at one place the later one, unless the earlier one measured there what the later one did not.
    """
    cases: Cases = {}
    runs = [(path, read(path)) for path in results.glob("*/*.json")]
    for path, run in sorted(runs, key=lambda pair: pair[1]["provenance"]["date"]):
        busy, facts = run["settings"].get("busy_cores", 0), run["provenance"]
        machine = path.parent.name + (f" ({facts['cpu']})" if facts["device"] == "cpu" else "")
        machine += f", {busy} busy" if busy else ""
        found: Cases = defaultdict(dict)
        for row in run["rows"]:
            if row["median"] is not None and row["batch"] is not None:
                place = (machine, row["model"], row["dtype"], row["batch"], row["context"], path.stem)
                found[place][row["engine"], row["metric"]] = row
        again = [old for old in cases for new in found if old[:5] == new[:5] and cases[old].keys() <= found[new].keys()]
        cases = {place: rows for place, rows in cases.items() if place not in again} | found
    return cases


def judge(rule: dict, cases: Cases) -> dict[str, list[Place]]:
    """The cases in which a rule ``holds``, those that ``contradict`` it, and where the runs of both ``overlap``."""
    found: dict[str, list[Place]] = {"holds": [], "overlaps": [], "contradicts": []}
    metric = rule.get("metric", NEXT)
    for place, rows in cases.items():
        here = "cpu" if place[0].startswith("cpu") else "gpu"
        if rule.get("on", here) != here or (rule.get("idle") and BUSY.search(place[0])):
            continue
        if place[4] > rule.get("up_to", place[4]):
            continue
        if (rule["faster"], metric) in rows and (rule["slower"], metric) in rows:
            fast, slow = rows[rule["faster"], metric], rows[rule["slower"], metric]
            verdict = "overlaps"
            if fast["max"] < slow["min"] or slow["max"] < fast["min"]:
                verdict = "holds" if fast["median"] < slow["median"] else "contradicts"
            found[verdict].append(place)
    return found


def read_rules(path: Path = RULES) -> list[dict]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["rule"]


def write_measured(source: Path, results: Path = RESULTS, rules: Path = RULES) -> None:
    """Write what ``which.rst`` includes to a build's sources."""
    cases = measured_cases(results)
    lines = [["rule", "holds", "runs overlap", "contradicted", "times measured", "machines"]]
    for rule in read_rules(rules):
        found = judge(rule, cases)
        counts = [len(places) for places in found.values()]
        machines = {BUSY.sub("", place[0]) for places in found.values() for place in places}
        times = [str(sum(counts)), str(len(machines))] if sum(counts) else ["not yet", "–"]
        lines.append([rule["says"], *map(str, counts), *times])
    text = list_table(lines, "How often each rule held where both were measured", "class: decodeloop-figures")
    (source / INCLUDED).write_text(text + fastest(cases), encoding="utf-8")


def fastest(cases: Cases) -> str:
    """For each place, the fastest engine of each group: its tokens per second and those of ``generate`` in it."""
    tables: dict[str, list[list[str]]] = {}
    for (machine, model, dtype, batch, context, run), rows in sorted(cases.items(), key=lambda case: case[0]):
        steps = {engine: row["median"] for (engine, metric), row in rows.items() if metric == NEXT and engine != LIMIT}
        if BASE not in steps:
            continue
        cells = [f"{model}, {dtype}", str(batch), f"{context:,}", run, number(1e3 * batch / steps[BASE])]
        for engines in GROUPS.values():
            best = min((engine for engine in engines if engine in steps), key=steps.__getitem__, default=None)
            cells.append("–" if best is None else f"{number(steps[BASE] / steps[best])} × ({best})")
        tables.setdefault(machine, [["model", "rows", "prompt", "run", "generate (tokens/s)", *GROUPS]]).append(cells)
    if not tables:
        return "No run has been recorded yet.\n"
    return "".join(
        list_table(
            lines, f"{cell(machine)}: the fastest of each kind, in times generate's speed", "class: decodeloop-figures"
        )
        for machine, lines in tables.items()
    )
