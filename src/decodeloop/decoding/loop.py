"""The decode loop, apart from any engine: which token is chosen, when a row stops, what its padding is.

An *engine* knows how to run a model and where its cache is; the loop knows everything else. The engines of
:mod:`decodeloop.engines`, on PyTorch and on ONNX Runtime, are driven by the same :func:`decode`, so they cannot differ
in anything but the logits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypedDict, Unpack

import torch
from transformers.cache_utils import Cache

from decodeloop.decoding.lookup import PromptLookup
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.decoding.sampling import Choose, Sampler, greedy
from decodeloop.decoding.stopping import Stopping, TokenIds, Watch, stopping


class DecodeOptions(TypedDict, total=False):
    """The keywords that every decode loop takes; :func:`decodeloop.generate` documents them."""

    attention_mask: torch.Tensor | None
    max_new_tokens: int
    max_length: int | None
    eos_token_id: TokenIds
    pad_token_id: int | str | None
    stop_strings: str | Sequence[str] | None
    tokenizer: Any
    sampler: Sampler | None
    lookup: PromptLookup | None
    past_key_values: Cache | Sequence[torch.Tensor] | None


class Engine(Protocol):
    """What the decode loop asks of a model with a cache."""

    device: torch.device
    config: Any
    vocab_size: int | None
    max_positions: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    queues: bool  # a step is only queued, and can be rewound: the end is looked for while the next one runs
    turn: int  # counts the generations: a stream that another one has overtaken must not go on

    def start(self, prompt: Prompt, capacity: int, past: Any = None, rewinds: bool = False) -> int:
        """Forget earlier text and make room for ``capacity`` positions; how many of them ``past`` fills already.

        ``rewinds`` announces calls of :meth:`rewind`.
        """

    def read(self, tokens: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]`` to the cache: the logits of the last one ``[batch, 1, vocabulary]``.

        With ``every``, of all of them ``[batch, new, vocabulary]``.
        """

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""

    def cache(self) -> Cache:
        """The cache as transformers knows it."""


def run(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    on_token: Callable[[torch.Tensor], None] | None = None,
    streamer: Any = None,
    progress: bool = False,
    return_cache: bool = False,
    **options: Unpack[DecodeOptions],
) -> torch.Tensor | tuple[torch.Tensor, Cache | None]:
    """Drive :func:`decode` to its end and join the tokens: ``[batch, length + new tokens]``."""
    stream = decode(engine, input_ids, **options)
    steps = []
    if streamer is not None:
        streamer.put(input_ids.cpu())
    with _bar(progress, options) as bar:
        for tokens in stream:
            steps.append(tokens[:, None])
            bar.update()
            if streamer is not None:
                streamer.put(tokens.cpu())
            if on_token is not None:
                on_token(tokens)
    if streamer is not None:
        streamer.end()
    tokens = torch.cat([input_ids.to(torch.int64), *steps], dim=-1)
    if not return_cache:
        return tokens
    return tokens, engine.cache() if steps else options.get("past_key_values")


def decode(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    max_new_tokens: int = 100,
    max_length: int | None = None,
    eos_token_id: TokenIds = "model",
    pad_token_id: int | str | None = "model",
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    sampler: Sampler | None = None,
    lookup: PromptLookup | None = None,
    past_key_values: Cache | Sequence[torch.Tensor] | None = None,
) -> Iterator[torch.Tensor]:
    """Check the arguments, then return the iterator of tokens that :func:`decodeloop.stream` gives."""
    limits = {"vocab_size": engine.vocab_size, "max_positions": engine.max_positions}
    if max_length is not None:
        max_new_tokens = _room(input_ids, max_length)
    prompt = check_prompt(input_ids, attention_mask, max_new_tokens=max_new_tokens, **limits).to(engine.device)
    stop = stopping(engine, eos_token_id, pad_token_id, stop_strings, tokenizer)
    if lookup is None:
        choose = greedy if sampler is None else sampler.start(prompt, stop.eos_token_ids)
        steps = _one_by_one(engine, prompt, max_new_tokens, stop, choose, past_key_values)
    else:
        _check_lookup(prompt, sampler)
        steps = _looked_up(engine, prompt, max_new_tokens, stop, lookup, past_key_values)
    return (tokens.to(input_ids.device) for tokens in steps)


