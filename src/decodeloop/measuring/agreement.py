"""Do two decoders agree? Both read the same text, and their logits are compared at every step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from decodeloop.checks import check_count, check_sequence
from decodeloop.decoding.engine import Engine
from decodeloop.decoding.greedy import Greedy, greedy
from decodeloop.decoding.prompt import Prompt, check_prompt
from decodeloop.decoding.stopping import TokenIds, end_tokens
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.engines.torch_loop import TorchEngine
from decodeloop.engines.torch_static import TorchDecoder
from decodeloop.measuring.divergence import Pair, Tally, VerifyReport
from decodeloop.models.load import LoadedModel
from decodeloop.quiet import quiet

Decoder = PreTrainedModel | LoadedModel | OnnxDecoder | TorchDecoder | str | os.PathLike[str]


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
    Both choose as the reference's generation_config says. Where the reference is a transformers model, its tokens are
    compared with those of ``model.generate`` too, since two of our loops could be wrong alike.

    Parameters
    ----------
    reference, candidate : transformers model, LoadedModel, OnnxDecoder, TorchDecoder, or path of an ONNX graph
        A graph is opened on the other one's device.
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
    device = next((each.device for each in (reference, candidate) if hasattr(each, "device")), "auto")
    ref, cand = as_engine(reference, device), as_engine(candidate, device)
    _check_comparable(ref, cand)
    ends = end_tokens(ref, eos_token_id)
    tally = Tally()
    for index, (ids, mask) in enumerate(_with_masks(prompts, attention_mask)):
        limits = {"vocab_size": ref.vocab_size, "max_positions": ref.max_positions}
        prompt = check_prompt(ids, mask, max_new_tokens=max_new_tokens, **limits)
        for engine in (ref, cand):
            engine.check(prompt, max_new_tokens)
        choose = greedy(ref, prompt.to(ref.device), max_new_tokens, ends)
        said = []
        for step, (rows, want, got) in enumerate(_paired(ref, cand, choose, prompt, max_new_tokens, ends)):
            tally.add(index, step, rows, want, got)
            said.append((rows, want))
        if isinstance(ref, TorchEngine):
            tally.add_generated(index, said, _generated(ref, prompt, max_new_tokens, ends))
    return tally.report()


def _paired(
    ref: Engine, cand: Engine, choose: Greedy, prompt: Prompt, steps: int, ends: list[int]
) -> Iterator[tuple[torch.Tensor, Pair, Pair]]:
    """Feed both the reference's tokens: at each step the rows that have not ended, and what the two say to them.

    Rows ``[live]``, and of each engine its logits and its scores, ``[live, vocabulary]`` each, all on the CPU.
    """
    text = unread = prompt.input_ids.cpu()
    for engine in (ref, cand):
        engine.start(prompt.to(engine.device), unread.shape[1] + steps)
    live = torch.ones(len(unread), dtype=torch.bool)
    for _ in range(steps):
        logits = [engine.forward(unread.to(engine.device))[:, -1].to(ref.device) for engine in (ref, cand)]
        scores = [choose.scores(text.to(ref.device), each).cpu() for each in logits]
        rows = live.nonzero()[:, 0]
        want, got = ((each.cpu()[rows], score[rows]) for each, score in zip(logits, scores, strict=True))
        yield rows, want, got
        unread = scores[0].argmax(-1, keepdim=True)
        text = torch.cat([text, unread], dim=-1)
        live &= ~torch.isin(unread[:, 0], torch.tensor(ends, dtype=torch.int64))
        if not live.any():
            return


def _generated(ref: TorchEngine, prompt: Prompt, steps: int, ends: list[int]) -> torch.Tensor:
    """The new tokens of transformers' own ``generate``, ``[batch, at most steps]``."""
    given = prompt.to(ref.device)
    model: Any = ref.model
    plain = {"do_sample": False, "return_dict_in_generate": False, "stop_strings": None, "max_time": None}
    with quiet():
        text = model.generate(
            given.input_ids,
            attention_mask=given.attention_mask,
            max_new_tokens=steps,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **plain,
        )
    return text[:, given.input_ids.shape[1] :].cpu()


def _with_masks(
    prompts: torch.Tensor | Sequence[torch.Tensor], masks: torch.Tensor | Sequence[torch.Tensor | None] | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    if isinstance(prompts, torch.Tensor):
        prompts = [prompts]
    prompts = check_sequence("prompts", prompts, "an integer tensor [batch, length], or several", torch.Tensor)
    if isinstance(masks, torch.Tensor):
        masks = [masks]
    what = "a mask for each prompt, or None"
    masks = [None] * len(prompts) if masks is None else check_sequence("attention_mask", masks, what)
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


def as_engine(decoder: Decoder, device: torch.device | str = "auto") -> Engine:
    """What runs a decoder, whichever form it was given in; a graph's path is opened on ``device``.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if isinstance(decoder, OnnxDecoder | TorchDecoder):
        return decoder
    if isinstance(decoder, PreTrainedModel | LoadedModel):
        return TorchEngine(decoder)
    if isinstance(decoder, str | os.PathLike):
        return OnnxDecoder(decoder, device=device)
    raise ValueError(
        f"{type(decoder).__name__}: expected a transformers model, an OnnxDecoder, a TorchDecoder, or a graph's path."
    )
