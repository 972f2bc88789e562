"""What is given where a model is asked for, and what is no decoder."""

from __future__ import annotations

import inspect

import torch
from transformers import DynamicCache, PreTrainedModel

from decodeloop.models.load import LoadedModel

#: Arguments by which models are handed what they keep in a form of their own, and what that is.
STATES = {
    "cache_params": "a recurrent state in a cache of its own",
    "state": "a recurrent state",
    "mems": "earlier hidden states (mems)",
    "past_buckets_states": "hashed buckets of hidden states",
}


def as_model(given: PreTrainedModel | LoadedModel) -> PreTrainedModel:
    """The model itself, where a model or what ``load`` returned is given.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(given, LoadedModel):
        return given.model
    if isinstance(given, torch.nn.Module) and hasattr(given, "config"):
        return given  # or a wrapper around one
    raise ValueError(f"{type(given).__name__}: expected a transformers model, or what decodeloop.load returns.")


def check_decoder(model: PreTrainedModel) -> None:
    """Refuse, in one line, a model that does not continue a text by one of transformers' caches.

    Raises
    ------
    ValueError
    """
    if not isinstance(model, PreTrainedModel):
        return  # a wrapper around one, whose signature says nothing
    name, accepts = type(model).__name__, inspect.signature(model.forward).parameters
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name} has an encoder: expected a decoder-only model.")
    if "past_key_values" not in accepts and not ("cache_params" in accepts and _has_states(model)):
        states = [argument for argument in accepts if argument in STATES]
        kept = f"keeps {STATES[states[0]]}" if states else "keeps nothing between steps"
        raise ValueError(f"{name} {kept}: expected one of transformers' caches (past_key_values).")
    if not model.can_generate():
        raise ValueError(f"{name} gives no logits: expected a model with a language modeling head, as ...ForCausalLM.")


def _has_states(model: PreTrainedModel) -> bool:
    """Whether transformers' own cache has room for the states that the model keeps."""
    try:
        return any(hasattr(layer, "conv_states") for layer in DynamicCache(config=model.config).layers)
    except Exception:  # it makes none for this model
        return False
