"""A checked prompt: token ids, the attention mask that belongs to them, and the positions that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decodeloop.checks import check_count, check_dense


@dataclass(frozen=True)
class Prompt:
    """Token ids of a left-padded batch, checked once so that the decode loops need not check them again.

    Attributes
    ----------
    input_ids : torch.Tensor
        int64 ``[batch, length]``.
    attention_mask : torch.Tensor
        int64 ``[batch, length]``, 1 for a token, 0 for padding on its left.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def longest(self) -> int:
        """How many tokens the longest row has, padding left out."""
        return int(self.attention_mask.sum(-1).max())

    def mask(self, length: int) -> torch.Tensor:
        """int64 ``[batch, length]``: the mask of the text's first ``length`` positions; all after the prompt count."""
        given = self.attention_mask[:, :length]
        return torch.nn.functional.pad(given, (0, length - given.shape[1]), value=1)

    def positions(self, length: int, last: int) -> torch.Tensor:
        """int64 ``[batch, last]``: positions of the last of ``length`` columns; rows count from 0, padding has 0."""
        padding = (self.attention_mask == 0).sum(-1, keepdim=True)
        return (torch.arange(length - last, length, device=padding.device) - padding).clamp(min=0)

    def to(self, device: torch.device | str) -> Prompt:
        """The same prompt on another device."""
        return Prompt(self.input_ids.to(device), self.attention_mask.to(device))


def check_prompt(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    vocab_size: int | None = None,
    max_positions: int | None = None,
    max_new_tokens: int = 0,
) -> Prompt:
    """Check what a user asks a decoder to continue.

    Parameters
    ----------
    input_ids : torch.Tensor
        Integers ``[batch, length]``, both at least 1.
    attention_mask : torch.Tensor, optional
        Same shape; 0 marks padding, which must stand on the left. Default: no padding.
    vocab_size, max_positions : int, optional
        The model's limits, where it has them.
    max_new_tokens : int
        How many tokens will be added; 0 or more.

    Raises
    ------
    ValueError
        Naming the value that cannot be used, what was expected, and what to do.
    """
    input_ids = _integers(input_ids, "input_ids")
    batch, length = input_ids.shape
    if batch == 0 or length == 0:
        raise ValueError(
            f"input_ids has shape {[batch, length]}: the prompt is empty. A model continues at least one token; "
            "give it a beginning-of-sequence token if there is no text."
        )
    check_count("max_new_tokens", max_new_tokens)
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        known = "0 or more" if vocab_size is None else f"0 to {vocab_size - 1}, the model's vocabulary"
        raise ValueError(
            f"input_ids holds token id {low if low < 0 else high}, outside {known}. "
            "Was the text tokenised with another model's tokenizer?"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    attention_mask = _check_mask(_integers(attention_mask, "attention_mask"), input_ids)
    longest = int(attention_mask.sum(-1).max())
    if max_positions is not None and longest + max_new_tokens > max_positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} need {longest + max_new_tokens} "
            f"positions, and the model has {max_positions}. Shorten the prompt or ask for at most "
            f"{max(max_positions - longest, 0)} new tokens."
        )
    return Prompt(input_ids, attention_mask.to(input_ids.device))


def _integers(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(
            f"{name} is a {type(tensor).__name__}: expected an integer tensor [batch, length], such as "
            'tokenizer(text, return_tensors="pt").input_ids.'
        )
    if tensor.ndim != 2:
        raise ValueError(f"{name} has shape {list(tensor.shape)}: expected [batch, length]; for one row, add [None].")
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name} has dtype {tensor.dtype}: expected integers.")
    return check_dense(name, tensor).to(torch.int64)


def _check_mask(mask: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)} and input_ids {list(input_ids.shape)}: "
            "expected the same shape, one mask value for each token of the prompt."
        )
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"attention_mask holds {mask.unique().tolist()}: expected 0 (padding) and 1 (token) only.")
    empty = (mask.sum(-1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"attention_mask is all zeros in row {empty[0]}: a row needs at least one token.")
    holes = (mask[:, 1:] < mask[:, :-1]).any(-1).nonzero().flatten().tolist()
    if holes:
        raise ValueError(
            f"attention_mask row {holes[0]} has padding to the right of a token: {mask[holes[0]].tolist()}. New tokens "
            'are appended on the right, so padding must stand on the left: set tokenizer.padding_side = "left".'
        )
    return mask
