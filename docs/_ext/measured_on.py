"""The page "Measured on": the machines that the gallery was recorded on, and their headline figures."""

from pathlib import Path

from book import FIGURES
from measured import list_table, number
from recorded import ROOT, page_names, read_run, recorded_devices

#: The pages whose speeds are drawn, and what to call them.
HEADLINES = {
    "plot_generate": "From a prompt to text",
    "plot_onnx_speed": "Where the milliseconds go",
    "plot_engines": "Which engine",
    "plot_limit": "How near to the limit",
}
UNIT = " (tokens/s)"
HEAD = """\
Measured on
===========

Each page of this book names, at its end, the machine that it was run on. These are the machines on which pages were run
and recorded, at full size: where speed is the topic, mostly with about ten times as many weights on a GPU as on a CPU.
``nox -s docs -- --recorded NAME`` renders a record; ``nox -s record`` makes one.

"""

FIGURE = """\
.. figure:: {image}
   :alt: {title}: tokens per second on each machine
   :class: dark-light

   {title}, tokens per second: :ref:`{label}`. Bars are limits: :doc:`how_we_measure`.

"""


def write_page(source: Path, root: Path = ROOT) -> None:
    """Write measured_on.rst and its plots to a build's sources."""
    machines = {}
    for device in recorded_devices(root):
        runs = {page: read_run(device, page, root) for page in page_names(root)}
        if runs := {page: run for page, run in runs.items() if run}:
            machines[device] = runs
    text = HEAD + ("" if machines else "No run has been recorded yet.\n")
    if machines:
        text += _table(machines) + _times(machines)
        for page, title in HEADLINES.items():
            if image := _plot(page, machines, source):
                text += FIGURE.format(image=image, title=title, label=f"l-{page.replace('_', '-')}")
    (source / "measured_on.rst").write_text(text, encoding="utf-8")


def _table(machines: dict[str, dict[str, dict]]) -> str:
    labels = ["Device", "CPU", "Driver, CUDA", "Versions", "Commit", "Date", "Pages", "Time (s)"]
    rows = {label: [] for label in [*labels, "Most GPU memory of a page (GiB)"]}
    for pages in machines.values():
        first, *_ = pages.values()
        runtime = f"{first['onnxruntime_package']} {first['onnxruntime']}"
        several = f"{first['gpus']} × " if first.get("gpus", 1) > 1 else ""
        rows["Device"].append("–" if first["device"] == "cpu" else several + first["device"])
        rows["CPU"].append("; ".join(dict.fromkeys(f"{each['cpu']}, {each['cores']} cores" for each in pages.values())))
        rows["Driver, CUDA"].append(f"{first['driver']}, {first['cuda']}" if first["cuda"] else "–")
        rows["Versions"].append(f"torch {first['torch']}, transformers {first['transformers']}, {runtime}")
        rows["Commit"].append(", ".join(sorted({str(facts["commit"]) for facts in pages.values()})))
        rows["Date"].append(max(facts["date"] for facts in pages.values())[:10])
        rows["Pages"].append(str(len(pages)))
        rows["Time (s)"].append(number(sum(facts["time"] for facts in pages.values())))
        peak = max(facts["memory"] for facts in pages.values()) / 1024
        rows["Most GPU memory of a page (GiB)"].append(number(peak or None))
    return list_table(
        [["record", *machines], *([label, *cells] for label, cells in rows.items())],
        "",
        "stub-columns: 1",
        "class: decodeloop-machines",
    )


def _times(machines: dict[str, dict[str, dict]]) -> str:
    rows = [["page", *machines]]
    for page in sorted({page for runs in machines.values() for page in runs}):
        times = (runs[page]["time"] if page in runs else None for runs in machines.values())
        rows.append([f":doc:`/auto_gallery/{page}`", *map(number, times)])
    return list_table(rows, "Running time of each page (s)", "class: decodeloop-figures", "stub-columns: 1")


def _plot(page: str, machines: dict[str, dict[str, dict]], source: Path) -> str | None:
    """One row for each figure, one colour for each machine; limits as bars. The file's name, None without figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = {name: pages[page].get("figures") or {} for name, pages in machines.items() if page in pages}
    figures = {name: {k: v for k, v in found.items() if k.endswith(UNIT)} for name, found in figures.items()}
    labels = list(dict.fromkeys(label for found in figures.values() for label in found))
    if not labels:
        return None
    with plt.style.context(FIGURES):
        figure, ax = plt.subplots(figsize=(6, 1.4 + 0.34 * len(labels)))
        rows = {label: index for index, label in enumerate(reversed(labels))}
        for index, (name, found) in enumerate(figures.items()):
            for limit in (False, True):
                shown = {label: value for label, value in found.items() if ("limit" in label) == limit}
                style = {"marker": "|" if limit else "o", "s": 160 if limit else 36, "color": f"C{index}"}
                ax.scatter(shown.values(), [rows[label] for label in shown], **style, label=None if limit else name)
        ax.set_yticks(list(rows.values()), [label.removesuffix(UNIT) for label in rows])
        ax.set_xscale("log")
        ax.set_xlabel("tokens/s, logarithmic")
        figure.legend(loc="outside upper center", ncols=1 if len(figures) > 2 else 2)
        figure.savefig(source / f"measured_on_{page}.png", dpi=160)
        plt.close(figure)
    return f"measured_on_{page}.png"
