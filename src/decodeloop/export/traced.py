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
from transformers import PreTrainedModel

from decodeloop.caches.states import (
    State,
    cache_argument,
    full_cache,
    read_state,
    silent_layers,
    states_of,
    write_state,
)
from decodeloop.export import lean
from decodeloop.export.recurrences import knows_recurrences, looped
from decodeloop.export.rewrites import Rewrites, at_least_one, erf_inv
from decodeloop.export.supported import one_line, refuse

#: What attention and experts are traced with: the ways to compute them that PyTorch's exporter can follow.
ATTENTION = ("eager", "sdpa")
EXPERTS = "grouped_mm"


class FlatDecoder(torch.nn.Module):
    """A decoder with the signature of an ONNX graph: flat tensors in, logits and flat tensors out.

    ``torch.export`` cannot trace a cache object through a model's signature, so the cache is built inside. It keeps
    every position, for sliding layers too: their mask hides what lies outside the window.

    Parameters
    ----------
    model : transformers PreTrainedModel
    states : list of State
        What the flat tensors are, in order.
    last_only : bool
        Whether the logits of the last position are all that is asked for.
    """

    def __init__(self, model: PreTrainedModel, states: list[State], last_only: bool = False) -> None:
        super().__init__()
        self.model, self.states = model, states
        accepts = inspect.signature(model.forward).parameters
        self.cache_argument = cache_argument(model)
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
        """``[B, S], [B, T], [B, S], states of P tokens -> [B, S, vocabulary], states of T tokens``."""
        at_least_one(input_ids.shape[1])
        cache = full_cache(self.model.config)
        for state, tensor in zip(self.states, past_key_values, strict=True):
            write_state(cache, state, tensor if state.grows is not None else tensor.clone())
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        mask = attention_mask
        if self.cache_argument != "past_key_values":  # no attention: what counts is whether the new ones are padding
            mask = attention_mask[:, -input_ids.shape[1] :]
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            use_cache=True,
            **{self.cache_argument: cache},
            **positions,
            **self.keep,
        )
        logits = outputs.logits[:, -1:] if self.last_only else outputs.logits
        kept = [read_state(cache, state) for state in self.states]
        begun = attention_mask[:, -1] != 0  # a row that is padding so far has read nothing
        return logits, *(
            new if state.grows is not None else torch.where(begun.view(-1, *[1] * (new.ndim - 1)), new, before)
            for state, new, before in zip(self.states, kept, past_key_values, strict=True)
        )


