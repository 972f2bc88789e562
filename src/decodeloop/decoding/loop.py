"""The decode loop, apart from any engine: which token is chosen, when a row stops, what its padding is.

An *engine* knows how to run a model and where its cache is; the loop knows everything else. The engines of
:mod:`decodeloop.engines`, on PyTorch and on ONNX Runtime, are driven by the same :func:`decode`, so they cannot differ
in anything but the logits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, TypedDict, Unpack, overload

import torch
from tqdm import tqdm

from decodeloop.checks import check_choice, check_count, shown
from decodeloop.decoding.chooser import Chooser
from decodeloop.decoding.engine import Engine, Past, exclusive, prefill, still
from decodeloop.decoding.greedy import Greedy, greedy, no_token
from decodeloop.decoding.lookup import Guesser
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.decoding.sampling import Sampler
from decodeloop.decoding.speculate import Guess, accept
from decodeloop.decoding.stopping import PadToken, Stopping, TokenIds, Watch, stopping


class DecodeOptions(TypedDict, total=False):
    """The keywords of every decode loop: :func:`decodeloop.generate` explains them, :func:`decode` has the defaults."""

    attention_mask: torch.Tensor | None
    max_new_tokens: int
    max_length: int | None
    eos_token_id: TokenIds
    pad_token_id: PadToken
    stop_strings: str | Sequence[str] | None
    tokenizer: Any
    sampler: Sampler | None
    lookup: Guesser | None
    past_key_values: Past | None
    prefill_chunk: int | None


class RunOptions(DecodeOptions, total=False):
    """The further keywords of a loop that runs to its end."""

    on_token: Callable[[torch.Tensor], None] | None
    streamer: Any
    progress: bool


@overload
def run(
    engine: Engine, input_ids: torch.Tensor, *, return_cache: Literal[False] = False, **options: Unpack[RunOptions]
) -> torch.Tensor: ...
@overload
def run(
    engine: Engine, input_ids: torch.Tensor, *, return_cache: Literal[True], **options: Unpack[RunOptions]
) -> tuple[torch.Tensor, Past | None]: ...
def run(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    return_cache: bool = False,
    on_token: Callable[[torch.Tensor], None] | None = None,
    streamer: Any = None,
    progress: bool = False,
    **options: Unpack[DecodeOptions],
) -> torch.Tensor | tuple[torch.Tensor, Past | None]:
    """Continue a batch of prompts; arguments, result and errors are those of :func:`decodeloop.generate`."""
    _check_watchers(on_token, streamer)
    check_choice("progress", progress, True, False)
    check_choice("return_cache", return_cache, True, False)
    stream = decode(engine, input_ids, **options)
    steps = []
    if streamer is not None:
        streamer.put(input_ids.cpu())
    with exclusive(engine), _progress(progress, options) as bar:
        for tokens in stream:
            steps.append(tokens[:, None])
            bar.update()
            if streamer is not None:
                streamer.put(tokens.cpu())
            if on_token is not None:
                on_token(tokens)
        cache = engine.cache() if return_cache and steps else options.get("past_key_values")
    if streamer is not None:
        streamer.end()
    text = torch.cat([input_ids.to(torch.int64), *steps], dim=-1)
    return (text, cache) if return_cache else text


def decode(
    engine: Engine,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    max_new_tokens: int = 100,
    max_length: int | None = None,
    eos_token_id: TokenIds = "model",
    pad_token_id: PadToken = "model",
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    sampler: Sampler | None = None,
    lookup: Guesser | None = None,
    past_key_values: Past | None = None,
    prefill_chunk: int | None = None,
) -> Iterator[torch.Tensor]:
    """The tokens as they come; arguments, result and errors are those of :func:`decodeloop.stream`."""
    new = check_count("max_new_tokens", max_new_tokens) if max_length is None else _room(input_ids, max_length)
    prompt = check_prompt(
        input_ids,
        attention_mask,
        max_new_tokens=new,
        vocab_size=engine.vocab_size,
        max_positions=engine.max_positions,
    )
    _check_kinds(sampler, lookup)
    chunk = None if prefill_chunk is None else check_count("prefill_chunk", prefill_chunk, 1)
    guesses = lookup is not None
    engine.check(prompt, new, past_key_values, rewinds=guesses, all_logits=guesses)
    prompt = prompt.to(engine.device)
    stop = stopping(engine, eos_token_id, pad_token_id, stop_strings, tokenizer)
    if sampler is None:
        choose: Greedy | Chooser = greedy(engine, prompt, new, stop.eos_token_ids)
    else:
        choose = sampler.start(prompt, stop.eos_token_ids, engine.shared_seed)
    if lookup is None:
        steps = _one_by_one(engine, prompt, new, stop, choose, past_key_values, chunk)
    else:
        _check_lookup(prompt, sampler)
        lookup.check(engine, prompt, new)
        steps = _guessed(engine, prompt, new, stop, choose, lookup, past_key_values, chunk)
    return (tokens.to(input_ids.device) for tokens in _exclusively(engine, steps))


def _exclusively(engine: Engine, steps: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same steps, during none of which another thread uses the engine; between them, it may start anew."""
    while True:
        with exclusive(engine):
            tokens = next(steps, None)
        if tokens is None:
            return
        yield tokens


