"""Decode loops on PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, Unpack, overload

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from decodeloop.caches.convert import check_cache, tensors_to_cache
from decodeloop.decoding.engine import Past
from decodeloop.decoding.loop import DecodeOptions, RunOptions, decode, run
from decodeloop.decoding.prompt import Prompt


class TorchEngine:
    """A transformers decoder with a cache that grows: :class:`decodeloop.decoding.engine.Engine` on PyTorch."""

    runs_async = False  # a sliding window cannot be rewound

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        accepts = inspect.signature(model.forward).parameters
        self.model, self.config = model, config
        self.name, self.device = type(model).__name__, model.device
        self.vocab_size = config.vocab_size
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self.eos_token_id = model.generation_config.eos_token_id
        self.pad_token_id = model.generation_config.pad_token_id
        self.generation = 0
        self._accepts_positions = "position_ids" in accepts
        self._keeps = "logits_to_keep" in accepts

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        self.generation += 1
        self.prompt = prompt
        if past is None:
            # a sliding layer forgets what leaves its window; one that rewinds may want it back
            self.past: Cache = DynamicCache() if rewinds else DynamicCache(config=self.config)
        else:
            self.past = checked(past, self.config, len(prompt.input_ids))
        self.length = int(self.past.get_seq_length())
        return self.length

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        self.length += tokens.shape[1]
        inputs: dict[str, Any] = {"attention_mask": self.prompt.mask(self.length)}
        if self._accepts_positions:
            inputs["position_ids"] = self.prompt.positions(self.length, tokens.shape[1])
        if self._keeps and not all_logits:
            inputs["logits_to_keep"] = 1
        return self.model(input_ids=tokens, past_key_values=self.past, use_cache=True, **inputs).logits

    def rewind(self, count: int) -> None:
        if count:
            self.past.crop(-count)
            self.length -= count

    def cache(self) -> Cache:
        return self.past


def checked(past: Past, config: PreTrainedConfig, batch: int) -> Cache:
    """What a user hands on as a cache, if it can be this model's for so many rows; flat tensors are copied.

    Raises
    ------
    ValueError
        If layers, heads, head size, lengths or rows are not the model's and the prompt's.
    """
    cache = past if isinstance(past, Cache) else tensors_to_cache(past, config)
    check_cache(cache, config, batch)
    return cache


@overload
def generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    return_cache: Literal[False] = False,
    **options: Unpack[RunOptions],
) -> torch.Tensor: ...
@overload
def generate(
    model: PreTrainedModel, input_ids: torch.Tensor, *, return_cache: Literal[True], **options: Unpack[RunOptions]
) -> tuple[torch.Tensor, Past | None]: ...
def generate(
    model: PreTrainedModel, input_ids: torch.Tensor, *, return_cache: bool = False, **options: Unpack[RunOptions]
) -> torch.Tensor | tuple[torch.Tensor, Past | None]:
    """Continue a batch of prompts on PyTorch: one pass over the prompt, then one token at a time through the cache.

    Parameters
    ----------
    model : transformers PreTrainedModel
        A decoder, on any device.
    input_ids : torch.Tensor
        int ``[batch, length]``; shorter rows are padded on the left.
    attention_mask : torch.Tensor, optional
        int ``[batch, length]``, 0 for padding. Default: no padding.
    max_new_tokens : int, default 100
        At most so many tokens are added; 0 returns the prompt.
    max_length : int, optional
        At most so many tokens in all, padding included; given, it replaces ``max_new_tokens``.
    eos_token_id : int, sequence of int, None or "model", default "model"
        The tokens that end a row. ``"model"`` takes the model's own, None never stops early.
    pad_token_id : int or "model", default "model"
        What fills a row that ended before the others. ``"model"`` takes the model's own, else the first
        end-of-sequence token.
    stop_strings : str or sequence of str, optional
        Texts that end a row as well; needs ``tokenizer``. The token in which a text ends is kept.
    tokenizer : transformers tokenizer, optional
        The model's.
    sampler : Sampler, optional
        How the next token is chosen. Default: greedy, the most probable one.
    lookup : PromptLookup, optional
        Guess tokens from the text so far: the same greedy tokens in fewer passes. One row only.
    past_key_values : transformers Cache, or flat tensors, optional
        What an earlier call returned with ``return_cache``: its part of the text is not read again. ``input_ids`` is
        still the whole text. The cache is extended in place.
    return_cache : bool, default False
        Also return the cache, which then holds all of the text but its last token.
    on_token : callable, optional
        Called after each step with that step's tokens, ``[batch]``.
    streamer : transformers streamer, optional
        ``TextStreamer`` and the like: gets the prompt, then each step's tokens.
    progress : bool, default False
        Show a progress bar, if somebody watches: only on a terminal.

    Returns
    -------
    torch.Tensor, or (torch.Tensor, transformers Cache)
        int64 ``[batch, length + new tokens]`` on the device of ``input_ids``: the prompt, the answer with its
        end-of-sequence token where one came, then padding. Greedily, the tokens of ``model.generate``.

    Raises
    ------
    ValueError
        If an argument cannot be used; the message names it and what was expected.

    Examples
    --------
    >>> import decodeloop
    >>> loaded = decodeloop.load(device="cpu")
    >>> prompt = loaded.tokenizer("def square(x):", return_tensors="pt").input_ids
    >>> tokens = decodeloop.generate(loaded.model, prompt, max_new_tokens=20)
    >>> tokens.shape[1] <= prompt.shape[1] + 20
    True
    >>> tokens, cache = decodeloop.generate(loaded.model, prompt, max_new_tokens=2, return_cache=True)
    >>> cache.get_seq_length() == tokens.shape[1] - 1  # nothing has read the last token yet
    True
    """
    engine = TorchEngine(model)
    return run(engine, input_ids, return_cache=True, **options) if return_cache else run(engine, input_ids, **options)


def stream(model: PreTrainedModel, input_ids: torch.Tensor, **options: Unpack[DecodeOptions]) -> Iterator[torch.Tensor]:
    """The tokens of :func:`generate` as they come: an iterator of int64 ``[batch]``, one item for each step.

    Closing the iterator stops the decoding. Keywords are those of :func:`generate`, less the last four; they are
    checked at once, before the first token is asked for.
    """
    return decode(TorchEngine(model), input_ids, **options)
