"""Recurrent layers in a graph that reads a prompt in one run: all products at once, and the recurrence as a loop.

transformers' own code reads several tokens in chunks of a fixed number, as many as the text has, which no graph can
hold. What a chunk computes is the same recurrence that a single token takes, so here it is written token by token, as
PyTorch's ``scan``, which becomes ONNX's ``Scan``. Three recurrences serve the models that are known:

- the gated delta rule (`Yang, Kautz and Hatamizadeh 2024 <https://arxiv.org/abs/2412.06464>`_) of Qwen 3.5 and
  Qwen3-Next, and with a decay for each channel that of Kimi Linear (`2025 <https://arxiv.org/abs/2510.26692>`_): the
  model's own function for one token, looped;
- the state space of `Mamba-2 <https://arxiv.org/abs/2405.21060>`_: Falcon-H1, Bamba, Granite, Nemotron-H, Zamba2;
- the selective scan of `Mamba <https://arxiv.org/abs/2312.00752>`_: Jamba, Zamba, Falcon Mamba.

A model with another recurrence is traced for one token, and its graph reads a prompt token by token.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch._higher_order_ops.scan import scan
from torch.nn.functional import silu, softplus
from transformers import PreTrainedModel

#: transformers' functions that read several tokens by the delta rule, and theirs for one token.
DELTA_RULES = {
    "torch_chunk_gated_delta_rule": "torch_recurrent_gated_delta_rule",
    "chunk_kimi_delta_attention": "recurrent_kimi_delta_attention",
}
MAMBA, MAMBA2 = "mamba_selective_scan", "mamba2_chunk_scan"


def knows_recurrences(model: PreTrainedModel) -> bool:
    """Whether the model's recurrences are among those that can be written as a loop."""
    return any(_replacements(module, {}) for module in _modules(model))


