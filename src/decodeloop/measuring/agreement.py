"""Do two decoders agree? Both read the same text, and their logits are compared at every step."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from decodeloop.checks import check_count
from decodeloop.decoding.engine import Engine
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.decoding.stopping import TokenIds, stopping
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.engines.torch_loop import TorchEngine
from decodeloop.engines.torch_static import TorchDecoder

Decoder = PreTrainedModel | OnnxDecoder | TorchDecoder | str | os.PathLike[str]


@dataclass(frozen=True)
class Divergence:
    """Where two decoders chose different tokens.

    ``margin`` is how far the reference's best logit is above the logit it gives to the candidate's token, and
    ``rounding`` what the logits' type can be expected to lose on the way: 32 units in the last place of the largest
    logit. A margin below it is a near tie, which the order of additions decides; a larger one is a real difference.
    Where either's logits are no distribution (NaN, or infinite), the margin is NaN, which is no near tie.
    """

    prompt: int
    row: int
    step: int
    expected: int
    got: int
    margin: float
    rounding: float

    @property
    def near_tie(self) -> bool:
        """Whether rounding can explain the difference."""
        return self.margin <= self.rounding

    def __str__(self) -> str:
        kind = "a near tie" if self.near_tie else "not a near tie"
        return f"step {self.step}: {self.got} for {self.expected}, margin {self.margin:.2g} ({kind})"


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found.

    Attributes
    ----------
    same_tokens : bool
        Whether greedy decoding gives the same tokens, for every row of every prompt.
    tokens : int
        How many tokens were compared.
    agreed : int
        How many of them were the same.
    max_logit_diff : float
        Largest absolute difference between two logits.
    max_kl : float
        Largest Kullback-Leibler divergence from the reference's distribution to the candidate's, in nats.
    divergence : Divergence or None
        The first difference.
    logit_diffs, kls : list of float
        The largest of each step, over rows and prompts.
    divergences : list of Divergence
        All of them: ``prompt``, ``row``, ``step``, the tokens ``expected`` and ``got``, ``margin``, ``rounding``, and
        whether it is a ``near_tie``.
    """

    same_tokens: bool
    tokens: int
    agreed: int
    max_logit_diff: float
    max_kl: float
    divergence: Divergence | None = None
    logit_diffs: list[float] = field(default_factory=list, repr=False)
    kls: list[float] = field(default_factory=list, repr=False)
    divergences: list[Divergence] = field(default_factory=list, repr=False)

    @property
    def agrees(self) -> bool:
        """Whether the two compute the same: the same tokens, or a near tie wherever they differ."""
        return self.same_tokens or all(d is not None and d.near_tie for d in (self.divergence, *self.divergences))

    def __str__(self) -> str:
        text = f"{self.agreed} of {self.tokens} tokens agree, logits within {self.max_logit_diff:.2g}"
        if self.divergence is None:
            return text
        text += f"; first difference at {self.divergence}"
        worse = [d for d in self.divergences if not d.near_tie] if self.divergence.near_tie else []
        return text + (f"; {len(worse)} of {len(self.divergences)} are no near ties: {worse[0]}" if worse else "")


@torch.no_grad()
def verify(
    reference: Decoder,
    candidate: Decoder,
    prompts: torch.Tensor | Sequence[torch.Tensor],
    *,
    attention_mask: torch.Tensor | Sequence[torch.Tensor | None] | None = None,
    max_new_tokens: int = 20,
    eos_token_id: TokenIds = "model",
) -> VerifyReport:
    """Decode greedily with the reference, feed the candidate the same tokens, and compare the logits of each step.

    The candidate is fed the reference's tokens, so that a single near tie does not send it down another path and
    every step is compared. It would have given the same tokens by itself if and only if it chose them at every step.

    Parameters
    ----------
    reference, candidate : transformers model, OnnxDecoder, TorchDecoder, or path of an ONNX graph
    prompts : torch.Tensor or sequence of torch.Tensor
        int ``[batch, length]`` each.
    attention_mask : same structure, optional
        0 for padding on the left.
    max_new_tokens : int
        Steps to compare for each prompt, 1 or more; fewer where every row ends.
    eos_token_id : int, sequence of int, None or "model"
        As in :func:`decodeloop.generate`; ``"model"`` is the reference's. What a row would say after its end is not
        compared.

    Raises
    ------
    ValueError
        If the vocabularies differ, both are the same decoder, or an argument cannot be used.

    Examples
    --------
    A static cache computes what a growing one does:

    >>> import decodeloop
    >>> loaded = decodeloop.load(device="cpu")
    >>> ids = loaded.tokenizer("def add(a, b):", return_tensors="pt").input_ids
    >>> report = verify(loaded.model, decodeloop.TorchDecoder(loaded.model), ids, max_new_tokens=5)
    >>> report.agrees, report.tokens, report.max_logit_diff < 1e-3
    (True, 5, True)
    """
    check_count("max_new_tokens", max_new_tokens, 1, note="or nothing is compared")
    ref, cand = as_engine(reference), as_engine(candidate)
    _check_comparable(ref, cand)
    ends = stopping(ref, eos_token_id, None).eos_token_ids
    tally = _Tally()
    for index, (ids, mask) in enumerate(_with_masks(prompts, attention_mask)):
        limits = {"vocab_size": ref.vocab_size, "max_positions": ref.max_positions}
        prompt = check_prompt(ids, mask, max_new_tokens=max_new_tokens, **limits)
        for step, (rows, want, got) in enumerate(_paired_logits(ref, cand, prompt, max_new_tokens, ends)):
            tally.add(index, step, rows, want, got)
    return tally.report()


