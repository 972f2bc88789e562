"""A session of onnxruntime on a device: buffers bound by address, run on a stream of its own."""

from __future__ import annotations

import functools
import os
import re
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from decodeloop.checks import shown
from decodeloop.engines.cuda_graph import Capture
from decodeloop.export.file import TYPES
from decodeloop.models.load import pick_device
from decodeloop.optional import load_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

LOOKS = 5  # at the machine's idle cores, at most: 0.05 s each
SPIN = 400  # microseconds that a thread without work waits at most before it sleeps: about a short step's pauses
NUMBERS = dict(TYPES.values())  # torch's element types -> ONNX's numbers


class OnnxSession:
    """One session on one device.

    Parameters
    ----------
    path : path
    device : str or torch.device
        ``"auto"``, ``"cpu"`` or ``"cuda"``, as :class:`decodeloop.OnnxDecoder` takes it.
    session_options : onnxruntime.SessionOptions, optional
    spinning : bool or "auto"
        As :class:`decodeloop.OnnxDecoder` takes it.
    cuda_graphs : bool or "auto"
        Whether steps may be captured; only on CUDA. ``"auto"`` goes on without, and warns, where that fails.
    bits : int, optional
        Of the graph's weights, where they are quantized.

    Raises
    ------
    ValueError
        If the device is not there, for torch or for onnxruntime, or both options and ``spinning`` are given.
    ImportError
        If onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: torch.device | str,
        session_options: onnxruntime.SessionOptions | None = None,
        spinning: bool | Literal["auto"] = "auto",
        cuda_graphs: bool | Literal["auto"] = False,
        bits: int | None = None,
    ) -> None:
        library = load_onnxruntime()
        self.device = _pick(device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.capture = Capture(cuda_graphs, self.stream)
        if not isinstance(session_options, library.SessionOptions | None):
            raise ValueError(
                f"session_options={shown(session_options)}: expected an onnxruntime.SessionOptions, or None."
            )
        if session_options is None:
            session_options = self._options(spinning, bits)
        elif spinning != "auto":
            raise ValueError("spinning is one of session_options: give one of the two, or set it there yourself.")
        self.session = self._open(os.fspath(path), session_options)
        self.spinning = _spins(self.session)
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = {o.name: o for o in self.session.get_outputs()}
        self._queued = library.RunOptions()
        self._queued.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def dtype(self, name: str) -> torch.dtype:
        """The element type of an input or output, as torch's."""
        return TYPES[(self.inputs.get(name) or self.outputs[name]).type][0]

    def bind(
        self,
        inputs: Mapping[str, torch.Tensor],
        outputs: Mapping[str, torch.Tensor],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> onnxruntime.IOBinding:
        """Bind tensors by address: they must be contiguous, and live as long as the binding is run.

        Of a tensor named in ``shapes`` the front is bound, in that shape: to make a view of it would take longer.
        """
        binding, shapes = self.session.io_binding(), shapes or {}
        where = self.device.type, self.device.index or 0
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(name, *where, NUMBERS[tensor.dtype], shapes.get(name, tensor.shape), tensor.data_ptr())
        return binding

    def run(self, binding: onnxruntime.IOBinding) -> None:
        """Run once. On CUDA this only queues the work: in order with torch's current stream, before and after.

        Raises
        ------
        MemoryError
            If onnxruntime finds no room for what it computes on the way.
        """
        try:
            if self.stream is None:
                self.session.run_with_iobinding(binding)
                return
            torch_stream = torch.cuda.current_stream(self.device)
            if torch_stream == self.stream:
                self.session.run_with_iobinding(binding, self._queued)
                return
            self.stream.wait_stream(torch_stream)
            self.session.run_with_iobinding(binding, self._queued)
            torch_stream.wait_stream(self.stream)
        except Exception as error:  # onnxruntime's own exceptions share no public base
            asked = re.search(r"(?:requested buffer of size|Failed to allocate memory.*?)\D*(\d+)", str(error))
            if asked is None:
                raise
            raise MemoryError(
                f"no room on {self.device} for {int(asked[1]):,} bytes that a step needs besides its cache: ask for "
                "fewer rows or a shorter prompt."
            ) from error

    def _options(self, spinning: bool | Literal["auto"], bits: int | None) -> onnxruntime.SessionOptions:
        options = load_onnxruntime().SessionOptions()
        options.log_severity_level = 3  # its remarks on node placement go past Python's stderr
        if spinning == "auto":
            threads = None if self.stream is not None else threads_beside_others()
            spinning = self.stream is None and threads is None
            if threads is not None:
                options.intra_op_num_threads = threads
        options.add_session_config_entry(ALLOW_SPINNING, "1" if spinning else "0")
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        if self.stream is not None and bits == 8:
            # TensorRT-LLM's product for weights of 8 bits: on an H100 a step took 1.55 ms instead of 1.72. For 4 bits
            # onnxruntime's own is the faster one at one row.
            options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
        return options

    def _open(self, path: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.stream is not None:
            cuda = {
                "device_id": str(self.device.index or 0),
                "user_compute_stream": str(self.stream.cuda_stream),
                "use_tf32": "0",  # float32 means float32, as it does in torch by default
            }
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        session = load_onnxruntime().InferenceSession(path, options, providers=providers)
        wanted = "CUDAExecutionProvider" if self.stream is not None else "CPUExecutionProvider"
        if session.get_providers()[0] != wanted:
            raise ValueError(f"asked for {wanted}, and onnxruntime fell back to {session.get_providers()}.")
        return session


ALLOW_SPINNING = "session.intra_op.allow_spinning"


def _spins(session: onnxruntime.InferenceSession) -> bool:
    """Whether a session's threads wait in a loop; onnxruntime's own default is that they do."""
    try:
        return session.get_session_options().get_session_config_entry(ALLOW_SPINNING) != "0"
    except Exception:  # onnxruntime's own, which has no public base: nobody set it
        return True


def _pick(device: torch.device | str) -> torch.device:
    picked, library = pick_device(device), load_onnxruntime()
    if picked.type == "cuda" and "CUDAExecutionProvider" not in library.get_available_providers():
        lacking = f"onnxruntime {library.__version__} has no CUDA provider: pip install 'decodeloop[cuda]'"
        if device != "auto":
            raise ValueError(f"device={str(device)!r}: {lacking}.")
        warnings.warn(f"torch sees a GPU, but {lacking}. Running on the CPU.", stacklevel=5)
        return torch.device("cpu")
    return picked


@functools.cache
def threads_beside_others() -> int | None:
    """How many threads to take beside other programs: one for each core that had nothing to do when it was first asked.

    The threads of a product wait for the slowest of them, which is the one that has to share its core. None where no
    other program kept a core busy, or the system does not tell: then onnxruntime takes all cores. Asked once, so that
    all sessions of a process do the same.

    Looks up to five times and believes the idlest: a program that keeps a core busy without a pause does so each time,
    what writes a file back or wakes for a moment does not.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = 0
    for _ in range(LOOKS):
        idle = idle_cores()
        if idle is None or round(idle) >= cores:
            return None
        most = max(most, round(idle))
    return max(1, min(most, torch.get_num_threads()))  # torch takes one for two logical cores of one real core


def idle_cores(seconds: float = 0.05) -> float | None:
    """How many cores had nothing to do for a moment, this process left out; None where the system does not tell.

    Reads Linux's ``/proc/stat``, which counts the whole machine, in a container too. Sleeps for ``seconds``.
    """
    try:
        before, start = _idle_seconds(), time.perf_counter()
        ours = sum(os.times()[:2])
        time.sleep(seconds)
        idle, passed = _idle_seconds() - before, time.perf_counter() - start
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return (idle + sum(os.times()[:2]) - ours) / passed


def _idle_seconds() -> float:
    with open("/proc/stat") as file:
        idle, waiting = file.readline().split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
