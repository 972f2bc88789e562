"""A decoder whose attention *is* ONNX Runtime's GroupQueryAttention, emitted directly: no pattern is searched for.

transformers calls the attention function that is registered under a model's ``attn_implementation``. Ours emits one
``com.microsoft::GroupQueryAttention`` node, which takes the new keys and values and the past, and returns the present.
Past and present are one buffer of fixed capacity; how much of it a row fills is told by the attention mask. Rows are
padded on the right there, so that each row's text starts at the beginning of its buffer.

Source: the operator's documentation, onnxruntime's ``docs/ContribOperators.md``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface

from decodeloop.caches.convert import cache_to_tensors

NAME = "decodeloop_gqa"


class PassThroughLayer(CacheLayerMixin):
    """A layer that hands new keys and values on: the operator keeps the rest."""

    is_sliding = False

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:  # its name before transformers 5.20
        return -1


class GqaCache(Cache):
    """What transformers takes for a cache, and where the attention function finds the real one's tensors."""

    def __init__(self, past: list[torch.Tensor], seqlens_k: torch.Tensor, total: torch.Tensor) -> None:
        super().__init__(layers=[PassThroughLayer() for _ in past[::2]])
        self.past, self.seqlens_k, self.total = past, seqlens_k, total
        self.present: list[torch.Tensor | None] = [None] * len(past)


_CACHE: ContextVar[GqaCache] = ContextVar("gqa_cache")


def gqa_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """``[B, N, S, D], [B, K, S, D], [B, K, S, D] -> [B, S, N, D]``: one GroupQueryAttention node."""
    if unused.get("s_aux") is not None or unused.get("position_bias") is not None:
        raise ValueError("its attention has sinks or a position bias")
    cache, layer = _CACHE.get(), int(module.layer_idx)
    batch, heads, length, size = query.shape
    if value.shape != key.shape:
        raise ValueError("its keys and values differ in size")
    past_key, past_value = cache.past[2 * layer], cache.past[2 * layer + 1]

    def flat(tensor: torch.Tensor) -> torch.Tensor:  # [B, N, S, D] -> [B, S, N * D]
        return tensor.transpose(1, 2).reshape(tensor.shape[0], tensor.shape[2], -1)

    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": key.shape[1]}
    attributes["scale"] = float(scaling) if scaling else size**-0.5
    if sliding_window:
        attributes["local_window_size"] = int(sliding_window)
    if softcap:
        attributes["softcap"] = float(softcap)
    out, *cache.present[2 * layer : 2 * layer + 2] = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (flat(query), flat(key), flat(value), past_key, past_value, cache.seqlens_k, cache.total),
        attributes,
        dtypes=(query.dtype, key.dtype, value.dtype),
        shapes=([batch, length, heads * size], list(past_key.shape), list(past_value.shape)),
        version=1,
    )
    return out.to(query.device).reshape(batch, length, heads, size), None  # the symbolic result is a CPU tensor


AttentionInterface.register(NAME, gqa_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


class GqaDecoder(torch.nn.Module):
    """The graph's signature: flat buffers in and out, and the logits of the last column, or of all."""

    def __init__(self, model: PreTrainedModel, last_only: bool) -> None:
        super().__init__()
        self.model, self.last_only = model, last_only

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """``[B, S], [B, T], [B, S], 2L x [B, K, capacity, D] -> [B, 1 or S, vocabulary], 2L x [B, K, capacity, D]``."""
        seqlens_k = (attention_mask.sum(-1) - 1).to(torch.int32)

        def last_token(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            return (inputs[0][:, -1:],)

        cache = GqaCache(past_key_values, seqlens_k, _total(attention_mask))
        token = _CACHE.set(cache)
        hook = self.model.get_output_embeddings().register_forward_pre_hook(last_token) if self.last_only else None
        try:
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=None,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
        finally:
            _CACHE.reset(token)
            if hook is not None:
                hook.remove()
        if any(tensor is None for tensor in cache.present):
            raise ValueError("not every layer's attention goes through transformers' attention interface")
        return outputs.logits, *cache.present


def _total(attention_mask: torch.Tensor) -> torch.Tensor:
    """The total length, made from a *shape*: a CPU scalar, which a CUDA graph can be captured with."""
    op = torch.onnx.ops.symbolic
    total = op("Shape", (attention_mask,), {"start": 1, "end": 2}, dtype=torch.int64, shape=[1], version=21)
    total = op("Squeeze", (total,), dtype=torch.int64, shape=[], version=21)
    return op("Cast", (total,), {"to": 6}, dtype=torch.int32, shape=[], version=21)


@contextlib.contextmanager
def gqa_attentions(model: PreTrainedModel) -> Iterator[None]:
    """The model with our attention function, and as it was afterwards."""
    before = model.config.get_text_config(decoder=True)._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


def gqa_inputs(model: PreTrainedModel, example: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The example inputs of :func:`decodeloop.export_inputs`, with buffers for a cache, and what varies in them.

    Raises
    ------
    ValueError
        If the model takes no position ids, so that it finds positions in another way than this export can give.
    """
    if "position_ids" not in example:
        raise ValueError(
            f'{type(model).__name__} takes no position ids, which this export must give: use exporter="dynamo".'
        )
    capacity = 16
    buffers = [
        tensor.new_zeros(*tensor.shape[:2], capacity, tensor.shape[3])
        for tensor in cache_to_tensors(example["past_key_values"])
    ]
    dynamic_shapes = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total"},
        "position_ids": {0: "batch", 1: "sequence"},
        "past_key_values": [{0: "batch", 2: "capacity"} for _ in buffers],
    }
    return example | {"past_key_values": buffers}, dynamic_shapes
