"""The decode loop, and the engine that runs it on PyTorch.

An *engine* knows how to run a model and where its cache is; the loop knows everything else. Both the PyTorch engine
here and the ONNX Runtime one in :mod:`decodeloop.onnx_loops` are driven by the same :func:`decode`, so they cannot
differ in how a token is chosen, when a row stops or what its padding is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypedDict, Unpack

import torch
from transformers import DynamicCache, PreTrainedModel

from decodeloop.prompt import Prompt, check_prompt
from decodeloop.sampling import Sampler, greedy


class DecodeOptions(TypedDict, total=False):
    """The keywords that every decode loop takes; :func:`generate` documents them."""

    attention_mask: torch.Tensor | None
    max_new_tokens: int
    eos_token_id: int | Sequence[int] | str | None
    pad_token_id: int | str | None
    sampler: Sampler | None


class Engine(Protocol):
    """What the decode loop asks of a model with a cache."""

    device: torch.device
    vocab_size: int | None
    max_positions: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    turn: int  # counts the prefills: a stream that another generation has overtaken must not go on

    def prefill(self, prompt: Prompt, capacity: int) -> torch.Tensor:
        """Forget earlier text, read the prompt, and return the last position's logits ``[batch, vocabulary]``.

        ``capacity`` is how many positions the whole generation can take.
        """

    def decode_one_token(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append ``tokens`` ``[batch]`` to the cache and return the next logits ``[batch, vocabulary]``."""


class TorchEngine:
    """A transformers decoder with a cache that grows."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        accepts = inspect.signature(model.forward).parameters
        self.model, self.config = model, config
        self.device = model.device
        self.vocab_size = config.vocab_size
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self.eos_token_id = model.generation_config.eos_token_id
        self.pad_token_id = model.generation_config.pad_token_id
        self.turn = 0
        self._accepts_positions = "position_ids" in accepts
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}

    def prefill(self, prompt: Prompt, capacity: int) -> torch.Tensor:
        self.turn += 1
        self.mask, self.cache = prompt.attention_mask, DynamicCache(config=self.config)
        return self._forward(prompt.input_ids, prompt.position_ids)

    def decode_one_token(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = self.mask.sum(-1, keepdim=True)  # [batch, 1]: how many tokens each row has so far
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=-1)
        return self._forward(tokens[:, None], positions)

    @torch.no_grad()
    def _forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        inputs = {"position_ids": position_ids} if self._accepts_positions else {}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **inputs,
            **self._last_only,
        )
        return outputs.logits[:, -1]


def generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    max_new_tokens: int = 100,
    eos_token_id: int | Sequence[int] | str | None = "model",
    pad_token_id: int | str | None = "model",
    sampler: Sampler | None = None,
    on_token: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Continue a batch of prompts on PyTorch: one pass over the prompt, then one token at a time through the cache.

    Parameters
    ----------
    model : transformers PreTrainedModel
        A decoder, on any device.
    input_ids : torch.Tensor
        int ``[batch, length]``; shorter rows are padded on the left.
    attention_mask : torch.Tensor, optional
        int ``[batch, length]``, 0 for padding. Default: no padding.
    max_new_tokens : int
        At most so many tokens are added; 0 returns the prompt.
    eos_token_id : int, sequence of int, None or "model"
        The tokens that end a row. ``"model"`` takes the model's own, None never stops early.
    pad_token_id : int or "model"
        What fills a row that ended before the others. ``"model"`` takes the model's own, else the first
        end-of-sequence token.
    sampler : Sampler, optional
        How the next token is chosen. Default: greedy, the most probable one.
    on_token : callable, optional
        Called after each step with that step's tokens, ``[batch]``.

    Returns
    -------
    torch.Tensor
        int64 ``[batch, length + new tokens]`` on the device of ``input_ids``: the prompt, the answer with its
        end-of-sequence token where one came, then padding. Greedily, the tokens of ``model.generate``.

    Raises
    ------
    ValueError
        If an argument cannot be used; the message names it and what was expected.
    """
    return run(
        TorchEngine(model),
        input_ids,
        on_token=on_token,
        attention_mask=attention_mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        sampler=sampler,
    )


