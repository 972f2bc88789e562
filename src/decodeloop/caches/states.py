"""What a cache keeps from token to token, by name: keys and values that grow, and states that each token replaces.

In the order of a graph's inputs, layer by layer:

- ``key``, ``value`` ``[batch, heads, length, head size]``: attention's, one position for each token;
- ``conv`` ``[batch, channels, width]``: the last inputs of a short convolution;
- ``recurrent`` ``[batch, ...]``: what a state-space or linear attention layer remembers of all tokens, added up;
- ``index`` ``[batch, length, size]``: the keys by which a sparse attention layer chooses what to look at.

A layer with several convolutions or recurrences counts on: ``conv``, ``conv_1``, ``recurrent_1``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)

#: Names of what grows, and along which dimension.
GROWING = {"key": 2, "value": 2, "index": 1}
#: Kinds of states of fixed size, as transformers' linear attention layers call them: ``conv_states``, ...
KINDS = ("conv", "recurrent")


@dataclass(frozen=True)
class State:
    """One tensor that a layer keeps. ``input`` and ``output`` are its names in an ONNX graph."""

    layer: int
    name: str

    @property
    def grows(self) -> int | None:
        """The dimension that is as long as the text; None for a state of fixed size."""
        return GROWING.get(self.name)

    @property
    def input(self) -> str:
        group = "past_key_values" if self.name in ("key", "value") else "past_states"
        return f"{group}.{self.layer}.{self.name}"

    @property
    def output(self) -> str:
        return present_name(self.input)


def present_name(name: str) -> str:
    """The output that belongs to a cache input: ``past_key_values.0.key`` gives ``present.0.key``.

    And ``past_states.0.conv`` gives ``present_states.0.conv``.
    """
    return name.replace("past_key_values.", "present.").replace("past_states.", "present_states.")


def states_of(cache: Cache) -> list[State]:
    """What a filled cache keeps, in the order of a graph's inputs."""
    return [State(index, name) for index, layer in enumerate(cache.layers) for name in _names(layer)]


def fixed_names(layer: Any) -> list[str]:
    """The states of fixed size that a layer keeps by now."""
    found = []
    for kind in KINDS:
        kept: dict[int, Any] = getattr(layer, f"{kind}_states", None) or {}
        found += [f"{kind}_{index}" if index else kind for index, state in kept.items() if state is not None]
    return found


def silent_layers(cache: Cache) -> list[int]:
    """Layers that the cache has room for a state of, and that keep none after the model has run."""
    return [index for index, layer in enumerate(cache.layers) if hasattr(layer, "conv_states") and not _names(layer)]


def read_state(cache: Cache, state: State) -> torch.Tensor:
    """The tensor itself, not copied."""
    layer: Any = cache.layers[state.layer]
    if state.name in ("key", "value"):
        return getattr(layer, f"{state.name}s")
    if state.name == "index":
        return layer.indexer_keys
    kind, index = _split(state.name)
    return getattr(layer, f"{kind}_states")[index]


def write_state(cache: Cache, state: State, tensor: torch.Tensor) -> None:
    """Let a layer of a dynamic cache keep this tensor, all of the text's positions if it is one that grows."""
    layer: Any = cache.layers[state.layer]
    if state.name in ("key", "value"):
        if not layer.is_initialized:
            layer.dtype, layer.device, layer.is_initialized = tensor.dtype, tensor.device, True
        setattr(layer, f"{state.name}s", tensor)
    elif state.name == "index":
        layer.indexer_dtype, layer.indexer_device = tensor.dtype, tensor.device
        layer.indexer_keys, layer.is_indexer_initialized = tensor, True
    else:
        kind, index = _split(state.name)
        if layer.device is None:
            layer.dtype, layer.device = tensor.dtype, tensor.device
        getattr(layer, f"{kind}_states")[index] = tensor
        getattr(layer, f"is_{kind}_states_initialized")[index] = True
        layer.has_previous_state[index] = True
        if kind == "conv":
            layer.conv_kernel_size[index] = tensor.shape[-1]


def full_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache, every layer of which keeps all positions; a layer that keeps nothing stays such."""
    cache = DynamicCache()
    cache.layers = [_full(layer) for layer in DynamicCache(config=config).layers]
    return cache


def _full(layer: Any) -> Any:
    if type(layer) is DynamicSlidingWindowLayer:
        return DynamicLayer()
    if type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
        return LinearAttentionAndFullAttentionLayer(number_of_states=layer.number_of_states)
    return layer


def named_to_cache(tensors: Mapping[str, torch.Tensor], config: PreTrainedConfig, length: int) -> DynamicCache:
    """A cache that keeps all positions, from tensors by their names in a graph, which are not copied."""
    cache = full_cache(config)
    for name, tensor in tensors.items():
        _, layer, state = name.split(".")
        write_state(cache, State(int(layer), state), tensor)
    note_seen(cache, length)
    return cache


def keeps_states(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration keeps anything else than keys and values."""
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # transformers makes no cache for it, and says so where one is asked for
        return False
    return any(hasattr(layer, "conv_states") or hasattr(layer, "indexer_keys") for layer in layers)


def note_seen(cache: Cache, length: int) -> None:
    """Let a cache tell how many tokens it has read, even if nothing in it grows."""
    noted: Any = cache
    noted.seen_tokens = length


def seen_tokens(cache: Cache) -> int | None:
    """How many tokens a cache has read, padding included; None where it keeps nothing that grows, and does not tell.

    A cache that one of our loops filled tells in any case: its attribute ``seen_tokens``.
    """
    if any(hasattr(layer, "get_seq_length") for layer in cache.layers) or not cache.layers:
        # of the first layers nothing is here where they are in another process
        return int(cache.get_seq_length()) or max((_seen(layer) for layer in cache.layers), default=0)
    if hasattr(cache, "seen_tokens"):
        return int(cache.seen_tokens)
    return None if any(fixed_names(layer) for layer in cache.layers) else 0


def cache_argument(model: torch.nn.Module) -> str:
    """What a model's forward calls its cache: models without attention say ``cache_params``."""
    accepts = inspect.signature(model.forward).parameters
    return "cache_params" if "cache_params" in accepts and "past_key_values" not in accepts else "past_key_values"


def _names(layer: Any) -> list[str]:
    keys = getattr(layer, "keys", None)
    names = ["key", "value"] if isinstance(keys, torch.Tensor) and keys.ndim == 4 else []
    names += fixed_names(layer)
    return [*names, "index"] if isinstance(getattr(layer, "indexer_keys", None), torch.Tensor) else names


def _split(name: str) -> tuple[str, int]:
    kind, _, index = name.partition("_")
    return kind, int(index or 0)


def _seen(layer: Any) -> int:
    counts = getattr(layer, "is_initialized", False) and hasattr(layer, "get_seq_length")  # a placeholder does not
    return int(layer.get_seq_length()) if counts else 0
