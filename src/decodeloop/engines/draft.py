"""A draft model: a cheaper model, or the same one in fewer bits, which guesses what the next tokens may be."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from decodeloop.checks import check_count
from decodeloop.decoding.chooser import Chooser
from decodeloop.decoding.engine import Engine, exclusive, still
from decodeloop.decoding.greedy import Greedy
from decodeloop.decoding.lookup import Guesser, Guessing
from decodeloop.decoding.prompt import Prompt
from decodeloop.decoding.speculate import Guess, propose
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.engines.torch_loop import TorchEngine
from decodeloop.models.load import LoadedModel


@dataclass
class DraftModel(Guesser):
    """Lets a cheaper model guess tokens, and counts how well it does: ``generate(..., lookup=DraftModel(draft))``.

    The draft writes a few tokens, and the model reads all of them in one pass. Greedily, the tokens are exactly those
    without a draft. With a sampler, the draft draws as the sampler says, and a guess is taken by the rule of
    speculative sampling (Leviathan et al., 2023, arXiv:2211.17192): the tokens have the model's own distribution, and a
    seed gives the same ones on every engine, but not those that it gives without a draft.

    Parameters
    ----------
    model : transformers PreTrainedModel, LoadedModel, TorchDecoder or OnnxDecoder
        The draft. It has the vocabulary of the model that it guesses for, and may run on another engine or device.
    tokens : int
        At most so many tokens are guessed for a pass; 1 or more.

    Attributes
    ----------
    passes : int
        Passes of the model in the last generation, the prefill included.
    proposed, accepted : int
        Tokens guessed, and taken.
    written : int
        Tokens that the generation gave.

    Raises
    ------
    ValueError
        If a parameter cannot be used. What a generation asks of the draft is checked before its first token: the same
        vocabulary, positions for the whole text, and a cache that can be rewound.

    Notes
    -----
    One generation at a time. The draft reads the whole text itself, a part that the model has in ``past_key_values``
    too, when the first guess is asked for. Its own generation_config counts for nothing: what the model's says, or the
    sampler, is applied to its logits as well.

    Examples
    --------
    >>> import decodeloop
    >>> loaded = decodeloop.load(device="cpu")
    >>> prompt = loaded.tokenizer("def square(x):", return_tensors="pt").input_ids
    >>> draft = DraftModel(loaded.model, tokens=3)  # its own draft: every guess is right
    >>> tokens = decodeloop.generate(loaded.model, prompt, lookup=draft, max_new_tokens=13, eos_token_id=None)
    >>> draft.passes, draft.proposed, draft.acceptance
    (4, 9, 1.0)
    """

    model: PreTrainedModel | LoadedModel | TorchEngine | OnnxDecoder = field(repr=False)
    tokens: int = 4
    engine: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.tokens = check_count("tokens", self.tokens, 1)
        given = self.model
        self.engine = given if isinstance(given, TorchEngine | OnnxDecoder) else TorchEngine(given)

    def check(self, engine: Engine, prompt: Prompt, max_new_tokens: int) -> None:
        """Refuse a generation of ``engine`` for which the draft cannot guess, before anything is run."""
        draft, needed = self.engine, prompt.longest + max_new_tokens
        if draft is engine:
            raise ValueError(
                f"the draft is the decoder of {draft.name} that it should guess for, which has one cache: "
                "open another decoder for the draft."
            )
        if draft.vocab_size != engine.vocab_size:
            raise ValueError(
                f"the draft {draft.name} has a vocabulary of {draft.vocab_size} tokens and {engine.name} one of "
                f"{engine.vocab_size}: expected the same, since a guess is a token id. Take a draft of the same family."
            )
        if draft.max_positions is not None and needed > draft.max_positions:
            raise ValueError(
                f"the text may grow to {needed} tokens, and the draft {draft.name} has {draft.max_positions} "
                "positions: ask for fewer tokens, or leave lookup out."
            )
        draft.check(prompt, max_new_tokens, rewinds=True)

    def guessing(self, prompt: Prompt, max_new_tokens: int, choose: Greedy | Chooser) -> Guessing:
        """What guesses in one generation: it has a cache of its own, which it keeps in step with the text."""
        return _Drafting(self, prompt, max_new_tokens, choose)


class _Drafting:
    """One generation's guesses."""

    def __init__(self, draft: DraftModel, prompt: Prompt, max_new_tokens: int, choose: Greedy | Chooser) -> None:
        self.engine, self.tokens = draft.engine, draft.tokens
        self.prompt, self.max_new_tokens, self.choose = prompt.to(draft.engine.device), max_new_tokens, choose
        self.read: torch.Tensor | None = None  # what the draft's cache holds, [1, length]; None before it is asked
        self.generation = 0

    def __call__(self, text: torch.Tensor, limit: int) -> Guess:
        """What the draft writes after ``text`` ``[1, length]``: at most ``limit`` tokens."""
        device, count = text.device, min(self.tokens, limit)
        if count < 1:
            return Guess(text[:, :0])
        text, drawn = text.to(self.engine.device), list[torch.Tensor]()
        with exclusive(self.engine):
            after, unread = text, self._unread(text)
            for _ in range(count):
                token, probabilities = propose(self.choose, after, self.engine.forward(unread)[:, -1])
                after, unread = torch.cat([after, token[:, None]], dim=-1), token[:, None]
                if probabilities is not None:
                    drawn.append(probabilities)
            self.read = after[:, :-1]  # nothing has read the last guess
        return Guess(after[:, text.shape[1] :].to(device), torch.cat(drawn).to(device) if drawn else None)

    def _unread(self, text: torch.Tensor) -> torch.Tensor:
        """Rewind the cache to what it has in common with the text: the rest of the text ``[1, 1 or more]``."""
        if self.read is None:
            self.engine.start(self.prompt, self.prompt.input_ids.shape[1] + self.max_new_tokens, rewinds=True)
            self.generation = self.engine.generation
            return text
        still(self.engine, self.generation)
        both = min(self.read.shape[1], text.shape[1] - 1)
        same = int((self.read[0, :both] == text[0, :both]).int().cumprod(-1).sum())
        self.engine.rewind(self.read.shape[1] - same)
        return text[:, same:]
