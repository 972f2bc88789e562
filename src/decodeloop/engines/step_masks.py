"""What the token of a step may see, for each kind of attention layers: masks that a step changes in place.

All layers keep all positions. What a layer with a window must not see, its mask hides: a position is seen by the tokens
from its own on, up to a last one, after which it has left the window.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from decodeloop.caches.layers import PLACEHOLDER
from decodeloop.decoding.prompt import Prompt


@dataclass(frozen=True)
class Window:
    """How many positions a layer sees: the last ``size``, or in chunks, those of the token's own chunk of ``size``."""

    size: int
    chunked: bool = False

    def last_seen_by(self, columns: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """The last position that sees each of ``columns`` ``[capacity]``, in rows of ``padding`` ``[batch, 1]``.

        Chunks are counted from the row's first token; a window takes positions of padding for others, as transformers
        does.
        """
        passed = (columns - padding) % self.size if self.chunked else torch.zeros_like(padding)
        return columns + self.size - 1 - passed


#: The kinds of attention layers by name, each with its window; None sees all.
Kinds = dict[str, Window | None]


def attention_kinds(config: PreTrainedConfig) -> Kinds:
    """The kinds of attention layers that a model has, by transformers' names for them."""
    config = config.get_text_config(decoder=True)
    layers: list[Any] = DynamicCache(config=config).layers
    names = getattr(config, "layer_types", None) or ["attention"] * len(layers)
    chunk = None if getattr(config, "sliding_window", None) else getattr(config, "attention_chunk_size", None)
    kinds: Kinds = {}
    for name, layer in zip(names, layers, strict=False):  # layers that borrow a cache may have none
        if hasattr(layer, "keys") and not isinstance(layer, PLACEHOLDER):
            window = layer.sliding_window if layer.is_sliding else None
            chunked = name == "chunked_attention" or (name == "attention" and window == chunk)
            kinds[name] = None if window is None else Window(int(window), chunked)
    return kinds


@torch.no_grad()
def takes_masks(model: PreTrainedModel, kinds: Kinds) -> bool:
    """Whether a model can be given one mask for each kind of its layers: it reads one token so."""
    if len(set(kinds.values())) < 2:
        return True
    ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)
    with contextlib.suppress(Exception):  # whatever a model says that expects a tensor
        model(input_ids=ids, attention_mask=for_layers(dict.fromkeys(kinds, mask), model.config), use_cache=False)
        return True
    return False


def for_layers(masks: dict[str, torch.Tensor], config: PreTrainedConfig) -> Any:
    """Masks in the form that models take them: one for all layers, or by kinds, of which some have none."""
    names = getattr(config.get_text_config(decoder=True), "layer_types", None) or []
    return dict.fromkeys(names) | masks if len(masks) > 1 else next(iter(masks.values()), None)


class StepMasks:
    """One mask for each kind of layers, added to the scores, ``[batch, 1, 1, capacity]``.

    Parameters
    ----------
    config : transformers PreTrainedConfig
    batch, capacity : int
    dtype, device
        Of the masks.
    """

    def __init__(
        self, config: PreTrainedConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config, kinds = config, attention_kinds(config)
        if len(set(kinds.values())) == 1:  # whatever they are called
            kinds = {"attention": next(iter(kinds.values()))}
        self.windows = {name: window for name, window in kinds.items() if window is not None}
        self.masks = {name: torch.zeros(batch, 1, 1, capacity, dtype=dtype, device=device) for name in kinds}
        self.columns = torch.arange(capacity, device=device)
        self.last = {
            name: torch.zeros(batch, 1, 1, capacity, dtype=torch.int64, device=device) for name in self.windows
        }
        self.hidden = torch.finfo(dtype).min
        self.given = for_layers(self.masks, config)

    def set_length(self, prompt: Prompt, length: int) -> None:
        """Of ``length`` positions, all tokens are seen; :meth:`advance` takes those back that have left a window."""
        hidden = ~self._tokens(prompt, length)
        padding = (prompt.attention_mask == 0).sum(-1, keepdim=True)
        for mask in self.masks.values():
            mask.zero_().masked_fill_(hidden, self.hidden)
        for name, window in self.windows.items():
            self.last[name].copy_(window.last_seen_by(self.columns, padding)[:, None, None])

    def advance(self, position: torch.Tensor) -> None:
        """What the token at ``position`` ``[1]`` sees: itself too, and no longer what left its window."""
        for name, mask in self.masks.items():
            if name in self.last:
                mask.masked_fill_(self.last[name] < position, self.hidden)
            mask.index_fill_(3, position, 0)

    def of_tokens(self, prompt: Prompt, length: int, new: int) -> Any:
        """What each of the last ``new`` of ``length`` positions sees: such masks ``[batch, 1, new, capacity]``."""
        position = torch.arange(length - new, length, device=self.columns.device)[:, None]
        seen, masks = self._tokens(prompt, length) & (self.columns <= position), {}
        for name, mask in self.masks.items():
            own = seen & (position <= self.last[name]) if name in self.last else seen
            masks[name] = mask.new_zeros(own.shape).masked_fill_(~own, self.hidden)
        return for_layers(masks, self.config)

    def _tokens(self, prompt: Prompt, length: int) -> torch.Tensor:
        """Bool ``[batch, 1, 1, capacity]``: where the first ``length`` positions hold tokens, not padding."""
        return torch.nn.functional.pad(prompt.mask(length), (0, len(self.columns) - length)).bool()[:, None, None]
