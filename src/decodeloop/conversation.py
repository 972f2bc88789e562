"""A conversation: turns, the chat template that makes a text of them, and a cache that is kept between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers.cache_utils import Cache

from decodeloop.caches.crop import crop_cache
from decodeloop.caches.past import past_length
from decodeloop.checks import check_choice, check_count, shown
from decodeloop.decoding.loop import decode
from decodeloop.decoding.pieces import text_pieces
from decodeloop.decoding.sampling import Sampler
from decodeloop.measuring.agreement import Decoder, as_engine
from decodeloop.models.load import LoadedModel


class Conversation:
    """Turns with a model, whose cache is kept from one to the next: a turn reads only what is new in the text.

    A turn's text is written by the chat template, whole. Of its tokens, those at its beginning that the cache holds
    already are not read again; the rest of the cache is cut off. So answers are those to the whole text, also where
    the template writes an earlier answer in other tokens than the model did, or where ``turns`` was edited.

    Parameters
    ----------
    model : transformers model, LoadedModel, TorchDecoder, OnnxDecoder, or a graph's path
    tokenizer : transformers tokenizer, optional
        The model's, with its chat template. Default: that of a LoadedModel.
    system : str, optional
        What the model is told first.
    max_new_tokens : int
        For an answer, at most; and never more than half of the positions.
    max_positions : int, optional
        How long the text may grow, answers included. Default, and at most: what the model has.
    when_full : str
        What to do with a turn for whose answer there is no room: ``"refuse"`` it, or ``"forget"`` the oldest turns,
        until half of the positions are free. Most of the text is then read again, once.
    sampler : Sampler, optional
        None is greedy.
    stop_strings : str or sequence of str
        Texts that end an answer, and are no part of it.

    Attributes
    ----------
    turns : list of dict
        ``{"role": "user" or "assistant", "content": text}``, without the system's. May be edited.
    cache : transformers Cache or None
        Keys and values of the text so far, or of most of it.
    prefilled, written : int
        Tokens that the last turn had to read, since the cache did not hold them; and those of its answer.
    forgotten : int
        Turns that were dropped, answers counted too.

    Raises
    ------
    ValueError
        If an argument cannot be used, or the tokenizer has no chat template.

    Examples
    --------
    >>> import decodeloop
    >>> loaded = decodeloop.load(device="cpu")
    >>> loaded.tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}\\n{% endfor %}"
    >>> conversation = decodeloop.Conversation(loaded, max_new_tokens=20)
    >>> answer = "".join(conversation.reply("def square(x):"))
    >>> for piece in conversation.reply("def cube(x):"):
    ...     answer += piece
    >>> conversation.prefilled < len(conversation.tokens(conversation.turns[:-1]))  # the rest was in the cache
    True
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Any = None,
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        max_positions: int | None = None,
        when_full: str = "refuse",
        sampler: Sampler | None = None,
        stop_strings: str | Sequence[str] = (),
    ) -> None:
        if tokenizer is None and isinstance(model, LoadedModel):
            tokenizer = model.tokenizer
        check_template(tokenizer)
        if not isinstance(system, str | None):
            raise ValueError(f"system={shown(system)}: expected a string, or None.")
        text_pieces(tokenizer, (), stop_strings)  # checks them
        self.engine, self.tokenizer, self.system = as_engine(model), tokenizer, system
        self.when_full = check_choice("when_full", when_full, "refuse", "forget")
        self.sampler, self.stop_strings = sampler, stop_strings
        given = None if max_positions is None else check_count("max_positions", max_positions, 2)
        self.max_positions = min(filter(None, (given, self.engine.max_positions)), default=None)
        room = check_count("max_new_tokens", max_new_tokens, 1)
        self.max_new_tokens = room if self.max_positions is None else min(room, self.max_positions // 2)
        self.turns: list[dict[str, str]] = []
        self.cache: Cache | None = None
        self.read: list[int] = []  # the tokens that the cache holds
        self.prefilled = self.written = self.forgotten = 0

    def reply(self, text: str) -> Iterator[str]:
        """The answer to a turn, in pieces of whole characters; nothing is done before the first one is asked for.

        Whoever stops asking ends the answer, which stays in ``turns`` as far as it was given.

        Raises
        ------
        ValueError
            If the text has no room, or the template refuses the turns. The conversation is then as it was.
        """
        if not isinstance(text, str):
            raise ValueError(f"text={shown(text)}: expected a string.")
        turn = {"role": "user", "content": text}
        turns, prompt = self._fitting([*self.turns, turn])
        kept = self._keep(prompt)
        tokens: list[int] = []
        answer = ""
        stream = decode(
            self.engine,
            torch.tensor([prompt]),
            past_key_values=kept,
            max_new_tokens=self.max_new_tokens,
            sampler=self.sampler,
            tokenizer=self.tokenizer,
        )
        pieces = text_pieces(self.tokenizer, _noted(stream, tokens), self.stop_strings)
        generation = self.engine.generation + 1  # this one's
        self.forgotten += len(self.turns) + 1 - len(turns)
        self.turns = turns
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            self.turns.append({"role": "assistant", "content": answer})
            self.prefilled, self.written = len(prompt) - len(self.read), len(tokens)
            self._take_cache(prompt + tokens, bool(tokens) and self.engine.generation == generation)

    def fork(self, turns: int | None = None) -> Conversation:
        """Another conversation with the same model, that begins as this one: it has a copy of the cache.

        Parameters
        ----------
        turns : int, optional
            With how many of the turns; 0 shares what the system says alone. Default: all.
        """
        count = len(self.turns) if turns is None else check_count("turns", turns, 0, len(self.turns))
        other = copy.copy(self)
        other.turns = [dict(turn) for turn in self.turns[:count]]
        other.read, other.cache = list(self.read), copy.deepcopy(self.cache)
        other.prefilled = other.written = other.forgotten = 0
        return other

    def tokens(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """What the model reads of turns before it answers: the system's text, theirs, and how an answer begins.

        Raises
        ------
        ValueError
            If the template refuses them.
        """
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        try:
            encoded = self.tokenizer.apply_chat_template(
                [*first, *turns], add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses these turns: {error}.") from None
        return list(encoded["input_ids"])

    def _fitting(self, turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The turns, the oldest of them dropped where they leave no room for an answer, and their tokens."""
        prompt = self.tokens(turns)
        limit = self.max_positions
        if limit is None or len(prompt) + self.max_new_tokens <= limit:
            return turns, prompt
        if self.when_full == "forget":
            while len(prompt) > limit // 2 and len(turns) > 2:
                turns = turns[2:]
                prompt = self.tokens(turns)
        if len(prompt) + self.max_new_tokens > limit:
            remedy = "shorten the turn" if len(turns) < 3 else 'begin another one, or forget: when_full="forget"'
            raise ValueError(
                f"the conversation is full: {len(prompt)} tokens and an answer of up to {self.max_new_tokens} need "
                f"{len(prompt) + self.max_new_tokens} of {limit} positions. Lower max_new_tokens, {remedy}."
            )
        return turns, prompt

    def _keep(self, prompt: list[int]) -> Cache | None:
        """The cache, cut to what it has in common with the prompt, of which at least one token is read."""
        pairs = zip(self.read, prompt[:-1], strict=False)
        common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.read), len(prompt) - 1))
        try:
            self.cache = crop_cache(self.cache, common) if self.cache is not None and common else None
        except ValueError:  # a state or a window, which cannot be rewound
            self.cache = None
        self.read = self.read[:common] if self.cache is not None else []
        return self.cache

    def _take_cache(self, text: list[int], is_own: bool) -> None:
        """The engine's cache, if it is that of this text and not of another generation."""
        try:
            self.cache = self.engine.cache() if is_own else None
            self.read = [] if self.cache is None else text[: past_length(self.cache)]
        except ValueError:  # a cache that cannot be handed on
            self.cache, self.read = None, []


def check_template(tokenizer: Any) -> None:
    """Refuse what has no chat template.

    Raises
    ------
    ValueError
    """
    if not callable(getattr(tokenizer, "apply_chat_template", None)):
        raise ValueError(f"tokenizer={shown(tokenizer)}: expected the model's tokenizer, of transformers.")
    if not tokenizer.chat_template:
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, so its model was hardly trained to chat: load a model "
            "that was (their names end in -Instruct or -Chat), or set tokenizer.chat_template."
        )


def _noted(stream: Iterator[torch.Tensor], tokens: list[int]) -> Iterator[int]:
    for token in stream:
        tokens.append(int(token))
        yield tokens[-1]
