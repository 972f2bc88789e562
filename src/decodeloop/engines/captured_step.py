"""One decode step over buffers of fixed capacity: the same from token to token, so on CUDA captured and replayed."""

from __future__ import annotations

import torch

from decodeloop.decoding.engine import Likeliest
from decodeloop.engines.cuda_graph import Capture


class CapturedStep:
    """What a step reads and writes, at addresses that do not change; a subclass knows how to compute it.

    Parameters
    ----------
    capture : Capture
    batch, capacity : int
        Rows, and the positions that the buffers of each row hold.
    device : torch.device

    Attributes
    ----------
    tokens, positions : torch.Tensor
        int64 ``[batch, 1]``: what is appended, and the position of the token before it.
    logits : torch.Tensor
        ``[batch, 1, vocabulary]`` of the last step; one that is replayed overwrites them.
    """

    WARM_UP = 2  # steps before the capture, in which libraries set themselves up and lay out their memory
    logits: torch.Tensor

    def __init__(self, capture: Capture, batch: int, capacity: int, device: torch.device) -> None:
        self.capture, self.capacity = capture, capacity
        self.tokens, self.positions = (torch.zeros(batch, 1, dtype=torch.int64, device=device) for _ in range(2))
        self.graph: torch.cuda.CUDAGraph | None = None
        self.found: torch.Tensor | None = None  # the likeliest tokens by the logits, and their scores, once captured
        self.looks, self.replayed, self.steps = True, False, 0

    def run(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, ``[batch, 1]``: the logits ``[batch, 1, vocabulary]``, overwritten later."""
        self.tokens.copy_(tokens)
        self.replayed = self.graph is not None
        if self.graph is not None:
            self.graph.replay()
            return self.logits
        if self.steps == self.WARM_UP - 1 and self.capture.wanted:
            self.keep_state()
        self.logits = self.compute_and_look() if self.capture.wanted else self.compute()
        self.steps += 1
        if self.steps == self.WARM_UP and self.capture.wanted:
            self.graph, self.logits = self.capture(self.compute_and_look, self.step_back, self.logits)
        return self.logits

    def likeliest(self) -> Likeliest | None:
        """What ``logits[:, -1].max(-1)`` gives, if the step that ran last has looked for it, as a replayed one does."""
        if self.found is None or not self.replayed:
            return None
        tokens, scores = self.found.clone()
        return scores.view(torch.float64), tokens

    def release(self) -> None:
        """Let go of the graph, at once: of what it holds, a library may wait to be given it back."""
        if self.graph is not None:
            self.graph.reset()
            self.graph = None

    def compute_and_look(self) -> torch.Tensor:
        """What is captured: :meth:`compute`, and on a GPU the likeliest tokens by its logits."""
        logits = self.compute()
        if self.looks and logits.is_cuda:
            try:
                from decodeloop.engines.kernels.likeliest import likeliest

                self.found = likeliest(logits[:, -1])
            except torch.OutOfMemoryError:
                raise
            except Exception:  # Triton or its C compiler is missing, or knows no such GPU: the loop looks itself
                self.looks, self.found = False, None
        return logits

    def compute(self) -> torch.Tensor:
        """Go one position on: the logits there."""
        raise NotImplementedError

    def keep_state(self) -> None:
        """Remember what the next step replaces, for :meth:`step_back`; what it only adds to needs no copy."""

    def step_back(self) -> None:
        """Undo the going on, so that the same step can be computed again."""
        self.positions.sub_(1)
