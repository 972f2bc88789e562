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
from decodeloop.decoding.engine import Engine, Past, exclusive
from decodeloop.decoding.greedy import Greedy, greedy, no_token
from decodeloop.decoding.lookup import PromptLookup
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.decoding.sampling import Chooser, Sampler
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
    lookup: PromptLookup | None
    past_key_values: Past | None


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
    lookup: PromptLookup | None = None,
    past_key_values: Past | None = None,
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
    engine.check(prompt, new, past_key_values, rewinds=lookup is not None)
    prompt = prompt.to(engine.device)
    stop = stopping(engine, eos_token_id, pad_token_id, stop_strings, tokenizer)
    if sampler is None:
        choose: Greedy | Chooser = greedy(engine, prompt, new, stop.eos_token_ids)
    else:
        choose = sampler.start(prompt, stop.eos_token_ids, engine.shared_seed)
    if lookup is None:
        steps = _one_by_one(engine, prompt, new, stop, choose, past_key_values)
    else:
        steps = _looked_up(engine, prompt, new, stop, _checked_lookup(prompt, choose), lookup, past_key_values)
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
    engine: Engine, prompt: Prompt, max_new_tokens: int, stop: Stopping, choose: Greedy | Chooser, past: Past | None
) -> Iterator[torch.Tensor]:
    batch, length = prompt.input_ids.shape
    text = prompt.input_ids.new_empty(batch, length + max_new_tokens)
    text[:, :length] = prompt.input_ids
    ended = torch.zeros(batch, dtype=torch.bool, device=text.device)
    watch, generation = Watch(batch, text.device), 0
    for step in range(max_new_tokens):
        so_far = text[:, : length + step]
        unread = so_far[:, -1:] if step else _start(engine, prompt, max_new_tokens, past)
        generation = _still(engine, generation)
        logits = engine.forward(unread)[:, -1]
        if engine.runs_async and watch.over():  # only now: the GPU had this step to do while the host looked back
            engine.rewind(1)
            return
        new = choose(so_far, logits)
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


def _looked_up(
    engine: Engine,
    prompt: Prompt,
    max_new_tokens: int,
    stop: Stopping,
    choose: Greedy,
    lookup: PromptLookup,
    past: Past | None,
) -> Iterator[torch.Tensor]:
    """Propose, check, commit: each pass reads the last token and a guess, and keeps what the model would have said."""
    lookup.start()
    text, left, generation = prompt.input_ids, max_new_tokens, 0
    while left:
        first = lookup.passes == 0
        unread = _start(engine, prompt, max_new_tokens, past, rewinds=True) if first else text[:, -1:]
        guess = text[:, :0] if first else lookup.guess(text[0], left - 1)[None]
        generation = _still(engine, generation)
        logits = engine.forward(torch.cat([unread, guess], dim=-1), all_logits=not first)
        chosen = choose.along(text, guess, logits[:, -1 - guess.shape[1] :])
        right = int((chosen[:, :-1] == guess).int().cumprod(-1).sum())
        new, over = _up_to_stop(text, chosen[:, : right + 1], stop)
        for step, score in enumerate(choose.best[0, : new.shape[1]].tolist(), max_new_tokens - left):
            if not math.isfinite(score):
                raise no_token(0, step, score)
        engine.rewind(guess.shape[1] + 1 - new.shape[1])  # what was read beyond the last token is forgotten
        text = torch.cat([text, new], dim=-1)
        left = 0 if over else left - new.shape[1]
        lookup.count(proposed=guess.shape[1], accepted=min(right, new.shape[1]), written=new.shape[1])
        yield from new.unbind(-1)


def _up_to_stop(text: torch.Tensor, new: torch.Tensor, stop: Stopping) -> tuple[torch.Tensor, bool]:
    """``new`` tokens up to the first at which the text ends, that one included; and whether it ends there."""
    if stop.possible:
        for count in range(1, new.shape[1] + 1):
            if bool(stop.done(torch.cat([text, new[:, :count]], dim=-1)).all()):
                return new[:, :count], True
    return new, False


def _start(
    engine: Engine, prompt: Prompt, max_new_tokens: int, past: Past | None, rewinds: bool = False
) -> torch.Tensor:
    """Start the engine; the part of the prompt that its cache does not hold yet."""
    seen = engine.start(prompt, prompt.input_ids.shape[1] + max_new_tokens, past, rewinds)
    return prompt.input_ids[:, seen:]


def _still(engine: Engine, generation: int) -> int:
    """The engine's generation, which must be the one that this stream began (0: it begins now)."""
    if generation and engine.generation != generation:
        raise RuntimeError(
            "this stream's decoder has started another generation, or was closed: a decoder runs one at a time."
        )
    return engine.generation


def _room(input_ids: torch.Tensor, max_length: int) -> int:
    length = input_ids.shape[-1] if isinstance(input_ids, torch.Tensor) else 0
    return check_count("max_length", max_length, length, note="the length of the prompt") - length


def _check_kinds(sampler: Any, lookup: Any) -> None:
    kinds = ("sampler", sampler, "start", "Sampler"), ("lookup", lookup, "guess", "PromptLookup")
    for name, given, method, kind in kinds:
        if given is not None and (isinstance(given, type) or not callable(getattr(given, method, None))):
            raise ValueError(f"{name}={shown(given)}: expected a decodeloop.{kind}, or None.")


def _check_watchers(on_token: Any, streamer: Any) -> None:
    if not (on_token is None or callable(on_token)):
        raise ValueError(f"on_token={shown(on_token)}: expected a function of one step's tokens, or None.")
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise ValueError(f"streamer={shown(streamer)}: expected a transformers streamer, with put and end, or None.")


def _checked_lookup(prompt: Prompt, choose: Greedy | Chooser) -> Greedy:
    if not isinstance(choose, Greedy):
        raise ValueError("lookup checks guesses against the most likely token: give lookup or sampler, not both.")
    if len(prompt.input_ids) > 1:
        raise ValueError(
            f"lookup with a batch of {len(prompt.input_ids)} rows: expected one row, since each row accepts another "
            "number of tokens. Call it for each row."
        )
    return choose


def _progress(wanted: bool, options: DecodeOptions) -> tqdm[NoReturn]:
    total = options.get("max_new_tokens", 100) if options.get("max_length") is None else None
    return tqdm(total=total, unit="token", disable=not (wanted and sys.stderr.isatty()))
