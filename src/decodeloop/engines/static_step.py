"""One decode step of a PyTorch model over transformers' static cache, whose layers are told where to write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, StaticCache
from transformers.cache_utils import (
    LinearAttentionAndStaticFullAttentionLayer,
    LinearAttentionAndStaticSlidingWindowAttentionLayer,
    LinearAttentionLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from decodeloop.caches.buffer_pool import no_room
from decodeloop.caches.layers import PLACEHOLDER
from decodeloop.caches.shapes import empty_tensors, state_shapes
from decodeloop.caches.states import State, keeps_states, read_state, write_state
from decodeloop.decoding.prompt import Prompt
from decodeloop.engines.captured_step import CapturedStep
from decodeloop.engines.step_masks import StepMasks

if TYPE_CHECKING:
    from decodeloop.engines.torch_static import TorchDecoder


class PlacedLayer(StaticLayer):
    """A layer of fixed capacity that is told where to write: transformers' counts for itself, a few kernels each."""

    keys: torch.Tensor  # from lazy_initialization on
    values: torch.Tensor

    def __init__(self, capacity: int, cache_position: torch.Tensor) -> None:
        super().__init__(capacity)
        self.cache_position = cache_position
        self.begins = False  # whether what is written now is the whole text so far

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write at ``cache_position`` ``[new]``; the whole buffers, or what was written where a text begins."""
        for name, new, buffer in (("keys", key_states, self.keys), ("values", value_states, self.values)):
            made, kept = (new.shape[1], new.shape[3]), (buffer.shape[1], buffer.shape[3])
            if made != kept:
                raise ValueError(f"the model makes (heads, size) {made} of {name}, and its configuration says {kept}.")
        self.keys.index_copy_(2, self.cache_position, key_states)
        self.values.index_copy_(2, self.cache_position, value_states)
        return (key_states, value_states) if self.begins else (self.keys, self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys :meth:`update` returns, and the position of the first one."""
        return (query_length, 0) if self.begins else super().get_mask_sizes(query_length)

    def get_seq_length(self) -> Any:
        """The positions before those that are written now: a tensor, since a captured step would keep an int."""
        return self.cache_position[0]


class PlacedHybridLayer(LinearAttentionLayer, PlacedLayer):  # type: ignore[misc, override]
    """Such a layer that keeps states of fixed size besides, which are replaced in place."""

    def __init__(self, capacity: int, cache_position: torch.Tensor, number_of_states: int) -> None:
        PlacedLayer.__init__(self, capacity, cache_position)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        kind = PlacedLayer if args else LinearAttentionLayer  # as transformers' own hybrid layers tell them apart
        kind.lazy_initialization(self, *args, **kwargs)


ATTENDING = (StaticLayer, StaticSlidingWindowLayer)
HYBRID = (LinearAttentionAndStaticFullAttentionLayer, LinearAttentionAndStaticSlidingWindowAttentionLayer)
#: Kinds of a static cache's layers that a step can have.
PLACED = (*ATTENDING, *HYBRID, LinearAttentionLayer, PLACEHOLDER)


def placed(layer: Any, capacity: int, cache_position: torch.Tensor) -> Any:
    """A layer of transformers' static cache as one that is told where to write, and keeps all: masks hide the rest."""
    if type(layer) in ATTENDING:
        return PlacedLayer(capacity, cache_position)
    if type(layer) in HYBRID:
        return PlacedHybridLayer(capacity, cache_position, layer.number_of_states)
    return layer


