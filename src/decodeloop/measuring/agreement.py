"""Do two decoders agree? Both read the same text, and their logits are compared at every step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from decodeloop.decoding.engine import Engine
from decodeloop.decoding.prompt import check_prompt
from decodeloop.decoding.stopping import stopping
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.engines.torch_loop import TorchEngine
from decodeloop.engines.torch_static import TorchDecoder

Decoder = PreTrainedModel | OnnxDecoder | TorchDecoder | str | os.PathLike


@dataclass(frozen=True)
class Divergence:
    """Where two decoders first chose different tokens.

    ``margin`` is how far the reference's best logit is above the logit it gives to the candidate's token, and
    ``rounding`` what the logits' type can be expected to lose on the way: 32 units in the last place of the largest
    logit. A margin below it is a near tie, which the order of additions decides; a larger one is a real difference.
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
    """

    same_tokens: bool
    tokens: int
    agreed: int
    max_logit_diff: float
    max_kl: float
    divergence: Divergence | None = None
    logit_diffs: list[float] = field(default_factory=list, repr=False)
    kls: list[float] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        head = f"{self.agreed} of {self.tokens} tokens agree, logits within {self.max_logit_diff:.2g}"
        if self.divergence is None:
            return head
        d = self.divergence
        kind = "a near tie" if d.near_tie else "not a near tie"
        return f"{head}; first difference at step {d.step}: {d.got} for {d.expected}, margin {d.margin:.2g} ({kind})"


@torch.no_grad()
def verify(
    reference: Decoder,
    candidate: Decoder,
    prompts: torch.Tensor | Sequence[torch.Tensor],
    *,
    attention_mask: torch.Tensor | Sequence[torch.Tensor] | None = None,
    max_new_tokens: int = 20,
    eos_token_id: int | Sequence[int] | str | None = "model",
) -> VerifyReport:
    """Decode greedily with the reference, feed the candidate the same tokens, and compare the logits of each step.

    The candidate is fed the reference's tokens, so that a single near tie does not send it down another path and
    every step is compared. It would have given the same tokens by itself if and only if it agrees at every step.

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
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: expected 1 or more, or nothing is compared.")
    ref, cand = _engine(reference), _engine(candidate)
    if ref is cand:
        raise ValueError(f"reference and candidate are one {type(ref).__name__}, which has one cache: open two.")
    if ref.vocab_size != cand.vocab_size:
        raise ValueError(f"the vocabularies differ, {ref.vocab_size} and {cand.vocab_size} tokens: not the same model.")
    if ref.config is not None and cand.config is not None:
        facts = [(c.model_type, c.num_hidden_layers, c.hidden_size) for c in (ref.config, cand.config)]
        if facts[0] != facts[1]:
            raise ValueError(f"(type, layers, hidden size) differ, {facts[0]} and {facts[1]}: not the same model.")
    prompts = [prompts] if isinstance(prompts, torch.Tensor) else list(prompts)
    masks = [attention_mask] if isinstance(attention_mask, torch.Tensor) else attention_mask or [None] * len(prompts)
    ends = torch.tensor(stopping(ref, eos_token_id, None).eos_token_ids, dtype=torch.int64)
    steps: list[tuple[float, float]] = []  # of each step: largest logit difference, largest KL
    compared = agreed = 0
    first: Divergence | None = None
    for index, (ids, mask) in enumerate(zip(prompts, masks, strict=True)):
        limits = {"vocab_size": ref.vocab_size, "max_positions": ref.max_positions, "max_new_tokens": max_new_tokens}
        prompt = check_prompt(ids, mask, **limits)
        live, unread = torch.ones(len(ids), dtype=torch.bool), prompt.input_ids
        for step in range(max_new_tokens):
            for engine in (ref, cand) if step == 0 else ():
                engine.start(prompt.to(engine.device), ids.shape[1] + max_new_tokens)
            outputs = [engine.forward(unread.to(engine.device))[:, -1] for engine in (ref, cand)]
            eps = max(torch.finfo(logits.dtype).eps for logits in outputs)
            want, got = (logits.double().cpu() for logits in outputs)
            expected, chosen = want.argmax(-1), got.argmax(-1)
            unread = expected[:, None]
            kl = (want.log_softmax(-1) - got.log_softmax(-1)).mul(want.softmax(-1)).sum(-1)
            worst = float((want - got).abs().amax(-1)[live].max()), float(kl[live].max())
            _keep_largest(steps, step, worst)
            wrong = (live & (expected != chosen)).nonzero().flatten().tolist()
            compared, agreed = compared + int(live.sum()), agreed + int(live.sum()) - len(wrong)
            if wrong and first is None:
                row = wrong[0]
                best, theirs = int(expected[row]), int(chosen[row])
                margin, rounding = float(want[row, best] - want[row, theirs]), 32 * eps * float(want[row].abs().max())
                first = Divergence(index, row, step, best, theirs, margin, rounding)
            live &= ~torch.isin(expected, ends)
            if not live.any():
                break
    diffs, kls = [d for d, _ in steps], [k for _, k in steps]
    return VerifyReport(first is None, compared, agreed, max(diffs), max(kls), first, diffs, kls)


