"""What the fuzz test calls the public functions with: models, decoders, prompts, caches, and what results must be."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from helpers import left_padded, prompt_ids
from hypothesis import strategies as st

import decodeloop

ONE, (TWO, MASK) = prompt_ids(1, 5), left_padded([3, 5])
COUNTS, FLAGS = st.integers(0, 4), st.booleans()
DEVICES = st.sampled_from(["cpu", "auto", torch.device("cpu")])


@dataclass(frozen=True)
class Subjects:
    """The models of the tests, and the folder for what is written."""

    phi: Any
    llama: Any
    bundled: decodeloop.LoadedModel
    graph: Path
    fused_graph: Path
    folder: Path

    @cached_property
    def static(self):
        return decodeloop.TorchDecoder(self.phi)

    @cached_property
    def onnx(self):
        return decodeloop.OnnxDecoder(self.graph, device="cpu")

    @cached_property
    def fused(self):
        return decodeloop.OnnxDecoder(self.fused_graph, device="cpu")

    def cache(self):
        """A cache of four tokens, for phi."""
        return decodeloop.generate(self.phi, ONE[:, :4], max_new_tokens=1, return_cache=True)[1]

    def tensors(self):
        """The same as flat tensors."""
        return decodeloop.cache_to_tensors(self.cache())


def is_in(*kinds):
    """A check that the result is of one of these kinds."""

    def check(result, kw):
        assert isinstance(result, kinds), result

    return check
