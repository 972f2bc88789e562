"""What a decode loop asks of an engine, and an ONNX engine of the cache that it keeps: two protocols."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedConfig
from transformers.cache_utils import Cache

from decodeloop.decoding.prompt import Prompt

#: What an earlier generation left: a transformers cache, or keys and values of each layer in turn.
Past = Cache | Sequence[torch.Tensor]
#: The best scores and the tokens that have them, ``[batch]`` each, as ``max`` gives them.
Likeliest = tuple[torch.Tensor, torch.Tensor]
#: An engine's :meth:`Engine.likeliest`.
Look = Callable[[], Likeliest | None]


class Engine(Protocol):
    """A model with a cache, which :func:`decodeloop.decoding.loop.decode` drives."""

    name: str  # what a message calls it
    device: torch.device
    vocab_size: int | None
    max_positions: int | None
    runs_async: bool  # a step is only queued, and can be rewound: the end is looked for while the next one runs
    generation: int  # counts the generations: a stream that another one has overtaken must not go on

    @property
    def lock(self) -> Lock:
        """Held while a step runs, or a generation that is run to its end: see ``exclusive``."""

    @property
    def config(self) -> PreTrainedConfig | None:
        """The model's, where it is known."""

    @property
    def generation_config(self) -> GenerationConfig | None:
        """What the checkpoint says of decoding: special tokens, penalties, bans. None where nothing tells."""

    def shared_seed(self) -> int | None:
        """What to draw tokens with where the sampler has no seed, so that all processes of a model draw the same.

        None where one process runs it.
        """

    def check(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        past: Past | None = None,
        rewinds: bool = False,
        all_logits: bool = False,
    ) -> None:
        """Refuse a generation that this engine cannot do, before anything is run.

        ``rewinds`` and ``all_logits`` say that it will be asked to rewind, and for the logits of several tokens.

        Raises
        ------
        ValueError
        """

    def start(self, prompt: Prompt, capacity: int, past: Past | None = None, rewinds: bool = False) -> int:
        """Forget earlier text and make room for ``capacity`` positions; how many of them ``past`` fills already.

        ``rewinds`` announces calls of :meth:`rewind`.
        """

    def forward(self, tokens: torch.Tensor, all_logits: bool = False) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]`` to the cache: the logits of the last one ``[batch, 1, vocabulary]``.

        With ``all_logits``, of all of them ``[batch, new, vocabulary]``.
        """

    def likeliest(self) -> Likeliest | None:
        """What follows the last token by the last :meth:`forward`; None where that has not looked for it."""

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""

    def cache(self) -> Cache:
        """The cache as transformers knows it."""


def prefill(
    engine: Engine,
    prompt: Prompt,
    max_new_tokens: int,
    past: Past | None = None,
    *,
    chunk: int | None = None,
    rewinds: bool = False,
) -> torch.Tensor:
    """Start the engine and read the part of the prompt that its cache does not hold yet, ``chunk`` tokens at a time.

    The logits of the last token ``[batch, 1, vocabulary]``.
    """
    seen = engine.start(prompt, prompt.input_ids.shape[1] + max_new_tokens, past, rewinds)
    unread = prompt.input_ids[:, seen:]
    for part in unread.split(chunk or unread.shape[1], dim=1):
        logits = engine.forward(part)
    return logits


def still(engine: Engine, generation: int) -> None:
    """Refuse to go on with a generation that is no longer the engine's.

    Raises
    ------
    RuntimeError
    """
    if engine.generation != generation:
        raise RuntimeError(
            "this stream's decoder has started another generation, or was closed: a decoder runs one at a time."
        )


class Lock(Protocol):
    """A lock that the thread which holds it may take again, such as ``threading.RLock()``."""

    def acquire(self, blocking: bool = ...) -> bool: ...
    def release(self) -> None: ...


@contextlib.contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Within the block, no other thread uses the engine.

    Raises
    ------
    RuntimeError
        At once, if another one does: waiting would let two generations take turns on one cache.
    """
    if not engine.lock.acquire(blocking=False):
        raise RuntimeError(
            f"{engine.name} is at work in another thread, and a decoder runs one generation at a time: open a decoder "
            "for each thread, or let them take turns."
        )
    try:
        yield
    finally:
        engine.lock.release()


class StepCache(Protocol):
    """The cache of an ONNX graph between its steps, and how a step is run over it.

    Two kinds: in one, each step makes a longer cache; in the other, past and present are one buffer.
    """

    length: int  # positions that each row holds, padding included

    @property
    def shapes(self) -> Mapping[str, Any]:
        """What is kept, by the names of the graph's inputs, in their order."""

    def start(self, prompt: Prompt, capacity: int) -> None:
        """Forget the text; make room for ``capacity`` positions of the prompt's rows."""

    def load(self, tensors: Sequence[torch.Tensor], length: int) -> None:
        """Fill the cache with flat tensors ``[batch, heads, length, head size]``, or a state's shape, copied."""

    def forward(self, tokens: torch.Tensor, all_logits: bool) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new]``: the logits ``[batch, 1 or new, vocabulary]``."""

    def likeliest(self) -> Likeliest | None:
        """What follows the last token by the last :meth:`forward`; None where that has not looked for it."""

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions."""

    def tensors(self) -> list[torch.Tensor]:
        """The filled part, flat and padded on the left, each ``[batch, heads, length, head size]``."""

    def feeds(self) -> dict[str, Any]:
        """The inputs of the step that ran last, by name; empty before the first one."""
