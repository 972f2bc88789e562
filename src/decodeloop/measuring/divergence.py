"""What two decoders disagree on, step by step: each difference, whether rounding explains it, and the sum of them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import torch

#: Logits and scores of a step, ``[rows, vocabulary]`` each.
Pair = tuple[torch.Tensor, torch.Tensor]


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
    generated : int or None
        How many tokens of transformers' own ``model.generate`` were compared with the reference's; None where the
        reference is no transformers model.
    generate_divergences : list of Divergence
        Where ``model.generate`` leaves the reference's tokens, the first place of each row; ``got`` is its token.
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
    generated: int | None = None
    generate_divergences: list[Divergence] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether they compute the same, ``model.generate`` too: the same tokens, or a near tie where they differ."""
        alike = self.same_tokens or all(d is not None and d.near_tie for d in (self.divergence, *self.divergences))
        return alike and all(d.near_tie for d in self.generate_divergences)

    def __str__(self) -> str:
        text = f"{self.agreed} of {self.tokens} tokens agree, logits within {self.max_logit_diff:.2g}"
        if self.divergence is not None:
            text += f"; first difference at {self.divergence}"
            worse = [d for d in self.divergences if not d.near_tie] if self.divergence.near_tie else []
            text += f"; {len(worse)} of {len(self.divergences)} are no near ties: {worse[0]}" if worse else ""
        other = sorted(self.generate_divergences, key=lambda d: d.near_tie)[:1]
        return text + "".join(f"; model.generate leaves the reference at {divergence}" for divergence in other)


class Tally:
    """What the steps of all prompts add up to."""

    def __init__(self) -> None:
        self.tokens = 0
        self.divergences: list[Divergence] = []
        self.generated: int | None = None
        self.generate_divergences: list[Divergence] = []
        self.worst: dict[int, list[torch.Tensor]] = defaultdict(list)  # by step: logit difference and KL, each prompt's

    def add(self, prompt: int, step: int, rows: torch.Tensor, want: Pair, got: Pair) -> None:
        """Compare the logits ``[rows, vocabulary]`` of one step, and the tokens that their scores choose."""
        logits = want[0].double(), got[0].double()
        apart = (logits[0] - logits[1]).abs().masked_fill(logits[0] == logits[1], 0.0)  # -inf is not apart from itself
        kl = _kl_divergence(*logits)
        self.tokens += len(rows)
        self.worst[step].append(torch.stack([apart.amax(-1).max(), kl.max()]))
        eps = max(torch.finfo(each[0].dtype).eps for each in (want, got))
        best, theirs = (scores.argmax(-1) for _, scores in (want, got))
        broken = kl.isnan()  # no token is the best then, whatever argmax says
        for i in (broken | (best != theirs)).nonzero()[:, 0].tolist():
            found = _divergence((prompt, int(rows[i]), step), want[0][i], want[1][i], int(theirs[i]), eps)
            self.divergences.append(replace(found, margin=math.nan) if broken[i] else found)

    def add_generated(self, prompt: int, said: list[tuple[torch.Tensor, Pair]], generated: torch.Tensor) -> None:
        """Compare the reference's tokens with what ``generate`` wrote ``[batch, steps]``, each row until they part.

        ``said`` has the rows of each step, and what the reference said to them.
        """
        parted: set[int] = set()
        for step, (rows, (logits, scores)) in enumerate(said[: generated.shape[1]]):
            for i, row in enumerate(rows.tolist()):
                token = int(generated[row, step])
                self.generated = (self.generated or 0) + (row not in parted)
                if row not in parted and token != int(scores[i].argmax()):
                    parted.add(row)
                    eps = torch.finfo(logits.dtype).eps
                    found = _divergence((prompt, row, step), logits[i], scores[i], token, eps)
                    self.generate_divergences.append(found)

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
            generated=self.generated,
            generate_divergences=self.generate_divergences,
        )


def _divergence(
    where: tuple[int, int, int], logits: torch.Tensor, scores: torch.Tensor, got: int, eps: float
) -> Divergence:
    """The reference's choice, from its logits and scores ``[vocabulary]``, and another one."""
    best = int(scores.argmax())
    rounding = 32 * eps * float(logits.double().nan_to_num(0.0, 0.0, 0.0).abs().max())
    return Divergence(*where, best, got, float(scores[best].double() - scores[got].double()), rounding)


def _kl_divergence(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """``[rows]``, in nats; NaN where either's logits are no distribution."""
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return (p.exp() * (p - q)).masked_fill(p.exp() == 0, 0.0).sum(-1)
