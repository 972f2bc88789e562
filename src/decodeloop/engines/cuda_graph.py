"""A decode step as a CUDA graph: what it launches is recorded once, and replayed by a single call."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Literal

import torch


class Capture:
    """Captures steps on a stream.

    Parameters
    ----------
    wanted : bool or "auto"
        Whether steps are captured at all; ``"auto"`` goes on without, and warns, once it fails.
    stream : torch.cuda.Stream or None
        Where the steps run. None is a CPU, where nothing is captured.

    Source: `Accelerating PyTorch with CUDA Graphs
    <https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/>`_.
    """

    def __init__(self, wanted: bool | Literal["auto"], stream: torch.cuda.Stream | None) -> None:
        self.wanted, self.stream = stream is not None and wanted, stream

    def __call__(
        self, step: Callable[[], torch.Tensor], undo: Callable[[], None], last: torch.Tensor
    ) -> tuple[torch.cuda.CUDAGraph | None, torch.Tensor]:
        """The graph of what a step queues, and its result; None and ``last`` where that fails and ``wanted`` is "auto".

        A step that left anything to the CPU would be replayed with what the CPU knew at the capture. So the graph is
        replayed once, after ``undo``, and must give what the ``last`` step gave.
        """
        expected, replayed = last.clone(), False
        try:
            graph, result = self._record(step)
            undo()
            replayed = True
            graph.replay()
            if not torch.allclose(result.float(), expected.float(), rtol=0.02, atol=0.02 * float(expected.abs().max())):
                raise RuntimeError("the captured step does not compute what the step did")
        except Exception as error:
            if self.wanted != "auto":
                raise
            self._give_up(error)
            if replayed:  # whatever it wrote
                undo()
                step()
            last.copy_(expected)
            return None, last
        return graph, result

    def _record(self, step: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        assert self.stream is not None  # without one nothing is wanted
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.stream.device)
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="relaxed")  # onnxruntime may ask the driver for memory meanwhile
            try:
                result = step()
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph, result

    def _give_up(self, error: Exception) -> None:
        self.wanted = False
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"no CUDA graph, so steps are launched one by one: {reason}", stacklevel=3)
