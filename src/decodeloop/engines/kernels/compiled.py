"""How a decode step is compiled: inductor, told what this package knows about a step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from decodeloop.engines.kernels.merged_linear import with_merged_linears

OVERLAP = "triton.enable_pdl"  # inductor's option: its own kernels start while those before them end


def compiled(model: PreTrainedModel) -> Any:
    """The ``forward`` of a step: linear layers merged, and on a GPU with kernels made for one query of one row."""
    fast = with_merged_linears(model)
    if fast.device.type != "cuda":
        return torch.compile(fast.forward, dynamic=False)
    if fast.config._attn_implementation == "sdpa":
        from decodeloop.engines.kernels.decode_attention import NAME  # Triton comes with PyTorch for GPUs only

        fast.set_attn_implementation(NAME)
    return torch.compile(fast.forward, dynamic=False, options=options(fast.device, fast.dtype))


def options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Inductor's options for a GPU."""
    from decodeloop.engines.kernels.fusion import Fusion
    from decodeloop.engines.kernels.overlap import overlaps

    chosen: dict[str, Any] = {"post_grad_custom_pre_pass": Fusion(dtype)}
    if overlaps(device) and OVERLAP in torch._inductor.list_options():
        chosen[OVERLAP] = True
    return chosen
