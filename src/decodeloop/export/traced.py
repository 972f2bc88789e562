"""A transformers decoder as a graph sees it: flat tensors in and out, and no feature that a graph cannot hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir
import torch
from onnxscript import opset20 as op
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from decodeloop.export.rewrites import Rewrites, at_least_one, erf_inv
from decodeloop.export.supported import one_line, refuse

#: What attention and experts are traced with: the ways to compute them that PyTorch's exporter can follow.
ATTENTION = ("eager", "sdpa")
EXPERTS = "grouped_mm"


class FlatDecoder(torch.nn.Module):
    """A decoder with the signature of an ONNX graph: flat tensors in, logits and flat tensors out.

    ``torch.export`` cannot trace a cache object through a model's signature, so the cache is built inside. It keeps
    every position, for sliding layers too: their mask hides what lies outside the window.
    """

    def __init__(self, model: PreTrainedModel, layers: list[int], last_only: bool = False) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        accepts = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepts
        self.last_only = last_only
        self.keep = {"logits_to_keep": 1} if last_only and "logits_to_keep" in accepts else {}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """``[B, S], [B, T], [B, S], 2L x [B, heads, P, size] -> [B, S, vocabulary], 2L x [B, heads, T, size]``."""
        at_least_one(input_ids.shape[1])
        cache = full_cache(self.model)
        for layer, keys, values in zip(self.layers, past_key_values[::2], past_key_values[1::2], strict=True):
            cache.update(keys, values, layer)
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
            **self.keep,
        )
        logits = outputs.logits[:, -1:] if self.last_only else outputs.logits
        return logits, *flat_tensors(outputs.past_key_values)


def full_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache, every layer of which keeps all positions; a layer that keeps nothing stays such."""
    cache = DynamicCache()
    layers = DynamicCache(config=model.config).layers
    cache.layers = [DynamicLayer() if isinstance(layer, DynamicLayer) else layer for layer in layers]
    return cache


def filled_layers(cache: DynamicCache) -> list[int]:
    """The layers that hold keys and values; one that reuses another's, or has no attention, does not."""
    return [index for index, layer in enumerate(cache.layers) if getattr(layer, "keys", None) is not None]