class StaticStep(CapturedStep):
    """The buffers of a step for a batch and a capacity: transformers' static cache, masks, and where to write.

    Parameters
    ----------
    decoder : TorchDecoder
    batch, capacity : int
        Rows, and the positions that the buffers of each row hold.
    """

    def __init__(self, decoder: TorchDecoder, batch: int, capacity: int) -> None:
        super().__init__(decoder.capture, batch, capacity, decoder.device)
        config, dtype, device = decoder.config, decoder.model.dtype, decoder.device
        self.forward, self.cache_argument = decoder.new_forward_one(), decoder.cache_argument
        self.local_rows = decoder.local_rows
        self.cache_position = torch.zeros(1, dtype=torch.int64, device=device)
        self.cache = StaticCache(config=config, max_cache_len=capacity)
        self.cache.layers = [placed(layer, capacity, self.cache_position) for layer in self.cache.layers]
        self.placed = [layer for layer in self.cache.layers if isinstance(layer, PlacedLayer)]
        tensors = empty_tensors(config, batch, dtype=dtype, device=device)
        self.states = _states(config, self.cache)
        kept = dict(zip(self.states, tensors, strict=True))
        try:
            self.masks = StepMasks(config, batch, capacity, dtype, device)
            for state, tensor in kept.items():
                if state.grows is None:
                    write_state(self.cache, state, tensor)
            for state, tensor in kept.items():
                if state.name == "key":
                    layer: Any = self.cache.layers[state.layer]
                    layer.lazy_initialization(tensor, kept[State(state.layer, "value")])
        except RuntimeError as error:  # torch's for the GPU is one; the CPU's has no type of its own
            each = sum(t.element_size() * t.shape[1] * t.shape[3] for s, t in kept.items() if s.grows is not None)
            raise no_room(device, batch * capacity * each) from error
        self.fixed = [read_state(self.cache, state) for state in self.states if state.grows is None]
        self.before: list[torch.Tensor] = []  # the states before a step that is to be computed again

    def clear(self) -> None:
        """Forget what an earlier text left: a NaN among it would stay one, however little weight a mask leaves it."""
        for state in self.states:
            read_state(self.cache, state).zero_()
        for layer in self.cache.layers:
            if hasattr(layer, "has_previous_state"):  # the prompt is read as the beginning of a text
                layer.has_previous_state = dict.fromkeys(layer.has_previous_state, False)

    def load(self, tensors: Sequence[torch.Tensor], length: int) -> None:
        """Fill the buffers, copied: from flat tensors of the text's last positions, or of a state's shape."""
        for state, tensor in zip(self.states, tensors, strict=True):
            layer: Any = self.cache.layers[state.layer]
            buffer = read_state(self.cache, state)
            if state.grows is not None:
                buffer.zero_()[:, :, length - tensor.shape[2] : length] = tensor
            else:
                buffer.copy_(tensor)
                layer.has_previous_state = dict.fromkeys(layer.has_previous_state, True)

    def set_length(self, prompt: Prompt, length: int) -> None:
        """The buffers hold ``length`` positions of the prompt's rows and what they said."""
        self.replayed = False
        self.cache_position.fill_(length - 1)
        self.positions.copy_(prompt.positions(length, 1))
        self.masks.set_length(prompt, length)

    @contextlib.contextmanager
    def writing_at(self, first: int, new: int) -> Iterator[StaticCache]:
        """The cache, whose layers write at so many positions from ``first`` on instead of the step's.

        Where a text begins there, its tokens see each other alone: what is not filled yet is not shown to attention,
        which needs no mask then, and has kernels for that.
        """
        cache_position = torch.arange(first, first + new, device=self.cache_position.device)
        self._write_at(cache_position, begins=first == 0)
        try:
            yield self.cache
        finally:
            self._write_at(self.cache_position)

    def _write_at(self, cache_position: torch.Tensor, begins: bool = False) -> None:
        for layer in self.placed:
            layer.cache_position, layer.begins = cache_position, begins
        if self.local_rows is not None:
            self.local_rows.cache_position = cache_position

    def compute(self) -> torch.Tensor:
        self.cache_position.add_(1)
        self.positions.add_(1)
        if self.local_rows is not None:  # which another step of other buffers may have told its own
            self.local_rows.cache_position = self.cache_position
        inputs: dict[str, Any] = {self.cache_argument: self.cache}
        if self.placed:
            self.masks.advance(self.cache_position)
            inputs |= {"attention_mask": self.masks.given, "position_ids": self.positions}
        logits: torch.Tensor = self.forward(input_ids=self.tokens, use_cache=True, **inputs).logits
        return logits

    def keep_state(self) -> None:
        self.before = [tensor.clone() for tensor in self.fixed]

    def step_back(self) -> None:
        super().step_back()
        self.cache_position.sub_(1)
        for tensor, before in zip(self.fixed, self.before, strict=True):
            tensor.copy_(before)


def _states(config: PreTrainedConfig, cache: StaticCache) -> list[State]:
    """What the layers keep, in the order of :func:`empty_tensors`."""
    if keeps_states(config):
        return list(state_shapes(config))
    keyed = [index for index, layer in enumerate(cache.layers) if isinstance(layer, PlacedLayer)]
    return [State(index, name) for index in keyed for name in ("key", "value")]
