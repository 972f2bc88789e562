"""Where and with what a number was measured: a speed without its machine says nothing."""

import ctypes
import datetime
import functools
import html
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_KEYS = """date mode device device_memory_gib driver cuda cpu cores threads memory_gib platform python torch
transformers onnx onnxscript onnxruntime onnxruntime_package numpy provider commit model figures"""
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
_NOTES = {
    "fast": "Fast run: sizes and counts are cut for tests. This is no benchmark of a GPU, nor of anything else.",
    "cpu": "CPU run: this is no benchmark of a GPU.",
}


class Provenance(dict[str, Any]):
    """What :func:`provenance` returns: a dictionary that reads well in a page, in a notebook and printed."""

    def __str__(self) -> str:
        rows = list(self._rows())
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)

    def _repr_html_(self) -> str:
        cells = [(html.escape(label), html.escape(text)) for label, text in self._rows() if label != "Note"]
        rows = "".join(f'<tr><th scope="row">{label}</th><td>{text}</td></tr>' for label, text in cells)
        table = f'<table class="decodeloop-provenance"><tbody>{rows}</tbody></table>'
        title = _NOTES.get(self.get("mode")) or f"Measured on {self.get('device')}"
        kind = "warning" if self.get("mode") == "fast" else "note"
        return f'<div class="admonition {kind}"><p class="admonition-title">{html.escape(title)}</p>{table}</div>'

    def _rows(self) -> Iterator[tuple[str, str]]:
        def line(**forms: str) -> str:
            return ", ".join(form.format(self[key]) for key, form in forms.items() if self.get(key) is not None)

        runtime = f"{self.get('onnxruntime_package') or 'onnxruntime'} {{}}"
        versions = {name: f"{name} {{}}" for name in _PACKAGES} | {"onnxruntime": runtime}
        yield "Device", line(device="{}", device_memory_gib="{} GiB", driver="driver {}", cuda="CUDA {}")
        yield "CPU", line(cpu="{}", cores="{} logical cores", threads="{} torch threads", memory_gib="{} GiB")
        yield "System", line(platform="{}", python="Python {}")
        yield "Versions", line(**versions)
        if self.get("provider"):
            yield "Provider", line(provider="{}")
        models = self.get("model") or []
        if models:
            yield "Model", "; ".join([models] if isinstance(models, str) else models)
        yield "Commit", line(commit="{}") or "not in a clone"
        yield "Date", line(date="{}")
        yield from ((key, str(value)) for key, value in self.items() if key not in _KEYS.split())
        if self.get("mode") in _NOTES:
            yield "Note", _NOTES[self["mode"]]


