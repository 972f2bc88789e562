"""How a decode step is compiled: inductor, told what this package knows about a step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from decodeloop.engines.kernels.merged_linear import with_merged_linears

#: Inductor's options, which older versions may lack. What a step does to queries, to keys and to values, each on its
#: own, becomes one kernel.
COMBINED, OVERLAP = "combo_kernels", "triton.enable_pdl"


def compiled(model: PreTrainedModel) -> Any:
    """The ``forward`` of a step: linear layers merged, and on a GPU with kernels made for one query of one row."""
    fast = with_merged_linears(model)
    if fast.device.type != "cuda":
        return torch.compile(fast.forward, dynamic=False)
    tells = fast._supports_attention_backend and not fast._supports_sdpa  # in its arguments, of caps and sinks too
    if fast.config._attn_implementation == "sdpa" or tells:
        from decodeloop.engines.kernels.decode_attention import NAME  # Triton comes with PyTorch for GPUs only

        fast.set_attn_implementation(NAME)
    return torch.compile(fast.forward, dynamic=False, options=options(fast.device, fast.dtype))


def options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Inductor's options for a GPU."""
    from decodeloop.engines.kernels.fusion import Fusion
    from decodeloop.engines.kernels.overlap import overlaps

    known = torch._inductor.list_options()
    wanted = {COMBINED: True, OVERLAP: overlaps(device)}
    return {"post_grad_custom_pre_pass": Fusion(dtype), **{name: wanted[name] for name in wanted if name in known}}