def _one_by_one(
    engine: Engine, prompt: Prompt, max_new_tokens: int, stop: Stopping, choose: Choose, past: Any
) -> Iterator[torch.Tensor]:
    rows, length = prompt.input_ids.shape
    text = prompt.input_ids.new_empty(rows, length + max_new_tokens)
    text[:, :length] = prompt.input_ids
    ended, turn = torch.zeros(rows, dtype=torch.bool, device=text.device), 0
    watch = Watch(text.device)
    for step in range(max_new_tokens):
        read = text[:, : length + step]
        unread = _unread(engine, prompt, max_new_tokens, past) if step == 0 else read[:, -1:]
        turn = _turn(engine, turn)
        logits = engine.read(unread)[:, -1]
        if engine.queues and watch.over():  # only now: the GPU had this step to do while the host looked at the last
            engine.rewind(1)
            return
        new = choose(read, logits)
        if stop.possible:
            new = torch.where(ended, stop.pad_token_id, new)
        text[:, length + step] = new
        if stop.possible:
            ended |= stop.done(text[:, : length + step + 1])
            watch.post(ended)
        yield new
        if not engine.queues and watch.over():
            return


def _looked_up(
    engine: Engine, prompt: Prompt, max_new_tokens: int, stop: Stopping, lookup: PromptLookup, past: Any
) -> Iterator[torch.Tensor]:
    lookup.start()
    tokens, left, turn = prompt.input_ids, max_new_tokens, 0
    while left:
        first = lookup.passes == 0
        unread = _unread(engine, prompt, max_new_tokens, past, rewinds=True) if first else tokens[:, -1:]
        guess = tokens[:, :0] if first else lookup.guess(tokens[0], left - 1)[None]
        turn = _turn(engine, turn)
        best = engine.read(torch.cat([unread, guess], dim=-1), every=not first)[:, -1 - guess.shape[1] :].argmax(-1)
        right = int((best[:, :-1] == guess).int().cumprod(-1).sum())
        lookup.passes, lookup.proposed = lookup.passes + 1, lookup.proposed + guess.shape[1]
        for index in range(right + 1):
            tokens = torch.cat([tokens, best[:, index : index + 1]], dim=-1)
            over = stop.possible and bool(stop.done(tokens).all())
            left = 0 if over else left - 1
            if over or index == right:  # what was read beyond the last token is forgotten before anybody sees it
                engine.rewind(guess.shape[1] - index)
            lookup.written, lookup.accepted = lookup.written + 1, lookup.accepted + (index < right)
            yield tokens[:, -1]
            if over:
                return


def _unread(engine: Engine, prompt: Prompt, max_new_tokens: int, past: Any, rewinds: bool = False) -> torch.Tensor:
    """Start the engine; the part of the prompt that its cache does not hold yet."""
    length = prompt.input_ids.shape[1]
    seen = engine.start(prompt, length + max_new_tokens, past, rewinds)
    if seen >= length:
        raise ValueError(
            f"past_key_values holds {seen} positions and input_ids has {length}: expected the whole text so far, "
            "the cached part included, and at least one token more."
        )
    return prompt.input_ids[:, seen:]


def _turn(engine: Engine, turn: int) -> int:
    if turn and engine.turn != turn:
        raise RuntimeError("this stream's decoder has started another generation: a decoder runs one at a time.")
    return engine.turn


def _room(input_ids: torch.Tensor, max_length: int) -> int:
    length = input_ids.shape[-1] if isinstance(input_ids, torch.Tensor) else 0
    if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < length:
        raise ValueError(f"max_length={max_length!r}: expected an int of at least {length}, the length of the prompt.")
    return max_length - length


def _check_lookup(prompt: Prompt, sampler: Sampler | None) -> None:
    if sampler is not None:
        raise ValueError("lookup checks guesses against the most likely token: give lookup or sampler, not both.")
    if len(prompt.input_ids) > 1:
        raise ValueError(
            f"lookup with a batch of {len(prompt.input_ids)} rows: expected one row, since each row accepts another "
            "number of tokens. Call it for each row."
        )


def _bar(progress: bool, options: DecodeOptions) -> Any:
    from tqdm import tqdm

    total = options.get("max_new_tokens", 100) if options.get("max_length") is None else None
    return tqdm(total=total, unit="token", disable=not (progress and sys.stderr.isatty()))
