"""Decode loops on PyTorch."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import Any, Literal, NoReturn, Unpack, overload

import torch
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

from decodeloop.caches.layers import REWINDABLE
from decodeloop.caches.past import flat_past, past_cache, past_length
from decodeloop.caches.states import cache_argument, keeps_states, note_seen, seen_tokens, silent_layers
from decodeloop.checks import check_choice
from decodeloop.decoding.engine import Likeliest, Past
from decodeloop.decoding.loop import DecodeOptions, RunOptions, decode, run
from decodeloop.decoding.prompt import Prompt
from decodeloop.models.given import as_model, check_decoder
from decodeloop.models.load import LoadedModel
from decodeloop.models.rope import check_rope_length
from decodeloop.models.spread import rank_config, shared_seed


class TorchEngine:
    """A transformers decoder with a cache that grows: :class:`decodeloop.decoding.engine.Engine` on PyTorch.

    Raises
    ------
    ValueError
        If the model is none that continues a text by a cache of keys and values.
    """

    runs_async = False  # a sliding window cannot be rewound

    def __init__(self, model: PreTrainedModel | LoadedModel) -> None:
        model = as_model(model)
        check_decoder(model)
        config = rank_config(model)
        accepts = inspect.signature(model.forward).parameters
        self.model, self.config = model, config
        self.name, self.device = type(model).__name__, model.device
        self.vocab_size = config.vocab_size
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self.generation, self.lock = 0, threading.RLock()
        self.cache_argument = cache_argument(model)
        self._keeps_states = keeps_states(config)
        self._accepts_positions = "position_ids" in accepts
        self._keeps = "logits_to_keep" in accepts
        self._reread_after = _reread_after(model)

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own, as it is now."""
        return getattr(self.model, "generation_config", None) or GenerationConfig()

    def shared_seed(self) -> int | None:
        """A seed that all processes have in common which run this model together; None where it is one."""
        return shared_seed(self.model)

    def check(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        past: Past | None = None,
        rewinds: bool = False,
        all_logits: bool = False,
    ) -> None:
        if not rewinds:
            return
        check_rope_length(
            self.config, prompt.input_ids.shape[1] + max_new_tokens, self.name, "lookup reads across that"
        )
        kept = past if isinstance(past, Cache) and getattr(past, "layers", None) else DynamicCache(config=self.config)
        fixed = next((layer for layer in kept.layers if type(layer) not in REWINDABLE), None)
        if fixed is not None:
            self._refuse_rewinding(type(fixed).__name__)

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        self.generation += 1
        self.prompt = prompt
        batch, length = prompt.input_ids.shape
        self.past: Cache = DynamicCache(config=self.config) if past is None else self._taken(past, batch, length)
        self._check_room(capacity)
        if rewinds:
            self.past.activate_past_recording()
        self.length = past_length(self.past)
        self.text = prompt.input_ids[:, : self.length]
        return self.length

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        new, before = tokens.shape[1], self.length
        if before and new > 1 and self._keeps_states:  # some models begin with an empty state where several come
            return torch.cat([self.forward(column, all_logits) for column in tokens.split(1, dim=1)], dim=1)
        self.length += new
        if self._reread_after is not None:
            self.text = torch.cat([self.text, tokens], dim=-1)
            if 0 < before <= self._reread_after < self.length:
                tokens, self.past = self.text, DynamicCache(config=self.config)
        mask = self.prompt.mask(self.length)
        if self.cache_argument != "past_key_values":  # no attention: the mask says which of the new ones are padding
            mask = mask[:, -tokens.shape[1] :]
        inputs: dict[str, Any] = {"attention_mask": mask, self.cache_argument: self.past}
        if self._accepts_positions:
            inputs["position_ids"] = self.prompt.positions(self.length, tokens.shape[1])
        if self._keeps and not all_logits:
            inputs["logits_to_keep"] = 1
        logits = self.model(input_ids=tokens, use_cache=True, **inputs).logits
        held = seen_tokens(self.past)
        if before == 0 and held is not None and held != self.length:
            raise ValueError(
                f"{self.name} read {self.length} tokens and put {held} into its cache: expected a decoder, which keeps "
                "the keys and values of all that it has read."
            )
        note_seen(self.past, self.length)
        return logits[:, -new:]

    def likeliest(self) -> Likeliest | None:
        """None: nothing is looked for before it is asked for."""
        return None

    def rewind(self, count: int) -> None:
        self.past.crop(-count)  # of 0 too: what was recorded to be rewound is let go of
        self.length -= count
        self.text = self.text[:, : self.length]

    def cache(self) -> Cache:
        if lost := silent_layers(self.past):
            raise ValueError(
                f"{self.name} keeps what layer {lost[0]} remembers in its modules, so its cache cannot be handed on: "
                "leave return_cache out."
            )
        for layer in self.past.layers:
            if hasattr(layer, "record_past"):
                layer.record_past = False
        return self.past

    def _refuse_rewinding(self, what: str) -> NoReturn:
        raise ValueError(
            f"lookup rewinds the cache of {self.name} where a guess was wrong, and a {what} cannot be rewound: "
            "leave lookup out."
        )

    def _taken(self, past: Past, batch: int, length: int) -> Cache:
        if not isinstance(past, Cache):
            past = [tensor.to(self.device) for tensor in flat_past(past)]
            if not self._keeps_states:  # states have dtypes of their own
                past = [tensor.to(self.model.dtype) for tensor in past]
        return past_cache(past, self.config, batch, length)

    def _check_room(self, capacity: int) -> None:
        for layer in self.past.layers:
            if isinstance(layer, StaticLayer) and not layer.is_sliding and layer.max_cache_len < capacity - 1:
                raise ValueError(
                    f"past_key_values has room for {layer.max_cache_len} positions, and this needs {capacity - 1}: "
                    "give a StaticCache of that length, or hand on cache_to_tensors(past_key_values), which grows."
                )