def _paired_logits(
    ref: Engine, cand: Engine, prompt: Prompt, steps: int, ends: list[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Feed both the reference's tokens: at each step the rows that have not ended, and what the two say to them.

    Rows ``[live]``, logits ``[live, vocabulary]`` each, all on the CPU.
    """
    unread = prompt.input_ids
    for engine in (ref, cand):
        engine.start(prompt.to(engine.device), unread.shape[1] + steps)
    live = torch.ones(len(unread), dtype=torch.bool)
    for _ in range(steps):
        want, got = (engine.forward(unread.to(engine.device))[:, -1].cpu() for engine in (ref, cand))
        rows = live.nonzero()[:, 0]
        yield rows, want[rows], got[rows]
        unread = want.argmax(-1, keepdim=True)
        live &= ~torch.isin(unread[:, 0], torch.tensor(ends, dtype=torch.int64))
        if not live.any():
            return


class _Tally:
    """What the steps of all prompts add up to."""

    def __init__(self) -> None:
        self.tokens = 0
        self.divergences: list[Divergence] = []
        self.worst: dict[int, list[torch.Tensor]] = defaultdict(list)  # by step: logit difference and KL, each prompt's

    def add(self, prompt: int, step: int, rows: torch.Tensor, want: torch.Tensor, got: torch.Tensor) -> None:
        """Compare the logits ``[rows, vocabulary]`` of one step."""
        eps = max(torch.finfo(logits.dtype).eps for logits in (want, got))
        want, got = want.double(), got.double()
        apart = (want - got).abs().masked_fill(want == got, 0.0).amax(-1)  # -inf, a mask, is not apart from itself
        kl = _kl_divergence(want, got)
        self.tokens += len(rows)
        self.worst[step].append(torch.stack([apart.max(), kl.max()]))
        best, theirs = want.argmax(-1), got.argmax(-1)
        broken = kl.isnan()  # no token is the best then, whatever argmax says
        for i in (broken | (best != theirs)).nonzero()[:, 0].tolist():
            margin = math.nan if broken[i] else float(want[i, best[i]] - want[i, theirs[i]])
            rounding = 32 * eps * float(want[i].nan_to_num(0.0, 0.0, 0.0).abs().max())
            self.divergences.append(
                Divergence(prompt, int(rows[i]), step, int(best[i]), int(theirs[i]), margin, rounding)
            )

    def report(self) -> VerifyReport:
        found = self.divergences
        diffs, kls = torch.stack([torch.stack(each).amax(0) for each in self.worst.values()]).T
        return VerifyReport(
            same_tokens=not found,
            tokens=self.tokens,
            agreed=self.tokens - len(found),
            max_logit_diff=float(diffs.max()),  # unlike Python's max, NaN where any of them is
            max_kl=float(kls.max()),
            divergence=found[0] if found else None,
            logit_diffs=diffs.tolist(),
            kls=kls.tolist(),
            divergences=found,
        )


def _kl_divergence(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """``[rows]``, in nats; NaN where either's logits are no distribution."""
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return (p.exp() * (p - q)).masked_fill(p.exp() == 0, 0.0).sum(-1)


def _with_masks(
    prompts: torch.Tensor | Sequence[torch.Tensor], masks: torch.Tensor | Sequence[torch.Tensor | None] | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    prompts = [prompts] if isinstance(prompts, torch.Tensor) else list(prompts)
    masks = [masks] if isinstance(masks, torch.Tensor) else masks or [None] * len(prompts)
    if not prompts or len(prompts) != len(masks):
        raise ValueError(f"{len(prompts)} prompts and {len(masks)} attention masks: expected 1 or more, and as many.")
    return zip(prompts, masks, strict=True)


def _check_comparable(ref: Engine, cand: Engine) -> None:
    if ref is cand:
        raise ValueError(f"reference and candidate are one {type(ref).__name__}, which has one cache: open two.")
    if ref.vocab_size != cand.vocab_size:
        raise ValueError(f"the vocabularies differ, {ref.vocab_size} and {cand.vocab_size} tokens: not the same model.")
    if ref.config is not None and cand.config is not None:
        facts = [(c.model_type, c.num_hidden_layers, c.hidden_size) for c in (ref.config, cand.config)]
        if facts[0] != facts[1]:
            raise ValueError(f"(type, layers, hidden size) differ, {facts[0]} and {facts[1]}: not the same model.")


def as_engine(decoder: Decoder) -> Engine:
    """What runs a decoder, whichever form it was given in.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if isinstance(decoder, OnnxDecoder | TorchDecoder):
        return decoder
    if isinstance(decoder, PreTrainedModel):
        return TorchEngine(decoder)
    if isinstance(decoder, str | os.PathLike):
        return OnnxDecoder(decoder)
    raise ValueError(
        f"{type(decoder).__name__}: expected a transformers model, an OnnxDecoder, a TorchDecoder, or a graph's path."
    )
