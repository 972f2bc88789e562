"""The sizes of a model's cache, from its configuration: of keys and values, and of all that some models keep."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig

from decodeloop.caches.buffer_pool import no_room
from decodeloop.caches.layers import kv_layers
from decodeloop.caches.states import State, cache_argument, keeps_states, read_state, states_of
from decodeloop.checks import check_count, shown


def kv_shape(config: PreTrainedConfig) -> tuple[int, int, int]:
    """``(layers, key/value heads, head size)`` of a decoder's cache, read off its configuration.

    Raises
    ------
    ValueError
        If the model caches something else than its heads' keys and values (multi-head latent attention).
    """
    config = config.get_text_config(decoder=True)
    if getattr(config, "kv_lora_rank", None):
        raise ValueError(
            f"{config.model_type} caches latent vectors (kv_lora_rank={config.kv_lora_rank}), whose shape its "
            "configuration does not tell: run the model once and see cache_to_tensors."
        )
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None)
    if kv_heads is None:
        shared = getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False)
        kv_heads = 1 if shared else heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, kv_heads, size


def empty_tensors(
    config: PreTrainedConfig,
    batch: int = 1,
    *,
    length: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[torch.Tensor]:
    """Flat zero tensors of a model's cache: of no length to start from, or of a fixed length as buffers.

    Returns
    -------
    list of torch.Tensor
        Two for each layer, ``[batch, key/value heads, length, head size]``; of a model that keeps states of fixed
        size, those too, zeros, in the order of :func:`cache_to_tensors`.

    Raises
    ------
    ValueError
        If an argument cannot be used.
    MemoryError
        If there is no room.
    """
    batch, length = check_count("batch", batch), check_count("length", length)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={shown(dtype)}: expected a torch.dtype, such as torch.float32.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f'device={shown(device)}: expected "cpu", or "cuda" where torch sees a GPU.') from error
    if keeps_states(check_config(config)):
        made = [
            (_sized(state, shape, batch, length), own) for state, (shape, own) in state_shapes(config, dtype).items()
        ]
    else:
        made = [((batch, heads, length, size), dtype) for heads, size in layer_shapes(config) for _ in range(2)]
    try:
        return [torch.zeros(shape, dtype=own, device=device) for shape, own in made]
    except RuntimeError as error:
        raise no_room(device, sum(own.itemsize * math.prod(shape) for shape, own in made)) from error


def _sized(state: State, shape: tuple[int, ...], batch: int, length: int) -> tuple[int, ...]:
    return batch, *(length if dim == state.grows else size for dim, size in enumerate(shape) if dim)


def check_config(config: Any) -> PreTrainedConfig:
    """A model's configuration.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(f"config={shown(config)}: expected a transformers configuration, model.config.")
    return config


def layer_shapes(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """``(heads, head size)`` of each layer that keeps keys and values: layers may differ, or borrow another's."""
    cache = DynamicCache(config=config)
    own = {id(layer) for layer in kv_layers(cache)}
    config = config.get_text_config(decoder=True)
    each = getattr(config, "per_layer_config", None) or [config] * len(cache.layers)
    return [kv_shape(c)[1:] for c, layer in zip(each, cache.layers, strict=False) if id(layer) in own]


def check_heads(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], config: PreTrainedConfig) -> None:
    if getattr(config.get_text_config(decoder=True), "kv_lora_rank", None):
        return  # what is cached is not of the heads' size
    for index, ((keys, _), expected) in enumerate(zip(pairs, layer_shapes(config), strict=True)):
        if (keys.shape[1], keys.shape[3]) != expected:
            raise ValueError(
                f"layer {index} has {keys.shape[1]} heads of size {keys.shape[3]}; the configuration "
                f"({config.model_type}) has {expected[0]} of size {expected[1]}. Do they belong to the same model?"
            )


Shapes = dict[State, tuple[tuple[int, ...], torch.dtype]]


def state_shapes(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Shapes:
    """Shape of each state for one row and one token, and its dtype, in a model of this configuration and dtype.

    Read off the model itself, which is built without memory (on the ``meta`` device) and run: configurations do not
    tell, each names its sizes in its own way.

    Raises
    ------
    ValueError
        If transformers has no such model, or it does not run that way.
    """
    return dict(_state_shapes(_Settings(config), dtype))


class _Settings:
    """A configuration that equals another one which says the same."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config, self.key = config, (type(config), config.to_json_string(use_diff=False))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self.key == other.key


@functools.lru_cache(maxsize=16)
def _state_shapes(settings: _Settings, dtype: torch.dtype) -> tuple[tuple[State, Any], ...]:
    config = copy.deepcopy(settings.config)
    try:
        with torch.device("meta"), torch.no_grad():
            options = {"experts_implementation": "batched_mm", "trust_remote_code": False}
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, **options).eval()
            cache = DynamicCache(config=config)
            ids = torch.zeros(1, 1, dtype=torch.int64)
            model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})
    except Exception as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"what a model of type {config.model_type} keeps is not known ({said[0][:120]}): run it once, and see "
            "cache_to_tensors."
        ) from error
    tensors = ((state, read_state(cache, state)) for state in states_of(cache))
    return tuple((state, (tuple(tensor.shape), tensor.dtype)) for state, tensor in tensors)


def check_states(tensors: Sequence[torch.Tensor], config: PreTrainedConfig, batch: int | None = None) -> list[State]:
    """Which state each flat tensor is, of a model that keeps more than keys and values.

    Raises
    ------
    ValueError
        If their number or a shape is not the model's, or their rows are not ``batch``.
    """
    shapes = state_shapes(config)
    if len(tensors) != len(shapes):
        raise ValueError(
            f"{len(tensors)} tensors; the configuration ({config.model_type}) keeps {len(shapes)}: "
            f"{', '.join(state.input for state in list(shapes)[:4])}, ... Do they belong to the same model?"
        )
    batch = len(tensors[0]) if batch is None else batch
    for (state, (shape, _)), tensor in zip(shapes.items(), tensors, strict=True):
        expected = [batch, *shape[1:]]
        got = list(tensor.shape)
        if state.grows is not None and len(got) == len(expected):
            expected[state.grows] = got[state.grows]
        if got != expected:
            raise ValueError(
                f"{state.input} has shape {list(tensor.shape)}; the configuration ({config.model_type}) and "
                f"{batch} rows ask for {expected}. Do they belong to the same model?"
            )
    return list(shapes)
