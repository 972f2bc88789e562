"""How a decode step is compiled: inductor, told what this package knows about a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from decodeloop.engines.kernels.merged_linear import with_merged_linears

#: Inductor's options, which older versions may lack. What a step does to queries, to keys and to values, each on its
#: own, becomes one kernel.
COMBINED, OVERLAP = "combo_kernels", "triton.enable_pdl"


def compiled(model: PreTrainedModel) -> Callable[[], Any]:
    """What makes the ``forward`` of a step: linear layers merged, on a GPU with kernels made for one query of one row.

    Each one made is compiled by itself, for the one size that a step has: of one function, torch compiles eight sizes,
    in all models of its class together, and then runs it as it is.
    """
    fast = with_merged_linears(model)
    wanted: dict[str, Any] | None = None
    if fast.device.type == "cuda":
        tells = fast._supports_attention_backend and not fast._supports_sdpa  # in its arguments, of caps and sinks too
        if fast.config._attn_implementation == "sdpa" or tells:
            from decodeloop.engines.kernels.decode_attention import NAME  # Triton comes with PyTorch for GPUs only

            fast.set_attn_implementation(NAME)
        wanted = options(fast.device, fast.dtype)

    def new_forward() -> Any:
        def forward(*arguments: Any, **named: Any) -> Any:
            return fast.forward(*arguments, **named)

        forward.__code__ = forward.__code__.replace()  # torch counts by code
        return torch.compile(forward, dynamic=False, options=wanted)

    return new_forward


def options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Inductor's options for a GPU."""
    from decodeloop.engines.kernels.fusion import Fusion
    from decodeloop.engines.kernels.overlap import overlaps

    known = torch._inductor.list_options()
    wanted = {COMBINED: True, OVERLAP: overlaps(device)}
    return {"post_grad_custom_pre_pass": Fusion(dtype), **{name: wanted[name] for name in wanted if name in known}}