def provenance(
    *,
    device: Any = "auto",
    provider: str | None = None,
    model: Any = None,
    figures: Mapping[str, float] | None = None,
    **extra: Any,
) -> Provenance:
    """Say where and with what a number is measured.

    Holds plain JSON types, and no host name, user name or path. What cannot be found out is None.

    Parameters
    ----------
    device
        What computed: ``"auto"`` is CUDA where present. ``"cpu"`` on a machine with a GPU makes this a CPU run.
    provider
        The execution provider that ONNX Runtime really used: ``session.get_providers()[0]``.
    model
        What :func:`decodeloop.load` returned, which is written ``"bundled (trained weights)"``; or a text of your
        own; or a list of these.
    figures : mapping of str to float
        What was measured, label with its unit to number: ``{"generate (tokens/s)": 177.2}``. It is kept in the
        dictionary, to be compared with other machines' runs, and not shown in the table.
    **extra
        Further facts as JSON types, such as ``rows=4``. A ``torch.dtype`` is written ``"float16"``.

    Returns
    -------
    Provenance
        A dictionary with these keys, followed by ``model`` and ``figures`` where given, and the extra ones:

        - ``date`` (UTC, to the minute), ``mode`` (``"fast"`` when ``UNITTEST_GOING=1``, else ``"gpu"`` or ``"cpu"``);
        - ``device`` (the GPU's name, or ``"cpu"``), ``device_memory_gib``, ``driver``, ``cuda`` (None on a CPU);
        - ``cpu`` (its model), ``cores`` (logical), ``threads`` (torch's), ``memory_gib``, ``platform``, ``python``;
        - ``torch``, ``transformers``, ``onnx``, ``onnxscript``, ``onnxruntime``, ``numpy``: versions, and
          ``onnxruntime_package``, the distribution that is installed: ``"onnxruntime"`` or ``"onnxruntime-gpu"``;
        - ``provider``, and ``commit`` of the clone (``+changed`` with uncommitted changes; None outside a clone).

    Raises
    ------
    TypeError
        When an extra value is no JSON type, or a figure no finite number.
    """
    if figures is not None:
        extra = {"figures": {label: _number(label, value) for label, value in figures.items()}} | extra
    if model is not None:
        extra = {"model": _models(model)} | extra
    gpu = _gpu(device)
    kind = "cpu" if gpu["device"] == "cpu" else "gpu"
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "mode": "fast" if os.environ.get("UNITTEST_GOING") == "1" else kind,
        **gpu,
        **_machine(),
        "threads": torch.get_num_threads(),
        **_versions(),
        "provider": provider,
        "commit": _commit(Path(__file__).resolve()),
    }
    ordered = {key: facts[key] for key in _KEYS.split() if key in facts}
    return Provenance(ordered | {key: _plain(key, value) for key, value in extra.items()})


def _models(model: Any) -> Any:
    if isinstance(model, list | tuple):
        return [_models(each) for each in model]
    name, weights = getattr(model, "name", None), getattr(model, "weights", None)
    return f"{Path(name).name if Path(name).is_absolute() else name} ({weights} weights)" if weights else model


def _number(label: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TypeError(f"provenance(figures={{{label!r}: {value!r}}}): expected a finite number.")
    return number


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(key, item) for name, item in value.items()}
    raise TypeError(f"provenance({key}=...) got {type(value).__name__}: give a JSON type, str({key}) for example")


def _gpu(device: Any) -> dict[str, Any]:
    if str(device).split(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
        index = None if device == "auto" else torch.device(device).index
        return _cuda(torch.cuda.current_device() if index is None else index)
    return {"device": "cpu", "device_memory_gib": None, "driver": None, "cuda": None}


@functools.cache
def _cuda(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    memory = round(properties.total_memory / 2**30, 1)
    return {
        "device": properties.name,
        "device_memory_gib": memory,
        "driver": _driver_from_proc() or _driver_from_nvml(),
        "cuda": torch.version.cuda,
    }


def _driver_from_proc() -> str | None:
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _read("/proc/driver/nvidia/version"))
    return version and version[1]


def _driver_from_nvml() -> str | None:
    try:
        nvml = ctypes.CDLL("nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(80)
        found = nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 80) == 0
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return text.value.decode() if found else None


@functools.cache
def _machine() -> dict[str, Any]:
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    libc = " ".join(platform.libc_ver()).strip()
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        memory = None
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "platform": f"{platform.system()} {platform.machine()}" + (f", {libc}" if libc else ""),
        "python": platform.python_version(),
    }


@functools.cache
def _versions() -> dict[str, str | None]:
    package = next((name for name in _RUNTIMES if _version(name)), None)
    versions = {name: _version(name) for name in _PACKAGES}
    return versions | {"onnxruntime": package and _version(package), "onnxruntime_package": package}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


@functools.cache
def _commit(file: Path) -> str | None:
    """The commit of the clone that holds ``src/decodeloop/``; None when installed elsewhere, or without git."""
    root = file.parents[2]
    git = shutil.which("git")
    if git is None or file.parent != root / "src" / "decodeloop" or not (root / ".git").exists():
        return None
    command = [git, "--no-optional-locks", "-c", "safe.directory=*", "-C", str(root)]
    command += ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changed"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