def _one_by_one(
    engine: Engine,
    prompt: Prompt,
    max_new_tokens: int,
    stop: Stopping,
    choose: Greedy | Chooser,
    past: Past | None,
    chunk: int | None,
) -> Iterator[torch.Tensor]:
    batch, length = prompt.input_ids.shape
    text = prompt.input_ids.new_empty(batch, length + max_new_tokens)
    text[:, :length] = prompt.input_ids
    ended = torch.zeros(batch, dtype=torch.bool, device=text.device)
    watch, generation = Watch(batch, text.device), 0
    for step in range(max_new_tokens):
        so_far = text[:, : length + step]
        if step == 0:
            logits = prefill(engine, prompt, max_new_tokens, past, chunk=chunk)[:, -1]
            generation = engine.generation
        else:
            still(engine, generation)
            logits = engine.forward(so_far[:, -1:])[:, -1]
        if engine.runs_async and watch.over():  # only now: the GPU had this step to do while the host looked back
            engine.rewind(1)
            return
        new = choose(so_far, logits, engine.likeliest)
        if stop.possible:
            new = torch.where(ended, stop.pad_token_id, new)
        text[:, length + step] = new
        if stop.possible:
            ended |= stop.done(text[:, : length + step + 1])
        watch.post(ended, choose.best)
        over = not engine.runs_async and watch.over()
        yield new
        if over:
            return
    if engine.runs_async:
        watch.over()  # the last token's score was not looked at yet


def _guessed(
    engine: Engine,
    prompt: Prompt,
    max_new_tokens: int,
    stop: Stopping,
    choose: Greedy | Chooser,
    lookup: Guesser,
    past: Past | None,
    chunk: int | None,
) -> Iterator[torch.Tensor]:
    """Propose, check, commit: each pass reads the last token and a guess, and keeps what the model would have said."""
    guess_next = lookup.start(prompt, max_new_tokens, choose)
    text, left, generation = prompt.input_ids, max_new_tokens, 0
    while left:
        if lookup.passes == 0:
            guess = Guess(text[:, :0])
            logits = prefill(engine, prompt, max_new_tokens, past, chunk=chunk, rewinds=True)
            generation = engine.generation
        else:
            guess = guess_next(text, left - 1)
            still(engine, generation)
            logits = engine.forward(torch.cat([text[:, -1:], guess.tokens], dim=-1), all_logits=True)
        accepted = accept(choose, text, guess, logits[:, -1 - guess.tokens.shape[1] :])
        new, over = _up_to_stop(text, accepted, stop)
        if choose.best is not None:
            for step, score in enumerate(choose.best[0, : new.shape[1]].tolist(), max_new_tokens - left):
                if not math.isfinite(score):
                    raise no_token(0, step, score)
        proposed = guess.tokens.shape[1]
        engine.rewind(proposed + 1 - new.shape[1])  # what was read beyond the last token is forgotten
        text = torch.cat([text, new], dim=-1)
        left = 0 if over else left - new.shape[1]
        lookup.count(proposed=proposed, accepted=min(accepted.shape[1] - 1, new.shape[1]), written=new.shape[1])
        yield from new.unbind(-1)


def _up_to_stop(text: torch.Tensor, new: torch.Tensor, stop: Stopping) -> tuple[torch.Tensor, bool]:
    """``new`` tokens up to the first at which the text ends, that one included; and whether it ends there."""
    if stop.possible:
        for count in range(1, new.shape[1] + 1):
            if bool(stop.done(torch.cat([text, new[:, :count]], dim=-1)).all()):
                return new[:, :count], True
    return new, False


def _room(input_ids: torch.Tensor, max_length: int) -> int:
    length = input_ids.shape[-1] if isinstance(input_ids, torch.Tensor) else 0
    return check_count("max_length", max_length, length, note="the length of the prompt") - length


def _check_kinds(sampler: Any, lookup: Any) -> None:
    if sampler is not None and (isinstance(sampler, type) or not callable(getattr(sampler, "start", None))):
        raise ValueError(f"sampler={shown(sampler)}: expected a decodeloop.Sampler, or None.")
    if lookup is not None and not isinstance(lookup, Guesser):
        raise ValueError(f"lookup={shown(lookup)}: expected a decodeloop.PromptLookup or DraftModel, or None.")


def _check_watchers(on_token: Any, streamer: Any) -> None:
    if not (on_token is None or callable(on_token)):
        raise ValueError(f"on_token={shown(on_token)}: expected a function of one step's tokens, or None.")
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise ValueError(f"streamer={shown(streamer)}: expected a transformers streamer, with put and end, or None.")


def _check_lookup(prompt: Prompt, sampler: Sampler | None) -> None:
    if getattr(sampler, "processors", ()):
        raise ValueError(
            "lookup asks what follows a guess that may be taken back, and a processor may remember what it was asked: "
            "give lookup or Sampler(processors=...), not both."
        )
    if len(prompt.input_ids) > 1:
        raise ValueError(
            f"lookup with a batch of {len(prompt.input_ids)} rows: expected one row, since each row accepts another "
            "number of tokens. Call it for each row."
        )


def _progress(wanted: bool, options: DecodeOptions) -> tqdm[NoReturn]:
    total = options.get("max_new_tokens", 100) if options.get("max_length") is None else None
    return tqdm(total=total, unit="token", disable=not (wanted and sys.stderr.isatty()))
