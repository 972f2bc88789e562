"""A model that is spread over several processes, the *ranks*: what of it this one holds, and what all must agree on.

`Tensor parallelism <https://arxiv.org/abs/1909.08053>`_ gives each rank some heads of every layer, so its cache has
fewer heads than the configuration says, and its weights are parts (``DTensor``) of what the model's say they are.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

#: Of each spread model: the heads and the head size that this rank caches of every layer.
_HEADS: WeakKeyDictionary[PreTrainedModel, tuple[int, int]] = WeakKeyDictionary()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that is spread; any other as it is."""
    given: Any = tensor
    return given.to_local() if hasattr(given, "to_local") else tensor


def is_spread(model: torch.nn.Module) -> bool:
    """Whether this rank holds parts of the model's tensors only."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def is_split(layer: torch.nn.Linear) -> bool:
    """Whether the layer's product is the same on this rank's part alone: its weight is whole, or some of its rows."""
    placements: Any = getattr(layer.weight, "placements", ())
    return all(placement.is_shard(0) or placement.is_replicate() for placement in placements)


def rank_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The decoder's configuration, with the heads that this rank caches in place of the model's.

    Which ones these are is found by watching the model read one token, so every rank has to ask; once, for each model.

    Raises
    ------
    ValueError
        If the heads cannot be shared out among the ranks, or if layers differ in them.
    """
    config = model.config.get_text_config(decoder=True)
    if not is_spread(model):
        return config
    if model not in _HEADS:
        _HEADS[model] = _watched(model, config)
    own: Any = copy.copy(config)
    own.num_key_value_heads, own.head_dim = _HEADS[model]
    return own


@torch.no_grad()
def _watched(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[int, int]:
    cache = DynamicCache(config=config)
    try:
        token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        model(input_ids=token, past_key_values=cache, use_cache=True)
    except RuntimeError as error:  # no rank has waited for another one: all of them fail at the same reshape
        said: Any = config
        heads = {said.num_attention_heads, getattr(said, "num_key_value_heads", None) or said.num_attention_heads}
        ranks = max(p.device_mesh.size() for p in model.parameters() if hasattr(p, "device_mesh"))
        raise ValueError(
            f"{type(model).__name__} has {' and '.join(map(str, sorted(heads)))} heads, and is spread over {ranks} "
            f"ranks: expected a number of ranks that divides them ({str(error).splitlines()[0]})."
        ) from error
    keys = [getattr(layer, "keys", None) for layer in cache.layers]
    found = {(each.shape[1], each.shape[3]) for each in keys if each is not None}
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} is spread over several ranks, and its layers cache heads of different numbers or "
            f"sizes: {sorted(found)}. Run it in one process, or by replicas."
        )
    return found.pop()


def shared_seed(model: PreTrainedModel) -> int | None:
    """A seed that all ranks of a spread model have in common, drawn by the first one; None for a model of one process.

    It comes from torch's global generator there, so that ``torch.manual_seed`` counts.
    """
    mesh: Any = getattr(model, "_device_mesh", None)  # transformers', which has its stages too
    if mesh is None:
        mesh = next((p.device_mesh for p in model.parameters() if hasattr(p, "device_mesh")), None)
    if mesh is None or mesh.size() == 1:
        return None
    seed = torch.randint(2**63 - 1, (1,)).to(model.device)
    for dim in range(mesh.ndim):
        dist.broadcast(seed, group=mesh.get_group(dim), group_src=0)
    return int(seed)
