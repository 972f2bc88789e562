"""The landing page's figure: what share of its limit each loop reaches, from a record of a model of full size."""

from pathlib import Path

from book import FIGURES
from recorded import ROOT, read_run, recorded_devices

INCLUDED, IMAGE = "hero.inc", "hero.png"
UNIT, LIMIT, FULL_SIZE = " (tokens/s)", "limit", "phi-1_5"
#: Pages that compare loops and their limit; the first that a machine has a record of is shown.
PAGES = ("plot_limit", "plot_engines")
FIGURE = """\
.. figure:: {image}
   :class: dark-light
   :alt: {alt}

   How many tokens per second each loop writes, and what share that is of its own limit: each token takes reading all
   weights once, and memory is only so fast (:doc:`how_we_measure`); fewer bits have a higher limit. With the same
   weights, *{best}* is {times:.1f} times as fast as *{base}*, the usual loop. One text, {model}, on {machine}, {date}:
   :ref:`{label}`.
"""


def write_hero(source: Path, root: Path = ROOT) -> None:
    """Write the figure, and what ``index.rst`` includes, to a build's sources. GPUs come first, then this order."""
    devices = sorted(recorded_devices(root), key=lambda device: device.startswith("cpu"))
    for device in devices:
        for page in PAGES:
            run = read_run(device, page, root)
            speeds, limits = full_size(run["figures"]) if run and run.get("figures") else ({}, {})
            if speeds:
                draw(speeds, limits, source / IMAGE)
                (source / INCLUDED).write_text(describe(page, run, speeds, limits), encoding="utf-8")
                return
    (source / INCLUDED).write_text("No run has been recorded yet.\n", encoding="utf-8")


def full_size(figures: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Tokens per second and their limit, by loop: of the large model, where a page has figures of two.

    A graph of fewer bits has a limit of its own, ``limit of int4``; where a page does not say it, it is left out.
    """
    found = {name.removesuffix(UNIT): value for name, value in figures.items() if name.endswith(UNIT)}
    large = {name: value for name, value in found.items() if name.startswith(f"{FULL_SIZE}: ")}
    found = {name.removeprefix(f"{FULL_SIZE}: "): value for name, value in (large or found).items()}
    speeds, limits = {}, {}
    for name, value in found.items():
        bits = next((word for word in ("int8", "int4", "8 bits", "4 bits") if word in name), None)
        limit = found.get(f"{LIMIT} of {bits}" if bits else LIMIT)
        if not name.startswith(LIMIT) and limit:
            speeds[name], limits[name] = value, limit
    return speeds, limits


def describe(page: str, run: dict, speeds: dict[str, float], limits: dict[str, float]) -> str:
    base = next(iter(speeds))  # a page begins with the loop that everybody has
    best = max((name for name in speeds if limits[name] == limits[base]), key=speeds.__getitem__)
    models = [run["model"]] if isinstance(run["model"], str) else run["model"]
    large = [model for model in models if FULL_SIZE in model]
    shares = ", ".join(f"{name} {speeds[name] / limits[name]:.0%}" for name in speeds)
    machine = f"a CPU of {run['cores']} cores" if run["device"] == "cpu" else f"one {run['device']}"
    return FIGURE.format(
        image=IMAGE,
        alt=f"Bars, the share of the limit: {shares}",
        best=best,
        base=base,
        times=speeds[best] / speeds[base],
        machine=machine,
        date=run["date"][:10],
        model=(large or models)[0],
        label=f"l-{page.replace('_', '-')}",
    )


def draw(speeds: dict[str, float], limits: dict[str, float], path: Path) -> None:
    """A bar for each loop, on a linear scale that ends at the limit; as wide as a phone can show."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, shares = list(speeds), [100 * speeds[name] / limits[name] for name in speeds]
    with plt.style.context([FIGURES, {"axes.grid.axis": "x"}]):
        figure, ax = plt.subplots(figsize=(5.6, 1.3 + 0.42 * len(names)))
        bars = ax.barh(
            [name.replace(", ", ",\n") for name in names], shares, color=["C5"] + ["C0"] * (len(names) - 1), height=0.62
        )
        labels = [f"{share:.0f} %, {speeds[name]:,.0f} tokens/s" for name, share in zip(names, shares, strict=True)]
        for bar, label, share in zip(bars, labels, shares, strict=True):
            inside = share > 60
            place = {"ha": "right", "color": "white"} if inside else {"ha": "left"}
            ax.text(share + (-1 if inside else 1), bar.get_y() + bar.get_height() / 2, label, va="center", **place)
        ax.axvline(100, color="C1")
        above = {"xycoords": ("data", "axes fraction"), "xytext": (0, 2), "textcoords": "offset points"}
        ax.annotate("limit", (100, 1), **above, color="C1", ha="center", weight="bold")
        ax.set_xlim(0, max(104, *shares))
        ax.invert_yaxis()
        ax.set_xlabel("% of the limit")
        ax.set_title("How near to what memory allows?", loc="left", pad=24)
        figure.savefig(path, dpi=200)
        plt.close(figure)
