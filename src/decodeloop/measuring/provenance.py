"""Where and with what a number was measured: a speed without its machine says nothing."""

from __future__ import annotations

import datetime
import html
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from decodeloop.checks import shown

if TYPE_CHECKING:
    from pandas import Series

    from decodeloop.engines.onnx_decoder import OnnxDecoder
    from decodeloop.models.load import LoadedModel

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
        title = _NOTES.get(self.get("mode", "")) or f"Measured on {self.get('device')}"
        kind = "warning" if self.get("mode") == "fast" else "note"
        return f'<div class="admonition {kind}"><p class="admonition-title">{html.escape(title)}</p>{table}</div>'

    def _rows(self) -> Iterator[tuple[str, str]]:
        left = dict(self)  # what no row below has shown

        def line(**forms: str) -> str:
            values = {key: left.pop(key, None) for key in forms}
            return ", ".join(forms[key].format(value) for key, value in values.items() if value is not None)

        mode, models, _ = (left.pop(key, None) for key in ("mode", "model", "figures"))
        versions = {name: f"{name} {{}}" for name in _PACKAGES}
        versions["onnxruntime"] = f"{left.pop('onnxruntime_package', None) or 'onnxruntime'} {{}}"
        yield "Device", line(device="{}", device_memory_gib="{} GiB", driver="driver {}", cuda="CUDA {}")
        yield "CPU", line(cpu="{}", cores="{} logical cores", threads="{} torch threads", memory_gib="{} GiB")
        yield "System", line(platform="{}", python="Python {}")
        yield "Versions", line(**versions)
        spin = "threads spin while they wait" if left.get("spinning") else "threads sleep while they wait"
        if provider := line(provider="{}", spinning=spin):
            yield "Provider", provider
        if models:
            yield "Model", "; ".join([models] if isinstance(models, str) else models)
        yield "Commit", line(commit="{}") or "not in a clone"
        yield "Date", line(date="{}")
        yield from ((key, str(value)) for key, value in left.items())
        if mode in _NOTES:
            yield "Note", _NOTES[mode]


def provenance(
    *,
    device: torch.device | str = "auto",
    provider: str | OnnxDecoder | None = None,
    spinning: bool | None = None,
    model: str | LoadedModel | Sequence[str | LoadedModel] | None = None,
    figures: Mapping[str, float] | Series | None = None,
    **extra: Any,
) -> Provenance:
    """Say where and with what a number is measured.

    Holds plain JSON types, and no host name, user name or path. What cannot be found out is None.

    Parameters
    ----------
    device
        What computed: ``"auto"`` is CUDA where present. ``"cpu"`` on a machine with a GPU makes this a CPU run.
    provider
        The execution provider that ONNX Runtime really used, ``session.get_providers()[0]``; or the decoder whose
        session it was, which also tells of ``spinning``.
    spinning
        Whether ONNX Runtime's threads spin while they wait for work, which moves times on a CPU by a third.
    model
        What :func:`decodeloop.load` returned, which is written ``"bundled (trained weights)"``; or a text of your
        own; or a list of these.
    figures : mapping of str to float, or pandas Series
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
        - ``provider``, ``spinning``, and ``commit`` of the clone (``+changed`` with uncommitted changes; None outside
          a clone).

    Raises
    ------
    TypeError
        When an extra value is no JSON type, a figure no finite number, or the provider neither a name nor a decoder.

    Examples
    --------
    >>> where = provenance(model="bundled", rows=4, figures={"loop (tokens/s)": 177.2})
    >>> where["model"], where["rows"], where["figures"]
    ('bundled', 4, {'loop (tokens/s)': 177.2})
    """
    if figures is not None and not callable(getattr(figures, "items", None)):
        raise TypeError(f"provenance(figures={shown(figures)}): expected numbers by their labels.")
    if not (provider is None or isinstance(provider, str) or getattr(provider, "providers", None)):
        raise TypeError(f"provenance(provider={shown(provider)}): expected a provider's name, or a decoder.")
    if provider is not None and not isinstance(provider, str):
        provider, spinning = provider.providers[0], getattr(provider, "spinning", spinning)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        **_hardware(device),
        **_software(),
        "provider": provider,
        "spinning": spinning,
        "commit": _commit(Path(__file__).resolve()),
    }
    if model is not None:
        facts["model"] = _plain("model", _models(model))
    if figures is not None:
        facts["figures"] = {label: _number(label, value) for label, value in figures.items()}
    return Provenance(facts | {key: _plain(key, value) for key, value in extra.items()})


def _models(model: Any) -> Any:
    if isinstance(model, list | tuple):
        return [_models(each) for each in model]
    if not hasattr(model, "weights"):
        return model
    name = Path(model.name).name if Path(model.name).is_absolute() else model.name
    return f"{name} ({model.weights} {getattr(model, 'note', '') or 'weights'})"


def _number(label: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TypeError(f"provenance(figures={{{label!r}: {shown(value)}}}): expected a finite number.")
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


def _hardware(device: torch.device | str) -> dict[str, Any]:
    on_gpu = str(device).split(":")[0] in ("auto", "cuda") and torch.cuda.is_available()
    gpu = torch.cuda.get_device_properties(None if str(device) == "auto" else device) if on_gpu else None
    cpu = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        memory = None
    return {
        "mode": "fast" if os.environ.get("UNITTEST_GOING") == "1" else "gpu" if gpu else "cpu",
        "device": gpu.name if gpu else "cpu",
        "device_memory_gib": round(gpu.total_memory / 2**30, 1) if gpu else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": memory,
    }


def _software() -> dict[str, str | None]:
    libc = " ".join(platform.libc_ver()).strip()
    runtime = next((name for name in _RUNTIMES if _version(name)), None)
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "platform": f"{platform.system()} {platform.machine()}" + (f", {libc}" if libc else ""),
        "python": platform.python_version(),
        **versions,
        "onnxruntime": runtime and _version(runtime),
        "onnxruntime_package": runtime,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit(file: Path) -> str | None:
    """The commit of the clone that holds ``src/decodeloop/``; None when installed elsewhere, or without git."""
    root = file.parents[3]
    if file.parts[-4:-1] != ("src", "decodeloop", "measuring") or not (root / ".git").exists():
        return None
    git = ("git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(root))
    return _output(*git, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changed")


def _output(*command: str) -> str | None:
    """The first line that a program prints; None where it is missing or fails."""
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return text.strip().partition("\n")[0] or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
