"""What a page measured, kept beside it: its closing call's facts, the GPU memory it took, other machines' figures."""

import ctypes
import json
import re
import threading
from pathlib import Path

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "recorded"
MEMORY = re.compile(r"\*\*Estimated memory usage:\*\* +(\d+) MB\n+")
GPU_MEMORY = "**Most GPU memory in use, above what was when it began:** {} MiB\n\n"
FACTS = ".measured.json"  # beside a page's rst: the dictionary that its closing call to provenance returned


def keep_facts(block, block_vars: dict, gallery_conf: dict) -> str:
    """Sphinx-Gallery's hook for the figures of a cell; here for the cell that ends in a call to ``provenance``."""
    from decodeloop import Provenance

    facts = block_vars["example_globals"].get("___")
    if isinstance(facts, Provenance):
        target = Path(block_vars["target_file"])
        write_json(target.with_name(target.stem + FACTS), dict(facts))
    return ""


def write_json(path: Path, facts: dict) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


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


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def gpu_memory() -> int | None:
    """Bytes in use on the first GPU, by all programs; None without one, or where its driver does not say."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    device, memory = ctypes.c_void_p(), _Memory()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(device)):
        return None
    return None if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) else memory.used


def read_runs(page: str, folder: Path, records: Path = RECORDS) -> dict[str, dict]:
    """The facts of a page's run in ``folder``, and of the recorded ones: what to call each, in that order."""
    own = folder / f"{page}{FACTS}"
    if not own.exists():
        return {}
    facts = _facts(own, page)
    name = f"{_name(facts)}, recorded" if (folder / "RECORDED").exists() else f"this run ({facts['mode']})"
    runs = {name: facts}
    for path in sorted(records.glob(f"*/{page}{FACTS}")):
        other = _facts(path, page)
        if (other["device"], other["cpu"], other["date"]) != (facts["device"], facts["cpu"], facts["date"]):
            runs[f"{_name(other)}, recorded"] = other
    return runs


def _facts(path: Path, page: str) -> dict:
    facts = json.loads(path.read_text(encoding="utf-8"))
    cost = path.with_name(f"{page}.cost.json")
    return facts | (json.loads(cost.read_text()) if cost.exists() else {"time": None, "memory": None})


def _name(facts: dict) -> str:
    return f"CPU, {facts['cores']} cores" if facts["device"] == "cpu" else facts["device"]


def beside(app, document: str, content: list[str]) -> None:
    """At the end of a page: its figures in a table, beside those of the machines that a run was recorded on."""
    page = document.removeprefix("auto_gallery/")
    end = ".. rst-class:: sphx-glr-timing\n"
    if not page.startswith("plot_") or end not in content[0]:
        return
    folder = Path(app.srcdir) / "auto_gallery"
    runs = read_runs(page, folder)
    text, _, rest = content[0].rpartition(end)
    rest = MEMORY.sub(lambda found: GPU_MEMORY.format(found[1]) if int(found[1]) else "", rest)
    content[0] = notice(folder / f"{page}.changed") + text + comparison(runs) + end + rest


def notice(path: Path) -> str:
    """What has changed since a page was recorded, if anything."""
    return f".. warning::\n\n   {path.read_text()}\n\n" if path.exists() else ""


def comparison(runs: dict[str, dict]) -> str:
    """The table of :func:`beside`; nothing where no run has figures."""
    labels = list(dict.fromkeys(label for facts in runs.values() for label in facts.get("figures") or {}))
    if not labels:
        return ""
    rows = [[label, *(number((f.get("figures") or {}).get(label)) for f in runs.values())] for label in labels]
    rows.append(["running time of the page (s)", *(number(facts["time"]) for facts in runs.values())])
    if any(facts["memory"] for facts in runs.values()):
        rows.append(["most GPU memory (MiB)", *(number(facts["memory"] or None) for facts in runs.values())])
    head = "The figures of this page" + (", beside recorded runs of it" if len(runs) > 1 else "")
    lines = [f".. list-table:: {head}", "   :header-rows: 1", "   :class: decodeloop-figures", ""]
    for row in [["", *runs], *rows]:
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n\n"


def number(value: float | None) -> str:
    """Three digits, or all of those before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