@torch.no_grad()
def perplexity(decoder: Decoder, input_ids: torch.Tensor, *, attention_mask: torch.Tensor | None = None) -> float:
    """How surprised a decoder is by a text: among how many equally likely tokens it would have to guess each time.

    The exponential of the mean of ``-log p(token | tokens before it)`` over the second to the last token of each row,
    padding left out. 1 is a text that the model knew; the size of the vocabulary, one that it knows nothing about.
    It tells what rounding the weights costs sooner than greedy tokens do, which change only when the order does.

    Parameters
    ----------
    decoder : transformers model, OnnxDecoder, TorchDecoder, or path of an ONNX graph
    input_ids : torch.Tensor
        int ``[batch, length]``, a text and not a prompt: at least 2 tokens in some row.
    attention_mask : torch.Tensor, optional
        int ``[batch, length]``, 0 for padding on the left.

    Raises
    ------
    ValueError
        If there is no second token, or an argument cannot be used.
    """
    engine = _engine(decoder)
    text = check_prompt(input_ids, attention_mask, vocab_size=engine.vocab_size, max_positions=engine.max_positions)
    text = text.to(engine.device)
    counted = (text.attention_mask[:, 1:] * text.attention_mask[:, :-1]).bool()
    if not counted.any():
        raise ValueError(f"input_ids has shape {list(input_ids.shape)}: expected at least 2 tokens in some row.")
    engine.start(text, input_ids.shape[1])
    chunks = text.input_ids.split(1, dim=1) if getattr(engine, "last_only", False) else [text.input_ids]
    losses, seen = [], 0
    for chunk in chunks:
        logits, following = (
            engine.forward(chunk, all_logits=True),
            text.input_ids[:, seen + 1 : seen + 1 + chunk.shape[1]],
        )
        seen += chunk.shape[1]
        if following.shape[1]:
            log_p = logits[:, : following.shape[1]].float().log_softmax(-1)
            losses.append(-log_p.gather(-1, following[..., None])[..., 0])
    return float(torch.cat(losses, dim=1)[counted].mean().exp())


def _keep_largest(steps: list[tuple[float, float]], step: int, worst: tuple[float, float]) -> None:
    if step == len(steps):
        steps.append(worst)
    else:
        steps[step] = max(steps[step][0], worst[0]), max(steps[step][1], worst[1])


def _engine(decoder: Decoder) -> Engine:
    if isinstance(decoder, OnnxDecoder | TorchDecoder):
        return decoder
    if isinstance(decoder, PreTrainedModel):
        return TorchEngine(decoder)
    if isinstance(decoder, str | os.PathLike):
        return OnnxDecoder(decoder)
    raise ValueError(
        f"{type(decoder).__name__}: expected a transformers model, an OnnxDecoder, a TorchDecoder, or a graph's path."
    )
