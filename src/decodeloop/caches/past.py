"""What is handed on from an earlier generation: checked, and brought into the form that an engine needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache

from decodeloop.caches.convert import cache_to_tensors, tensors_to_cache, tensors_to_legacy, text_length
from decodeloop.caches.layers import kv_layers, read_layer, tokens_needed
from decodeloop.caches.shapes import check_heads, check_states
from decodeloop.caches.states import keeps_states, seen_tokens
from decodeloop.checks import check_dense

_UNTOLD = (
    "past_key_values keeps states of fixed size only, which do not tell how long their text is: expected the cache "
    "that return_cache gave, or tensors_to_cache(tensors, config, length=...)."
)


def past_cache(past: Cache | Sequence[torch.Tensor], config: PreTrainedConfig, batch: int, length: int) -> Cache:
    """A past as a cache that a model can extend: the object itself if it is one, a copy of flat tensors.

    Parameters
    ----------
    past : transformers Cache, or flat tensors
        It may be empty, as ``DynamicCache()`` is.
    config : transformers PreTrainedConfig
        The model's.
    batch, length : int
        Of the text, of which the past holds less.

    Raises
    ------
    ValueError
        If layers, heads, head size, lengths or rows are not the model's and the text's.
    """
    if not isinstance(past, Cache):
        past = tensors_to_cache(flat_past(past), config)
    if _is_unused(past):
        if not past.layers:  # DynamicCache(): it gets the model's kinds of layers
            past.layers.extend(DynamicCache(config=config).layers)
        return past
    total = past_length(past)
    _check_length(total, length)
    if keeps_states(config):
        check_states(cache_to_tensors(past), config, batch)
    own = kv_layers(DynamicCache(config=config))
    try:
        states = [read_layer(layer) for layer in kv_layers(past)]
    except ValueError:
        kept: list[Any] = [getattr(layer, "keys", None) for layer in past.layers]
        _check_rows([each for each in kept if each is not None], batch)
        return past  # it holds what has no name, as a quantized cache does
    if not keeps_states(config):
        check_shapes([tensor for state in states for tensor in state[:2]], config, batch)
    for index, (layer, (keys, _, seen)) in enumerate(zip(own, states, strict=True)):
        if seen != total or not tokens_needed(layer, total) <= keys.shape[2] <= total:
            raise ValueError(
                f"layer {index} of past_key_values holds {keys.shape[2]} tokens of a text of {seen}: expected "
                f"{tokens_needed(layer, total)} of {total}. Is it the cache of another model?"
            )
    return past


def past_tensors(
    past: Cache | Sequence[torch.Tensor],
    config: PreTrainedConfig | None,
    batch: int,
    length: int,
    forgetful: bool = False,
) -> tuple[list[torch.Tensor], int]:
    """A past as flat tensors of all of its text, to be copied into buffers, and its length; none where it is empty.

    ``forgetful``: of a layer with a window, as many of the last positions as it still needs are enough.

    Raises
    ------
    ValueError
        If it is not all there, or not of the text's rows, or no shorter than it.
    """
    if isinstance(past, Cache) and _is_unused(past):
        return [], 0
    tensors = cache_to_tensors(past) if isinstance(past, Cache) else flat_past(past)
    more = config is not None and keeps_states(config)
    growing = tensors
    if config is not None and more:
        states = check_states(tensors, config, batch)
        growing = [tensor for state, tensor in zip(states, tensors, strict=True) if state.name in ("key", "value")]
    pairs = tensors_to_legacy(growing) if growing or not more else ()
    layers = [] if config is None else kv_layers(DynamicCache(config=config))
    layers = layers if len(layers) == len(pairs) else []  # of another model: refused later
    held = sorted({keys.shape[2] for keys, _ in pairs})
    if isinstance(past, Cache):
        seen = past_length(past)
    elif not pairs:
        raise ValueError(_UNTOLD)
    else:
        seen = text_length(pairs, layers) if layers else held[-1]
    _check_length(seen, length)
    if forgetful and layers:
        counts = zip((keys.shape[2] for keys, _ in pairs), layers, strict=True)
        held = sorted(n for n, layer in counts if not tokens_needed(layer, seen) <= n <= seen) or [seen]
    if pairs and held[0] < seen:
        raise ValueError(
            f"past_key_values is of {seen} positions, of which a layer with a sliding window kept the last {held[0]}: "
            "expected all of them, so read the text again, without past_key_values."
        )
    if pairs and held != [seen]:
        raise ValueError(f"the layers of past_key_values hold {held} positions: expected {seen}, all of the text.")
    _check_rows(tensors, batch)
    return tensors, seen


def past_length(cache: Cache) -> int:
    """How many tokens a cache has seen.

    Raises
    ------
    ValueError
        If it does not tell, since nothing in it grows.
    """
    seen = seen_tokens(cache)
    if seen is None:
        raise ValueError(_UNTOLD)
    return seen


def check_shapes(tensors: Sequence[torch.Tensor], config: PreTrainedConfig, batch: int) -> None:
    """Refuse flat tensors that another model filled, or for other rows.

    Raises
    ------
    ValueError
    """
    pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
    expected = len(kv_layers(DynamicCache(config=config)))
    if len(pairs) != expected:
        raise ValueError(
            f"past_key_values has {len(pairs)} layers; the configuration ({config.model_type}) has {expected}. "
            "Is it the cache of another model?"
        )
    check_heads(pairs, config)
    _check_rows(tensors, batch)


def flat_past(past: Any) -> list[torch.Tensor]:
    """What is handed on as flat tensors, if that is what it is.

    Raises
    ------
    ValueError
    """
    if not (isinstance(past, Sequence) and past and all(isinstance(tensor, torch.Tensor) for tensor in past)):
        kinds = sorted({type(item).__name__ for item in past}) if isinstance(past, Sequence) else [type(past).__name__]
        raise ValueError(
            f"past_key_values holds {', '.join(kinds) or 'nothing'}: expected a transformers cache, or tensors, the "
            "keys and the values of each layer in turn, as cache_to_tensors gives them."
        )
    return [check_dense("past_key_values", tensor) for tensor in past]


def _is_unused(cache: Cache) -> bool:
    if not hasattr(cache, "layers"):
        kv_layers(cache)  # says what it is instead
    return not cache.layers or seen_tokens(cache) == 0


def _check_length(seen: int, length: int) -> None:
    if seen >= length:
        raise ValueError(
            f"past_key_values holds {seen} positions and input_ids has {length}: expected the whole text so far, "
            "the cached part included, and at least one token more."
        )


def _check_rows(tensors: Sequence[torch.Tensor], batch: int) -> None:
    rows = sorted({len(tensor) for tensor in tensors} - {batch})
    if rows:
        raise ValueError(f"past_key_values has {rows[0]} rows and input_ids has {batch}: expected the same.")
