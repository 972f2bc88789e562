"""How surprised a decoder is by a text."""

from __future__ import annotations

import torch

from decodeloop.decoding.prompt import check_prompt
from decodeloop.measuring.agreement import Decoder, as_engine


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

    Examples
    --------
    >>> import decodeloop
    >>> loaded = decodeloop.load(device="cpu")
    >>> code, noise = (
    ...     loaded.tokenizer(text, return_tensors="pt").input_ids
    ...     for text in ("for i in range(10):", "for i in banana 7 of ]")
    ... )
    >>> perplexity(loaded.model, code) < perplexity(loaded.model, noise)
    True
    """
    engine = as_engine(decoder)
    text = check_prompt(input_ids, attention_mask, vocab_size=engine.vocab_size, max_positions=engine.max_positions)
    text = text.to(engine.device)
    counted = (text.attention_mask[:, 1:] * text.attention_mask[:, :-1]).bool()
    if not counted.any():
        raise ValueError(f"input_ids has shape {list(input_ids.shape)}: expected at least 2 tokens in some row.")
    engine.start(text, input_ids.shape[1])
    ids = text.input_ids
    size = 1 if getattr(engine, "last_only", False) else ids.shape[1]  # where only the last logits come out, one by one
    losses = []
    for chunk, following in zip(torch.split(ids, size, dim=1), torch.split(ids[:, 1:], size, dim=1), strict=False):
        log_p = engine.forward(chunk, all_logits=True)[:, : following.shape[1]].float().log_softmax(-1)
        losses.append(-log_p.gather(-1, following[..., None])[..., 0])
    return float(torch.cat(losses, dim=1)[counted].mean().exp())
