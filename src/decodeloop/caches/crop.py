"""Rewind a cache to an earlier point of its text, whatever the kind of cache and the version of transformers."""

from __future__ import annotations

from transformers.cache_utils import Cache, StaticLayer

from decodeloop.caches.layers import is_empty, kv_layers, read_layer, tokens_needed, write_layer
from decodeloop.caches.states import fixed_names, seen_tokens
from decodeloop.checks import check_count


def crop_cache(cache: Cache, length: int) -> Cache:
    """Rewind a cache, in place, to the first ``length`` tokens of its text: the next token is then number ``length``.

    transformers' own ``Cache.crop`` took this length in some versions and takes minus the number of tokens to remove
    in others, and static caches have none.

    Parameters
    ----------
    cache : transformers Cache
        Dynamic or static; buffers of a static cache keep their addresses, and what was cut off is zeroed.
    length : int
        From 0 to the cache's own length. The batch counts together: padding on the left is part of it.

    Returns
    -------
    Cache
        The same object.

    Raises
    ------
    ValueError
        If the cache is shorter than that, if a layer with a sliding window has already dropped tokens that the
        shorter text would need, or if a layer keeps a convolution or recurrent state, which has all of the text in one
        tensor. The cache is then as it was.
    """
    layers = [layer for layer in kv_layers(cache) if not is_empty(layer)]
    fixed = [(index, name) for index, layer in enumerate(cache.layers) for name in fixed_names(layer)]
    if fixed and check_count("length", length) != seen_tokens(cache):
        raise ValueError(
            f"cannot rewind to {length} tokens: layer {fixed[0][0]} keeps a {fixed[0][1]} state, from which no token "
            "can be taken out. Read the text again, or keep a copy of the cache from before, copy.deepcopy(cache)."
        )
    if fixed:
        return cache
    states = [read_layer(layer) for layer in layers]
    total = max((state[2] for state in states), default=0)
    check_count("length", length, 0, total, note="the tokens of the cache")
    kept = [max(keys.shape[2] - (total - length), 0) for keys, _, _ in states]
    for index, (layer, count) in enumerate(zip(layers, kept, strict=True)):
        needed = tokens_needed(layer, length)
        if count < needed:
            raise ValueError(
                f"cannot rewind from {total} tokens to {length}: layer {index} has a sliding window, and of the "
                f"{needed} tokens before that point it dropped the first {needed - count}. Read the text again, or "
                "keep a copy of the cache from before."
            )
    for layer, (keys, values, _), count in zip(layers, states, kept, strict=True):
        write_layer(layer, keys[:, :, :count], values[:, :, :count], length)
        if getattr(layer, "indexer_keys", None) is not None and not isinstance(layer, StaticLayer):
            layer.indexer_keys = layer.indexer_keys[:, :count]
    return cache
