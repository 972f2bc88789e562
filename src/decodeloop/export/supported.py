"""Which models an export covers: what a graph's inputs cannot hold is refused, in one line."""

from __future__ import annotations

import re
import sys
from typing import Any

from transformers import DynamicCache, PreTrainedModel, cache_utils
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from decodeloop.caches.states import keeps_states
from decodeloop.models.given import check_decoder

#: Kinds of cache layers all of whose tensors have a name in a graph; the last one has none, and is younger than 5.17.
CACHE_LAYERS = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    DynamicIndexedLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    getattr(cache_utils, "DummyLayer", None),
)


def refuse(model: PreTrainedModel) -> None:
    """Raise ValueError, in one line, if the graph's inputs cannot hold what the model needs; else do nothing."""
    name, config = type(model).__name__, model.config.get_text_config(decoder=True)
    check_decoder(model)
    if getattr(config, "add_cross_attention", False):
        raise ValueError(f"{name} has cross-attention, to what an encoder made: expected a decoder-only model.")
    scaling = getattr(config, "rope_parameters", None) or {}
    if any("dynamic" in str(p.get("rope_type")) for p in [scaling, *scaling.values()] if isinstance(p, dict)):
        raise ValueError(f"{name}'s rotary frequencies change with the length of the text: a graph has one set.")
    try:
        layers: list[Any] = DynamicCache(config=model.config).layers
    except Exception as error:
        raise ValueError(f"transformers makes no cache for {name}: {one_line(error)}") from error
    for index, layer in enumerate(layers):
        if type(layer) not in CACHE_LAYERS:
            kind = (getattr(config, "layer_types", None) or {}) and config.layer_types[index]
            raise ValueError(
                f"{name}'s cache holds what a graph has no name for: layer {index} is a {type(layer).__name__}"
                f"{f' ({kind})' if kind else ''}."
            )
    modules = {sys.modules[type(module).__module__] for module in model.modules()}
    hides = any(re.match(r"create_(sliding|chunked).*mask", function) for module in modules for function in dir(module))
    if any(getattr(layer, "is_sliding", False) for layer in layers) and not hides:
        raise ValueError(
            f"{name}'s cache forgets what lies outside its window of {config.sliding_window}, and its mask does not "
            "hide it: the prompt sees all of the text and the answer does not, and a graph has one way."
        )


def refuse_states(model: PreTrainedModel) -> None:
    """Raise ValueError if the model keeps more than keys and values: GroupQueryAttention has buffers for no more."""
    config = model.config.get_text_config(decoder=True)
    if keeps_states(config):
        raise ValueError(
            f"{type(model).__name__} keeps states besides keys and values (or instead of them), and a fused graph has "
            'buffers for keys and values alone: use exporter="dynamo".'
        )


def one_line(error: BaseException) -> str:
    """The first line of the error at the root of a chain of them, and its type."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {first[:200]}"