def _reread_after(model: PreTrainedModel) -> int | None:
    """The length beyond which ``generate`` reads the text again, since its keys were made with other frequencies.

    The Phi-3 family does (longrope): its own ``prepare_inputs_for_generation`` forgets the cache there, once.
    """
    own = getattr(type(model), "prepare_inputs_for_generation", None)
    if own is None or own is GenerationMixin.prepare_inputs_for_generation:
        return None
    return getattr(model.config, "original_max_position_embeddings", None)


@overload
def generate(
    model: PreTrainedModel | LoadedModel,
    input_ids: torch.Tensor,
    *,
    return_cache: Literal[False] = False,
    **options: Unpack[RunOptions],
) -> torch.Tensor: ...
@overload
def generate(
    model: PreTrainedModel | LoadedModel,
    input_ids: torch.Tensor,
    *,
    return_cache: Literal[True],
    **options: Unpack[RunOptions],
) -> tuple[torch.Tensor, Past | None]: ...
def generate(
    model: PreTrainedModel | LoadedModel,
    input_ids: torch.Tensor,
    *,
    return_cache: bool = False,
    **options: Unpack[RunOptions],
) -> torch.Tensor | tuple[torch.Tensor, Past | None]:
    """Continue a batch of prompts on PyTorch: one pass over the prompt, then one token at a time through the cache.

    Parameters
    ----------
    model : transformers PreTrainedModel, or LoadedModel
        A decoder, on any device. What :func:`decodeloop.load` returns brings its tokenizer along.
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
        How the next token is chosen. Default: greedy, the most probable one, as the model's generation_config has it.
    lookup : PromptLookup or DraftModel, optional
        Guess tokens from the text so far, or let a cheaper model guess them: the same greedy tokens in fewer passes, or
        with a sampler tokens of the same distribution. One row only.
    past_key_values : transformers Cache, or flat tensors, optional
        What an earlier call returned with ``return_cache``: its part of the text is not read again. ``input_ids`` is
        still the whole text. The cache is extended in place; an empty one, ``DynamicCache()``, is filled.
    prefill_chunk : int, optional
        Read the prompt so many tokens at a time: the same tokens, up to rounding, and what a pass needs besides weights
        and cache does not grow with the prompt. Default: the whole prompt in one pass.
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
        If an argument cannot be used, the message names it and what was expected; or if a row has no token to choose,
        since all are banned or the model overflowed.

    Notes
    -----
    Without a sampler the tokens are those of ``model.generate(input_ids, do_sample=False)``, so what the checkpoint's
    ``generation_config`` says is done, by the processors that transformers makes of it: penalties, bans, suppressed
    and forced tokens, biases, least lengths, watermarks; its end tokens, ``stop_strings`` (which need the tokenizer)
    and ``max_time`` end a row. How many tokens are written is this function's own: ``max_length`` and
    ``max_new_tokens`` of the configuration are not read, and what only concerns drawing (``temperature``, ``top_p``)
    has no effect. Beams, contrastive search, DoLa, guidance, constraints and token healing are refused in one line,
    which names the setting. With a sampler, the sampler alone says how tokens are chosen.

    A model of the Phi-3 family whose rotary embeddings have a second set of frequencies (longrope) reads its text
    again once, when it outgrows ``original_max_position_embeddings``, as ``generate`` does.

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
    if isinstance(model, LoadedModel):
        options.setdefault("tokenizer", model.tokenizer)
    engine = TorchEngine(model)
    check_choice("return_cache", return_cache, True, False)
    return run(engine, input_ids, return_cache=True, **options) if return_cache else run(engine, input_ids, **options)


def stream(
    model: PreTrainedModel | LoadedModel, input_ids: torch.Tensor, **options: Unpack[DecodeOptions]
) -> Iterator[torch.Tensor]:
    """The tokens of :func:`generate` as they come: an iterator of int64 ``[batch]``, one item for each step.

    Closing the iterator stops the decoding. Keywords are those of :func:`generate`, less the last four; they are
    checked at once, before the first token is asked for.
    """
    if isinstance(model, LoadedModel):
        options.setdefault("tokenizer", model.tokenizer)
    return decode(TorchEngine(model), input_ids, **options)