def flat_tensors(cache: DynamicCache) -> list[torch.Tensor]:
    """Keys and values of each filled layer in turn."""
    layers: list[Any] = [cache.layers[index] for index in filled_layers(cache)]
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def export_inputs(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Example inputs for a decoder, with a filled cache, and which of their dimensions vary.

    Parameters
    ----------
    model : transformers PreTrainedModel
        Any decoder that keeps keys and values; trained or not makes no difference.

    Returns
    -------
    inputs : dict
        ``model(**inputs)`` runs. ``input_ids`` and ``position_ids`` are int64 ``[2, 3]``, ``attention_mask`` int64
        ``[2, 8]``, ``past_key_values`` a ``DynamicCache`` of 5 tokens that the model itself filled. No dimension is 0
        or 1, which an exporter would take for a constant.
    dynamic_shapes : dict
        The same names; dimension to the name of its size. For the cache, one entry per flat tensor, in the order of
        :func:`decodeloop.cache_to_tensors`.

    Raises
    ------
    ValueError
        If the model keeps more than keys and values of each token, or none; the message names what it keeps.
    """
    refuse(model)
    batch, past, new = 2, 5, 3
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (batch, past + new), generator=generator).to(model.device)
    cache = full_cache(model)
    with torch.no_grad():
        try:
            kept = model(input_ids=ids[:, :past], past_key_values=cache, use_cache=True).past_key_values
        except Exception as error:
            raise ValueError(f"{type(model).__name__} does not run on token ids alone: {one_line(error)}") from error
    if kept is None or not filled_layers(cache):
        hint = "; it reads in both directions unless its configuration says is_decoder=True"
        hint = hint if getattr(model.config, "is_decoder", True) is False else ""
        raise ValueError(f"{type(model).__name__} keeps no keys and values{hint}.")
    lengths = {tensor.shape[2] for tensor in flat_tensors(cache)}
    if lengths != {past}:
        put = " or ".join(map(str, sorted(lengths)))
        raise ValueError(
            f"{type(model).__name__} read {past} tokens and put {put} positions into its cache: a graph's mask tells "
            "of one for each token."
        )
    positions = torch.arange(past, past + new, device=model.device).expand(batch, new).contiguous()
    inputs = {
        "input_ids": ids[:, past:].contiguous(),
        "attention_mask": torch.ones_like(ids),
        "position_ids": positions,
        "past_key_values": cache,
    }
    dynamic_shapes = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total"},
        "position_ids": {0: "batch", 1: "sequence"},
        "past_key_values": [{0: "batch", 2: "past"} for _ in flat_tensors(cache)],
    }
    if "position_ids" not in inspect.signature(model.forward).parameters:
        del inputs["position_ids"], dynamic_shapes["position_ids"]
    return inputs, dynamic_shapes


@torch.no_grad()
def check_trace(decoder: FlatDecoder, program: torch.export.ExportedProgram, inputs: dict[str, Any]) -> None:
    """Raise ValueError unless the trace computes what the model does, with an empty cache and with a longer one.

    A model that takes another way when its cache is empty, or for one token, is traced on one of these ways, in
    silence. So the trace is run at sizes that it was not made with, one row padded, and compared with the model.
    """
    traced = program.module(check_guards=False)
    for batch, new, past in ((3, 7, 0), (1, 1, 9)):
        generator = torch.Generator().manual_seed(batch)
        ids = inputs["input_ids"].flatten()[torch.randint(0, 6, (batch, new), generator=generator)]
        mask = torch.ones(batch, past + new, dtype=torch.int64, device=ids.device)
        mask[1:2, :4] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, past:]
        cache = [
            t[:1].repeat_interleave(4, dim=2)[:, :, :past].repeat(batch, 1, 1, 1) for t in inputs["past_key_values"]
        ]
        given = dict(
            zip(inputs, (ids, mask, None if inputs["position_ids"] is None else positions, cache), strict=True)
        )
        expected, got = (forward(**given)[0][:, -1].float() for forward in (decoder, traced))
        if not (expected - got).norm() <= 0.05 * expected.norm():
            raise ValueError(
                f"{type(decoder.model).__name__} cannot be exported: for {new} new tokens after {past} it computes in "
                "another way than for 3 after 5, and a graph has one way."
            )


class RealViews(TorchFunctionMode):
    """Index complex tensors (some models' rotary factors) by their parts: ONNX has no complex type to index."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function in (torch.Tensor.__getitem__, torch.Tensor.unsqueeze) and arguments[0].is_complex():
            parts = torch.view_as_real(arguments[0]).unbind(-1)
            return torch.complex(*(function(part, *arguments[1:], **options) for part in parts))
        return function(*arguments, **options)


@contextmanager
def exportable(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, the model computes in ways that an exporter can follow; after it, it is as it was."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    names = ("_attn_implementation_internal", "_experts_implementation_internal")
    before = [(config, name, getattr(config, name)) for config in configs for name in names if hasattr(config, name)]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for config, name, value in before:
            if name == names[1]:
                setattr(config, name, EXPERTS)
            elif value not in (None, *ATTENTION):
                setattr(config, name, "sdpa" if model._supports_sdpa else "eager")
        with torch.no_grad(), RealViews(), Rewrites():
            yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)
        for module in training:
            module.training = True


def grouped_mm(rows: Any, weights: Any, ends: Any, bias: Any = None, out_dtype: Any = None) -> Any:
    """Experts: each row times the matrix of its group, ``[M, K], [G, K, N], [G] -> [M, N]``.

    The rows are sorted by group; ``ends[g]`` is where group ``g`` ends. Each group becomes a product of its own, over
    no rows if no token was sent to that expert, so the graph reads only what PyTorch reads, whatever the text.
    """
    groups = weights.shape[0]
    axis: Any = op.Constant(value_ints=[0])  # annotated as a constant of any type
    ends = op.Cast(ends, to=onnx_ir.DataType.INT64)
    start, products = op.Constant(value_ints=[0]), []
    for group in range(groups):
        index: Any = op.Constant(value_ints=[group])
        end = op.Gather(ends, index)
        part = op.Slice(rows, start, end, axis)
        products.append(op.MatMul(part, op.Squeeze(op.Gather(weights, index), axis)))
        start = end
    return op.Concat(*products, axis=0)


#: What ``torch.onnx.export`` takes as its ``custom_translation_table``.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.transformers.grouped_mm_fallback.default: grouped_mm,
    torch.ops.aten._grouped_mm.default: grouped_mm,
    torch.ops.prims.erf_inv.default: erf_inv,
}
