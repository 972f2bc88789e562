"""A session on a device: buffers bound by address, run on a stream of its own, replayed as a CUDA graph where asked."""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import onnxruntime
import torch

from decodeloop.engines.cuda_graph import Capture
from decodeloop.export.file import TYPES
from decodeloop.models.load import pick_device

SPIN = 400  # microseconds that a thread without work waits at most before it sleeps: about a short step's pauses
NUMBERS = dict(TYPES.values())  # torch's element types -> ONNX's numbers


class Runner:
    """One ONNX Runtime session on one device.

    Parameters
    ----------
    path : path
    device : str or torch.device
        ``"auto"``, ``"cpu"`` or ``"cuda"``, as :class:`decodeloop.OnnxDecoder` takes it.
    session_options : onnxruntime.SessionOptions, optional
    cuda_graphs : bool or "auto"
        Whether steps may be captured; only on CUDA. ``"auto"`` goes on without, and warns, where that fails.
    bits : int, optional
        Of the graph's weights, where they are quantized.
    own_keys : bool
        Whether each query head has keys of its own: no grouped queries.

    Raises
    ------
    ValueError
        If the device is not there, for torch or for onnxruntime.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        device: torch.device | str,
        session_options: onnxruntime.SessionOptions | None = None,
        cuda_graphs: bool | str = False,
        bits: int | None = None,
        own_keys: bool = False,
    ) -> None:
        self.device, self.bits, self.own_keys = _pick(device), bits, own_keys
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.capture = Capture(cuda_graphs, self.stream)
        self.session = self._open(str(path), session_options)
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = {o.name: o for o in self.session.get_outputs()}
        self._queued = onnxruntime.RunOptions()
        self._queued.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def dtype(self, name: str) -> torch.dtype:
        """The element type of an input or output, as torch's."""
        return TYPES[(self.inputs.get(name) or self.outputs[name]).type][0]

    def bind(
        self,
        inputs: dict[str, torch.Tensor],
        outputs: dict[str, torch.Tensor],
        shapes: dict[str, tuple[int, ...]] | None = None,
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

    def _open(self, path: str, session_options: onnxruntime.SessionOptions | None) -> onnxruntime.InferenceSession:
        options = session_options or onnxruntime.SessionOptions()
        if session_options is None:
            options.log_severity_level = 3  # its remarks on node placement go past Python's stderr
            spin = self.stream is None and is_idle()
            # A thread that waits in a loop for its next piece of work starts it sooner, and takes the core of whoever
            # has some: on two idle cores steps took two thirds of the time with it, on busy ones half as long again.
            options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
            if self.stream is not None and self.bits == 8:
                # TensorRT-LLM's product for weights of 8 bits: on an H100 a step took 1.55 ms instead of 1.72. For 4
                # bits onnxruntime's own is the faster one at one row.
                options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
        providers: list = ["CPUExecutionProvider"]
        if self.stream is not None:
            cuda = {
                "device_id": str(self.device.index or 0),
                "user_compute_stream": str(self.stream.cuda_stream),
                "use_tf32": "0",  # float32 means float32, as it does in torch by default
            }
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        onnxruntime.set_default_logger_severity(3)  # no plugin for CUDA is no news: the provider is built in
        # The kernel "XQA" is made for query heads that share their keys. Where they do not, cuDNN's attention takes
        # 3.7 us per layer instead of 5.1 on an H100. There is no other way to say so than the environment.
        attention = {"ORT_ENABLE_XQA": "0"} if self.own_keys else {}
        try:
            with _environment(attention):
                session = onnxruntime.InferenceSession(path, options, providers=providers)
        finally:
            onnxruntime.set_default_logger_severity(2)  # onnxruntime's own default
        wanted = "CUDAExecutionProvider" if self.stream is not None else "CPUExecutionProvider"
        if session.get_providers()[0] != wanted:
            raise ValueError(f"asked for {wanted}, and onnxruntime fell back to {session.get_providers()}.")
        return session


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Within the block, these are set unless they are already; after it, the environment is as it was."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _pick(device: Any) -> torch.device:
    picked = pick_device(device)
    if picked.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        lacking = f"onnxruntime {onnxruntime.__version__} has no CUDA provider: pip install 'decodeloop[cuda]'"
        if device != "auto":
            raise ValueError(f"device={str(device)!r}: {lacking}.")
        warnings.warn(f"torch sees a GPU, but {lacking}. Running on the CPU.", stacklevel=4)
        return torch.device("cpu")
    return picked


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


def is_idle() -> bool:
    """Whether three quarters of the cores that this process may use have nothing to do, or nobody can say."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    idle = idle_cores()
    return idle is None or idle >= 0.75 * cores


def _idle_seconds() -> float:
    with open("/proc/stat") as file:
        idle, waiting = file.readline().split()[4:6]
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
