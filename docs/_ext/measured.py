"""What a page measured, kept beside it: its closing call's facts, the GPU memory it took, other machines' figures."""

import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from recorded import COST, FACTS, ROOT, read_run, recorded_devices, write_json

MEMORY = re.compile(r"\*\*Estimated memory usage:\*\* +(\d+) MB\n+")
GPU_MEMORY = "**Most GPU memory in use, above what was when it began:** {} MiB\n\n"


def keep_facts(block, block_vars: dict, gallery_conf: dict) -> str:
    """Sphinx-Gallery's hook for the figures of a cell; here for the cell that ends in a call to ``provenance``."""
    from decodeloop import Provenance

    facts = block_vars["example_globals"].get("___")
    if isinstance(facts, Provenance):
        target = Path(block_vars["target_file"])
        write_json(target.with_name(target.stem + FACTS), dict(facts))
    return ""


class PeakMemory:
    """Sphinx-Gallery's ``show_memory``: the most GPU memory in use while a cell runs, in MiB; 0 without a GPU.

    Read from the driver every 50 ms, so it counts every library's. Reading it through CUDA could break a capture.
    """

    def __call__(self, function):
        used = gpu_memory()
        if used is None:
            return 0.0, function()
        peak, over = [used], threading.Event()

        def watch():
            while not over.wait(0.05):
                peak.append(gpu_memory() or 0)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            result = function()
        finally:
            over.set()
            watcher.join()
        return max(*peak, gpu_memory() or 0) / 2**20, result

    def __repr__(self) -> str:  # part of Sphinx's configuration, which is compared between builds
        return "PeakMemory()"


def gpu_memory() -> int | None:
    """Bytes in use on the first GPU, by all programs; None without one, or where its driver does not say."""
    import torch

    if not torch.cuda.is_available():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return pynvml.nvmlDeviceGetMemoryInfo(device).used
    except pynvml.NVMLError:
        return None


def read_runs(page: str, folder: Path, root: Path = ROOT) -> dict[str, dict]:
    """The facts of a page's run in ``folder``, and of the recorded ones: what to call each, in that order."""
    if not (folder / f"{page}{FACTS}").exists():
        return {}
    own = {"time": None, "memory": None}
    for path in (folder / f"{page}{FACTS}", folder / f"{page}{COST}"):
        own |= json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    name = f"{_name(own)}, recorded" if (folder / "RECORDED").exists() else f"this run ({own['mode']})"
    runs = {name: own}
    for other in filter(None, (read_run(device, page, root) for device in recorded_devices(root))):
        if any(other[key] != own[key] for key in ("device", "cpu", "date")):
            runs[f"{_name(other)}, recorded"] = other
    return runs


def _name(facts: dict) -> str:
    several = f"{facts['gpus']} × " if facts.get("gpus", 1) > 1 else ""
    return f"CPU, {facts['cores']} cores" if facts["device"] == "cpu" else several + facts["device"]


def beside(app, document: str, content: list[str]) -> None:
    """At the top of a page what has changed since; at its end its figures beside those of the recorded machines."""
    page = document.removeprefix("auto_gallery/")
    if not page.startswith("plot_"):
        return
    folder = Path(app.srcdir, "auto_gallery")
    text = MEMORY.sub(lambda found: GPU_MEMORY.format(found[1]) if int(found[1]) else "", content[0])
    text, end, rest = text.rpartition(".. rst-class:: sphx-glr-timing\n")  # absent where a page was not run
    changed = folder / f"{page}.changed"
    notice = f".. warning::\n\n   {changed.read_text(encoding='utf-8')}\n\n" if changed.exists() else ""
    content[0] = notice + text + comparison(read_runs(page, folder)) + end + rest


def comparison(runs: dict[str, dict]) -> str:
    """The table of :func:`beside`; nothing where no run has figures."""
    labels = list(dict.fromkeys(label for facts in runs.values() for label in facts.get("figures") or {}))
    if not labels:
        return ""
    rows = [[label, *(number((f.get("figures") or {}).get(label)) for f in runs.values())] for label in labels]
    rows.append(["running time of the page (s)", *(number(facts["time"]) for facts in runs.values())])
    if any(facts["memory"] for facts in runs.values()):
        rows.append(["most GPU memory (MiB)", *(number(facts["memory"] or None) for facts in runs.values())])
    title = "The figures of this page" + (", beside recorded runs of it" if len(runs) > 1 else "")
    return list_table([["figure", *runs], *rows], title, "class: decodeloop-figures", "stub-columns: 1")


def list_table(rows: Iterable[list[str]], title: str, *options: str) -> str:
    """A table in rst, its first row the header."""
    lines = [f".. list-table:: {title}", "   :header-rows: 1", *(f"   :{option}" for option in options), ""]
    for row in rows:
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n\n"


def cell(text: str) -> str:
    """A text as rst, which would read some of an error's or a processor's name as markup."""
    return "".join(f"\\{letter}" if letter in "*`|_\\" else letter for letter in text)


def number(value: float | None) -> str:
    """Three digits, or all of those before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
