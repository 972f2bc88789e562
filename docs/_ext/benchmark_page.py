"""The page "Benchmarks": the recorded runs of benchmarks/, a section for each machine, made from their JSON."""

import re
from pathlib import Path

from as_table import number, table
from book import FIGURES
from measured import cell, list_table
from measurements import FIRST, LIMIT, NEXT, PLACE, RESULTS, read
from verdicts import verdicts

HEAD = """\
==========
Benchmarks
==========

The loops of this package beside those of other programs, on the machines where ``benchmarks/`` was run. Every number
comes from the file of that run in ``benchmarks/results``; ``benchmarks/README.md`` says how to run it elsewhere. Ratios
hold within a run. Speed depends on a model's shape, so random weights will do; what they write has no meaning, and
often two tokens are almost equally likely.

*generate* is that of transformers, *torch* :func:`decodeloop.generate`, *torch static* and *torch compiled* are
``TorchDecoder`` without and with ``compile=True``, *onnx fused* is a fused graph in ``OnnxDecoder``, *genai*
onnxruntime-genai, as *genai graph* with a CUDA graph. The *limit* is the least time in which this machine reads what a
step must read, with the model's weights as they are given (:doc:`how_we_measure`): those of 8 and 4 bits are fewer
bytes, and can exceed it. *First token* is the time from the prompt to the first token, *next token* that of each
further one for all rows together, as a median with the fastest and the slowest run. *Same tokens* counts those of
``generate`` before the first other one, and *margin* by how much the model's logit of its own is higher there, or
lower, if below 0. A margin that rounding to the model's type explains is a *near tie*. The limit is measured when a run
begins: memory that others use, too, may be faster later.

"""
FIGURE = """\
.. figure:: {image}
   :alt: {title}
   :class: dark-light

   {title}.

"""
#: What each script of benchmarks/ is about.
TITLES = {
    "context_and_batch": "By the length of the text, and by rows",
    "cpu_peers": "Beside llama.cpp and onnxruntime-genai",
    "decode_speed": "Loops side by side",
    "state_speed": "Models that keep a state",
    "waterfall": "What each change brings",
}
#: What is drawn where a benchmark has three sizes or more: the axis, its label, the metric, and the title.
CURVES = (
    ("batch", "rows", NEXT, "Time of a step by the number of rows"),
    ("context", "tokens of the prompt", NEXT, "Time of a step by the length of the text"),
    ("context", "tokens of the prompt", FIRST, "Time to the first token by the length of the prompt"),
)


def write_benchmarks(source: Path, results: Path = RESULTS) -> None:
    """Write benchmarks.rst and its plots to a build's sources."""
    machines: dict[str, list[Path]] = {}
    for path in sorted(results.glob("*/*.json")):
        machines.setdefault(_device(read(path)["provenance"]), []).append(path)
    text = HEAD if machines else HEAD + "No run has been recorded yet.\n"
    for device, paths in machines.items():
        text += _heading(cell(device), "=")
        for path in paths:
            text += _run(path.parent.name, path.stem, read(path), source)
    (source / "benchmarks.rst").write_text(text, encoding="utf-8")