def stream(model: PreTrainedModel, input_ids: torch.Tensor, **options: Unpack[DecodeOptions]) -> Iterator[torch.Tensor]:
    """The tokens of :func:`generate` as they come: an iterator of int64 ``[batch]``, one item for each step.

    Closing the iterator stops the decoding. Keywords are those of :func:`generate`, less ``on_token``; they are
    checked at once, before the first token is asked for.
    """
    return decode(TorchEngine(model), input_ids, **options)


def run(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    on_token: Callable[[torch.Tensor], None] | None = None,
    **options: Unpack[DecodeOptions],
) -> torch.Tensor:
    """Drive :func:`decode` to its end and join the tokens: ``[batch, length + new tokens]``."""
    steps = []
    for tokens in decode(engine, input_ids, **options):
        steps.append(tokens[:, None])
        if on_token is not None:
            on_token(tokens)
    return torch.cat([input_ids.to(torch.int64), *steps], dim=-1)


def decode(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    max_new_tokens: int = 100,
    eos_token_id: int | Sequence[int] | str | None = "model",
    pad_token_id: int | str | None = "model",
    sampler: Sampler | None = None,
) -> Iterator[torch.Tensor]:
    """Check the arguments, then return the iterator of tokens that :func:`stream` gives."""
    prompt = check_prompt(
        input_ids,
        attention_mask,
        vocab_size=engine.vocab_size,
        max_positions=engine.max_positions,
        max_new_tokens=max_new_tokens,
    ).to(engine.device)
    ends = end_tokens(eos_token_id, engine)
    pad = pad_token(pad_token_id, engine, ends)
    choose = greedy if sampler is None else sampler.start(prompt)
    return _steps(engine, prompt, max_new_tokens, ends, pad, choose, input_ids.device)


def _steps(engine, prompt, max_new_tokens, ends, pad, choose, device) -> Iterator[torch.Tensor]:
    tokens = prompt.input_ids
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=engine.device)
    ends = torch.tensor(ends, dtype=torch.int64, device=engine.device)
    for step in range(max_new_tokens):
        if step == 0:
            logits = engine.prefill(prompt, capacity=tokens.shape[1] + max_new_tokens)
            turn = engine.turn
        elif engine.turn != turn:
            raise RuntimeError("this stream's decoder has started another generation: a decoder runs one at a time.")
        else:
            logits = engine.decode_one_token(tokens[:, -1])
        new = choose(tokens, logits)
        if len(ends):
            new = torch.where(ended, pad, new)
            ended |= torch.isin(new, ends)
        tokens = torch.cat([tokens, new[:, None]], dim=-1)
        yield new.to(device)
        if len(ends) and bool(ended.all()):
            return


def end_tokens(eos_token_id: int | Sequence[int] | str | None, engine: Engine) -> list[int]:
    """The end-of-sequence ids as a list: ``"model"`` is the engine's own, None is no such token."""
    if isinstance(eos_token_id, str):
        if eos_token_id != "model":
            raise ValueError(f'eos_token_id={eos_token_id!r}: expected "model", an int, a list of ints, or None.')
        eos_token_id = engine.eos_token_id
        if eos_token_id is None and getattr(engine, "config", None) is None:
            raise ValueError(
                f"{engine.path.name} does not say which token ends a text: give eos_token_id (None never stops)."
            )
    if eos_token_id is None:
        return []
    if isinstance(eos_token_id, torch.Tensor):
        eos_token_id = eos_token_id.tolist()
    ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    for token in ids:
        _check_token(token, "eos_token_id", engine)
    return ids


def pad_token(pad_token_id: int | str | None, engine: Engine, ends: list[int]) -> int:
    """What fills a row that ended: the given id, the engine's own, or the first end-of-sequence id."""
    if isinstance(pad_token_id, str):
        if pad_token_id != "model":
            raise ValueError(f'pad_token_id={pad_token_id!r}: expected "model", an int, or None.')
        pad_token_id = engine.pad_token_id
    if pad_token_id is None:
        return ends[0] if ends else 0
    _check_token(pad_token_id, "pad_token_id", engine)
    return pad_token_id


def _check_token(token: int, name: str, engine: Engine) -> None:
    limit = engine.vocab_size
    if not isinstance(token, int) or isinstance(token, bool) or token < 0 or (limit is not None and token >= limit):
        known = "an int of 0 or more" if limit is None else f"an id from 0 to {limit - 1}, the model's vocabulary"
        raise ValueError(f"{name}={token!r}: expected {known}.")
