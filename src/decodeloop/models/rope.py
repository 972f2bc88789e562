"""Rotary embeddings whose frequencies depend on how long the text is."""

from __future__ import annotations

from transformers import PreTrainedConfig


def fixed_rope_length(config: PreTrainedConfig | None) -> int | None:
    """Up to how many positions the rotary frequencies are one set; None where they always are.

    Longrope has a second set for texts longer than the original length; dynamic NTK changes with each position.
    """
    config = config and config.get_text_config(decoder=True)
    scaling = getattr(config, "rope_parameters", None) or {}
    limits = []
    for each in [scaling, *scaling.values()]:
        kind = str(each.get("rope_type")) if isinstance(each, dict) else ""
        if kind == "longrope":
            original = each.get("original_max_position_embeddings")
            limits.append(original or getattr(config, "original_max_position_embeddings", None))
        elif "dynamic" in kind:
            limits.append(getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit), default=None)


def check_rope_length(config: PreTrainedConfig | None, positions: int, name: str, why: str) -> None:
    """Refuse a text that grows past the length up to which the rotary frequencies are one set.

    Raises
    ------
    ValueError
    """
    limit = fixed_rope_length(config)
    if limit is not None and positions > limit:
        raise ValueError(
            f"{name}'s rotary frequencies are others beyond {limit} positions, and this needs {positions}: {why}. "
            "Shorten it, or use decodeloop.generate(model, ...), without lookup."
        )