def _run(machine: str, name: str, content: dict, source: Path) -> str:
    facts, settings = content["provenance"], content["settings"]
    models = list(dict.fromkeys(each["model"].rpartition("/")[-1] for each in content["rows"]))
    busy = f", {settings['busy_cores']} core busy" if settings.get("busy_cores") else ""
    text = _heading(f"{TITLES.get(content['benchmark'], name)}: {', '.join(models)}{busy}", "-")
    versions = f"torch {facts['torch']}, transformers {facts['transformers']}"
    versions += f", {facts['onnxruntime_package']} {facts['onnxruntime']}" if facts.get("onnxruntime") else ""
    chosen = "".join(f", {label.replace('_', ' ')}: {value}" for label, value in settings.items())
    models = facts.get("model") or []
    chosen += "".join(f", {model}" for model in ([models] if isinstance(models, str) else models))
    text += f"``benchmarks/{content['benchmark']}.py``{chosen}. Measured on {facts['date'][:10]} at commit "
    text += f"{facts['commit'] or 'unknown'} with {versions}{_host(facts)}.\n\n"
    judged = verdicts(content["rows"]) if content["benchmark"] == "context_and_batch" else []
    for each in judged:
        text += f"- {'Holds' if each['holds'] else '**Does not hold**'}: {each['claim']}. {each['text']}.\n"
    text += "\n" if judged else ""
    for model in dict.fromkeys((each["model"], each["dtype"]) for each in content["rows"]):
        rows = [each for each in content["rows"] if (each["model"], each["dtype"]) == model]
        header, *lines = table(rows)
        kept = [index for index, column in enumerate(header) if column not in PLACE[:2]]  # they are the title
        kept.sort(key=lambda index: header[index] != "engine")  # it says what a row is about
        cells = [[_cell(line[index]) for index in kept] for line in (header, *lines)]
        text += list_table(cells, ", ".join(model), "class: decodeloop-figures")
        for number_, curve in enumerate(CURVES):
            image = f"benchmarks_{machine}_{name}_{_slug(model[0])}_{number_}.png"
            if _plot(rows, *curve, source / image):
                text += FIGURE.format(image=image, title=f"{curve[-1]}, {model[0]}")
    return text


def _plot(rows: list[dict], axis: str, label: str, metric: str, title: str, path: Path) -> bool:
    """One line for each engine, from rows that differ in ``axis`` alone; whether there was anything to draw."""
    lines = _lines(rows, axis, metric)
    if not lines:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(FIGURES):
        figure, ax = plt.subplots(figsize=(6, 4.6))
        for engine, points in lines.items():
            style = {"color": "grey", "linestyle": "--"} if engine == LIMIT else {"marker": "o"}
            ax.plot(*zip(*sorted(points.items()), strict=True), label=engine, **style)
        sizes = sorted({size for points in lines.values() for size in points})
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sizes, [number(size) for size in sizes])
        ax.tick_params("x", rotation=30 if sizes[-1] >= 1000 else 0)  # else labels touch
        ax.set_xlabel(label)
        ax.set_ylabel("ms, logarithmic")
        ax.set_title(title)
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(path, dpi=160)
        plt.close(figure)
    return True


def _lines(rows: list[dict], axis: str, metric: str) -> dict[str, dict[int, float]]:
    """By engine, a metric's medians by size, at the one other size at which most of them were measured."""
    other = "context" if axis == "batch" else "batch"
    measured = [each for each in rows if each["metric"] == metric and each["median"] is not None]
    by_other: dict[int, set[int]] = {}
    for each in measured:
        by_other.setdefault(each[other], set()).add(each[axis])
    held = max(by_other, key=lambda size: len(by_other[size]), default=None)
    if held is None or len(by_other[held]) < 3:
        return {}
    lines: dict[str, dict[int, float]] = {}
    for each in measured:
        if each[other] == held:
            lines.setdefault(each["engine"], {})[each[axis]] = each["median"]
    return lines


def _device(facts: dict) -> str:
    """What a section is about: runs of two CPUs are two sections, and a GPU's may have had different hosts."""
    return f"{facts['cpu']}, {facts['cores']} cores" if facts["device"] == "cpu" else facts["device"]


def _host(facts: dict) -> str:
    return "" if facts["device"] == "cpu" else f", beside {facts['cores']} cores of {cell(facts['cpu'])}"


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * 2 * len(text)}\n\n"  # a letter may be two columns wide


def _cell(text: str) -> str:
    """A cell in rst; a range takes as little room as it can."""
    return cell(re.sub(r"\(([\d.,]+) to ([\d.,]+)\)", r"(\1–\2)", text))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