def export_inputs(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Example inputs for a decoder, with a filled cache, and which of their dimensions vary.

    Parameters
    ----------
    model : transformers PreTrainedModel
        Any decoder; trained or not makes no difference.

    Returns
    -------
    inputs : dict
        ``model(**inputs)`` runs. ``input_ids`` and ``position_ids`` are int64 ``[2, 3]``, ``attention_mask`` int64
        ``[2, 8]``, ``past_key_values`` a ``DynamicCache`` of 5 tokens that the model itself filled. No dimension that
        varies is 0 or 1, which an exporter would take for a constant.

        A model with a recurrence that cannot be traced for several tokens is given one: ``input_ids`` and
        ``position_ids`` are ``[2, 1]``, ``attention_mask`` ``[2, 6]``. A model without attention calls its cache
        ``cache_params``, and its mask is that of the new tokens.
    dynamic_shapes : dict
        The same names; dimension to the name of its size. For the cache, one entry per flat tensor, in the order of
        :func:`decodeloop.cache_to_tensors`.

    Raises
    ------
    ValueError
        If the model keeps something that has no name in a graph, or nothing; the message names what it keeps.
    """
    return example_inputs(model, one_by_one=not knows_recurrences(model))


def example_inputs(model: PreTrainedModel, one_by_one: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """As :func:`export_inputs`; ``one_by_one``: with one new token, where the model has a recurrence at all.

    A convolution's state is a window over the text, which is cut out for any number of tokens.
    """
    refuse(model)
    cache = full_cache(model.config)
    batch, past, new = 2, 5, 3
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (batch, past + new), generator=generator).to(model.device)
    name, accepts = cache_argument(model), inspect.signature(model.forward).parameters
    with exportable(model):  # other ways may have to be compiled first, as flex attention has
        try:
            kept = getattr(model(input_ids=ids[:, :past], use_cache=True, **{name: cache}), name, None)
        except Exception as error:
            raise ValueError(f"{type(model).__name__} does not run on token ids alone: {one_line(error)}") from error
    if lost := silent_layers(cache):
        raise ValueError(
            f"{type(model).__name__} keeps what layer {lost[0]} remembers in its modules, not in its cache: expected a "
            "model that hands all of its state on."
        )
    states = states_of(cache)
    if kept is None or not states:
        hint = "; it reads in both directions unless its configuration says is_decoder=True"
        hint = hint if getattr(model.config, "is_decoder", True) is False else ""
        raise ValueError(f"{type(model).__name__} keeps no keys and values{hint}.")
    tensors = {state: read_state(cache, state) for state in states}
    lengths = {tensor.shape[state.grows] for state, tensor in tensors.items() if state.grows is not None}
    if lengths and lengths != {past}:
        put = " or ".join(map(str, sorted(lengths)))
        raise ValueError(
            f"{type(model).__name__} read {past} tokens and put {put} positions into its cache: a graph's mask tells "
            "of one for each token."
        )
    if one_by_one and any(state.name.startswith("recurrent") for state in states):
        new, ids = 1, ids[:, : past + 1]
    positions = torch.arange(past, past + new, device=model.device).expand(batch, new).contiguous()
    mask = torch.ones_like(ids)
    inputs = {
        "input_ids": ids[:, past:].contiguous(),
        "attention_mask": mask if name == "past_key_values" else mask[:, past:],
        "position_ids": positions,
        name: cache,
    }
    sequence: dict[int, Any] = {} if new == 1 else {1: "sequence"}
    dynamic_shapes = {
        "input_ids": {0: "batch", **sequence},
        "attention_mask": {0: "batch", 1: "total"} if name == "past_key_values" else {0: "batch"},
        "position_ids": {0: "batch", **sequence},
        name: [{0: "batch"} | ({} if state.grows is None else {state.grows: "past"}) for state in states],
    }
    if "position_ids" not in accepts:
        del inputs["position_ids"], dynamic_shapes["position_ids"]
    return inputs, dynamic_shapes


@torch.no_grad()
def check_trace(decoder: FlatDecoder, program: torch.export.ExportedProgram, inputs: dict[str, Any]) -> None:
    """Raise ValueError unless the trace computes what the model does, with an empty cache and with a longer one.

    A model that takes another way when its cache is empty, or for one token, is traced on one of these ways, in
    silence. So the trace is run at sizes that it was not made with, one row padded, and compared with the model.
    """
    traced = program.module(check_guards=False)
    given = inputs["input_ids"].shape[1]
    for batch, new, past in ((3, 7, 0), (1, 1, 9)) if given > 1 else ((3, 1, 3), (1, 1, 9)):
        generator = torch.Generator().manual_seed(batch)
        ids = inputs["input_ids"].flatten()[torch.randint(0, 2 * given, (batch, new), generator=generator)]
        mask = torch.ones(batch, past + new, dtype=torch.int64, device=ids.device)
        mask[1:2, :4] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, past:]
        cache = [
            _resized(tensor[:1], state.grows, past).repeat(batch, *[1] * (tensor.ndim - 1))
            for state, tensor in zip(decoder.states, inputs["past_key_values"], strict=True)
        ]
        values = ids, mask, None if inputs["position_ids"] is None else positions, cache
        expected, got = (forward(**dict(zip(inputs, values, strict=True)))[0][:, -1] for forward in (decoder, traced))
        if not (expected.float() - got.float()).norm() <= 0.05 * expected.float().norm():
            raise ValueError(
                f"{type(decoder.model).__name__} cannot be exported: for {new} new tokens after {past} it computes in "
                f"another way than for {given} after 5, and a graph has one way."
            )


def _resized(tensor: torch.Tensor, dim: int | None, length: int) -> torch.Tensor:
    """The tensor with so many positions along ``dim``, up to four times as many as it has."""
    return tensor if dim is None else tensor.repeat_interleave(4, dim=dim).narrow(dim, 0, length)


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
def rewritten(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, what an exporter cannot follow is put in a way that it can."""
    with RealViews(), Rewrites(), looped(model):
        yield


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
        with torch.no_grad():
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
    **lean.TRANSLATIONS,
}