@contextlib.contextmanager
def looped(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, the model's recurrences are loops over tokens; after it, they are as they were."""
    states: dict[str, Any] = {}
    before = []
    for module in _modules(model):
        for name, function in _replacements(module, states).items():
            before.append((module, name, getattr(module, name)))
            setattr(module, name, function)
    layers = (module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int))
    mixers = [layer for layer in layers if hasattr(sys.modules[type(layer).__module__], MAMBA)]
    hooks = [mixer.register_forward_pre_hook(_note_state(states), with_kwargs=True) for mixer in mixers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, name, function in before:
            setattr(module, name, function)


def _modules(model: PreTrainedModel) -> list[ModuleType]:
    """The modules that the model's layers are defined in."""
    names = dict.fromkeys(type(module).__module__ for module in model.modules())
    return [sys.modules[name] for name in names]


def _replacements(module: ModuleType, states: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    found = {
        many: _delta_rule(getattr(module, one))
        for many, one in DELTA_RULES.items()
        if hasattr(module, many) and hasattr(module, one)
    }
    if hasattr(module, MAMBA2):
        found[MAMBA2] = _state_space
    if hasattr(module, MAMBA):
        found[MAMBA] = _selective_scan(states)
    return found


def _loop(step: Callable[..., Any], state: torch.Tensor, *columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``step(state, *column) -> state, output`` for each column of ``[batch, tokens, ...]`` tensors.

    Returns the last state, and the outputs ``[batch, tokens, ...]``.
    """

    def body(state: torch.Tensor, column: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        new, output = step(state, *column)
        return new.clone(), output.clone()  # of its own: a scan's results may share no memory with what it is given

    by_token = tuple(column.transpose(0, 1).contiguous() for column in columns)
    last, outputs = scan(body, state, by_token, dim=0)
    return last, outputs.transpose(0, 1)


def _delta_rule(one_token: Callable[..., Any]) -> Callable[..., Any]:
    def many_tokens(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor | None = None,
        use_qk_l2norm_in_kernel: bool = False,
        **ignored: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def step(state: torch.Tensor, *column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            q, k, v, decay, rate = (each[:, None] for each in column)
            output, new = one_token(
                q,
                k,
                v,
                g=decay,
                beta=rate,
                initial_state=state,
                output_final_state=True,
                use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
            )
            return new, output[:, 0]

        if initial_state is None:
            (batch, _, heads, size), width = value.shape, key.shape[-1]
            initial_state = value.new_zeros(batch, heads, width, size)
        state, outputs = _loop(step, initial_state.float(), query, key, value, g, beta)
        return outputs, state

    return many_tokens


def _state_space(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    chunk_size: int,
    D: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    initial_states: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **ignored: Any,
) -> Any:
    """``[batch, tokens, heads, size], [batch, tokens, heads], [heads], twice [batch, tokens, groups, state]``."""
    batch, _, heads, size = hidden_states.shape
    dt = _time_step(dt, dt_bias, dt_softplus)
    if tuple(dt_limit) != (0.0, float("inf")):  # transformers does so where it reads several tokens, and only there
        several = torch.ones_like(dt[0, :, 0]).sum() > 1
        dt = torch.where(several, dt.clamp(*dt_limit), dt)
    x, dt = hidden_states.float(), dt.float()
    B, C = (each.float().repeat_interleave(heads // each.shape[2], dim=2, output_size=heads) for each in (B, C))

    def step(state: torch.Tensor, *column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, dt, b, c = column
        new = state * (dt * A.float()).exp()[..., None, None] + (dt[..., None] * x)[..., None] * b[:, :, None]
        return new, (new * c[:, :, None]).sum(-1)

    if initial_states is None:
        initial_states = x.new_zeros(batch, heads, size, B.shape[-1])
    state, outputs = _loop(step, initial_states.float(), x, dt, B, C)
    if D is not None:
        outputs = outputs + D.float()[:, None] * x
    outputs = outputs.to(hidden_states.dtype)
    return (outputs, state) if return_final_states else outputs


def _selective_scan(states: dict[str, Any]) -> Callable[..., Any]:
    def many_tokens(
        hidden_states: torch.Tensor,
        dt: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
        delta_bias: torch.Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **ignored: Any,
    ) -> Any:
        """``[batch, channels, tokens]`` twice, ``[channels, state]``, ``[batch, state, tokens]`` twice."""
        by_token = (each.transpose(1, 2) for each in (hidden_states, dt, B, C))
        x, dt, B, C = (each.float() for each in by_token)
        dt = _time_step(dt, delta_bias, delta_softplus)

        def step(state: torch.Tensor, *column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x, dt, b, c = column
            new = state * (dt[..., None] * A.float()).exp() + (dt * x)[..., None] * b[:, None]
            return new, (new * c[:, None]).sum(-1)

        before = states.get("current")
        if before is None:
            before = x.new_zeros(x.shape[0], *A.shape)
        elif before.ndim > A.ndim + 1:  # Zamba's layers have several, which are read one after the other
            before, states["calls"] = before[:, states["calls"]], states["calls"] + 1
        state, outputs = _loop(step, before.float(), x, dt, B, C)
        outputs = outputs.transpose(1, 2)
        if D is not None:
            outputs = outputs + D[:, None] * hidden_states
        if z is not None:
            outputs = outputs * silu(z)
        outputs = outputs.to(hidden_states.dtype)
        return (outputs, state) if return_last_state else outputs

    return many_tokens


def _note_state(states: dict[str, Any]) -> Callable[..., None]:
    """A hook that remembers the state with which a layer begins: Mamba's own scan begins with none."""

    def hook(layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        cache: Any = options.get("cache_params", options.get("past_key_values"))
        known = cache is not None and hasattr(cache.layers[layer.layer_idx], "recurrent_states")
        states["current"], states["calls"] = cache.get_recurrent_state(layer.layer_idx) if known else None, 0

    return hook


def _time_step(dt: torch.Tensor, bias: torch.Tensor | None, positive: bool) -> torch.Tensor:
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    return softplus(dt) if positive else dt
