"""An ONNX graph as a function: open it, decode, and hand the session to the next call."""

from __future__ import annotations

import os
from typing import Literal, Unpack, overload

import torch

from decodeloop.checks import check_choice
from decodeloop.decoding.loop import RunOptions
from decodeloop.engines.onnx_decoder import OnnxDecoder


@overload
def onnx_generate(
    decoder: OnnxDecoder | str | os.PathLike[str],
    input_ids: torch.Tensor,
    *,
    device: torch.device | str = "auto",
    return_session: Literal[False] = False,
    **options: Unpack[RunOptions],
) -> torch.Tensor: ...
@overload
def onnx_generate(
    decoder: OnnxDecoder | str | os.PathLike[str],
    input_ids: torch.Tensor,
    *,
    device: torch.device | str = "auto",
    return_session: Literal[True],
    **options: Unpack[RunOptions],
) -> tuple[torch.Tensor, OnnxDecoder, dict[str, torch.Tensor]]: ...
def onnx_generate(
    decoder: OnnxDecoder | str | os.PathLike[str],
    input_ids: torch.Tensor,
    *,
    device: torch.device | str = "auto",
    return_session: bool = False,
    **options: Unpack[RunOptions],
) -> torch.Tensor | tuple[torch.Tensor, OnnxDecoder, dict[str, torch.Tensor]]:
    """Continue a batch of prompts with an ONNX graph, in one call.

    Parameters
    ----------
    decoder : OnnxDecoder, str or path
        A graph, or the decoder that an earlier call returned: opening a session takes longer than many tokens.
    input_ids : torch.Tensor
        int ``[batch, length]``.
    device : str or torch.device
        Where to run, if ``decoder`` is a path.
    return_session : bool
        Also return the decoder, to be handed to the next call, and the inputs of the last step by name.
    **options
        The keywords of :func:`decodeloop.generate`.

    Returns
    -------
    torch.Tensor, or (torch.Tensor, OnnxDecoder, dict)
        int64 ``[batch, length + new tokens]``, as :func:`decodeloop.generate` returns.
    """
    check_choice("return_session", return_session, True, False)
    if not isinstance(decoder, OnnxDecoder):
        decoder = OnnxDecoder(decoder, device=device)
    tokens = decoder.generate(input_ids, **options)
    return (tokens, decoder, decoder.feeds()) if return_session else tokens
