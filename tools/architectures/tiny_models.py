"""Any causal language model of transformers as a tiny random one: its configuration shrunk, its features kept."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

#: Sizes by the names that configurations give them. A size that a configuration lacks, or leaves open, is not added.
SIZES = {
    "vocab_size": 128, "vocab_size_per_layer_input": 128, "decoder_vocab_size": 128,
    "type_vocab_size": 2, "entity_vocab_size": 16,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "emb_dim": 32, "dim_model": 32, "embedding_size": 32,
    "word_embed_proj_dim": 32, "embed_dim": 32, "hidden_size_per_layer_input": 16, "lm_head_hidden_size": 32,
    "intermediate_size": 64, "n_inner": 64, "d_ff": 64, "d_inner": 64, "ffn_dim": 64, "dim_ff": 64,
    "ffn_hidden_size": 64,
    "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "intermediate_size_mlp": 64, "dense_intermediate_size": 64,
    "feed_forward_proj_dim": 64, "intermediate_dim": 64, "mlp_intermediate_size": 64, "block_ff_dim": 64,
    "moe_intermediate_size": 32, "expert_ffn_hidden_size": 32, "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32, "shared_intermediate_size": 32, "expert_intermediate_size": 32,
    "expert_ffn_size": 32,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "num_encoder_layers": 2,
    "num_decoder_layers": 2, "encoder_num_hidden_layers": 2,
    "num_key_value_heads": 2, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "num_global_key_value_heads": 2, "attention_heads": 4,
    "head_dim": 16, "kv_channels": 16, "d_kv": 8, "attention_head_size": 16, "swa_head_dim": 16, "global_head_dim": 32,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16,
    "v_head_dim": 12, "rotary_dim": 4, "d_head": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_num_heads": 4, "n_mamba_heads": 4,
    "mamba_head_dim": 16, "state_size": 8, "ssm_state_size": 8, "n_groups": 2, "adapter_rank": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "swa_v_head_dim": 12, "adapter_in_dim": 32, "adapter_input_size": 32, "adapter_out_dim": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_moe_experts": 4,
    "zero_expert_num": 2, "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2,
    "top_k_experts": 2, "experts_per_token": 2, "num_expert_group": 1, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "moe_num_shared_experts": 1, "num_shared_experts": 1,
    "sliding_window": 8, "window_size": 8, "attention_chunk_size": 8, "sliding_window_size": 8,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "moe_layer_start_index": 0, "num_kv_shared_layers": 1,
    "max_position_embeddings": 512, "n_positions": 512, "max_seq_len": 512, "n_ctx": 512,
    "index_topk": 16, "index_head_dim": 16, "index_block_size": 4,
    "index_n_heads": 32,  # enough that no two tokens score 0 in each, where which of them is chosen is left open
    "image_token_id": 127, "image_token_index": 127, "audio_token_id": 126, "video_token_id": 126,
    "boi_token_index": 125, "eoi_token_index": 124, "boi_token_id": 125, "eoi_token_id": 124, "eoa_token_id": 123,
    "boa_token_id": 122, "eoa_token_index": 123, "vision_start_token_id": 121, "vision_end_token_id": 120,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "sep_token_id": 3,
    "mask_token_id": 4,
}  # fmt: skip

#: Sizes that a configuration may leave open and its model needs.
NEEDED = ("head_dim", "num_key_value_heads", "num_experts_per_tok", "n_routed_experts", "n_shared_experts")
#: What a model needs besides sizes.
SPECIAL = {
    "helium": {"head_dim": 8},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"axial_pos_embds": False},
    "lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"num_layers": 2, "num_hidden_layers": 4},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "falcon_h1": {"mamba_d_ssm": 32},
    "xlstm": {"hidden_size": 128},  # its cache rounds the sizes of keys and values up to 64, its layers do not
    "hrm_text": {"num_layers_per_stack": 1, "H_cycles": 2, "L_cycles": 1, "num_hidden_layers": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "qwen4_exp_text": dict.fromkeys(("indexer_n_heads", "indexer_budget", "indexer_compress_ratio"), 2)
    | {"indexer_kv_heads": 1, "indexer_head_dim": 16},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "minimax_m3_vl_text": {"index_n_heads": 2},  # as many as there are heads of keys
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
}
#: Not a language model by itself, though transformers lists it as one, and why.
NO_LANGUAGE_MODEL = {
    "musicgen": "its tokens are sounds of several codebooks, and its configuration holds two encoders besides",
    "musicgen_melody": "its tokens are sounds of several codebooks, and its configuration holds two encoders besides",
    "gemma4_assistant": "it drafts for another model, whose hidden states and keys it reads in place of token ids",
    "gemma4_unified_assistant": "it drafts for another model, whose hidden states and keys it reads in place of ids",
}


def tiny_config(model_type: str, **options: Any) -> PreTrainedConfig:
    """The configuration of a model type at tiny size.

    Two layers; where the kinds of layers alternate (sliding and full attention, dense and experts), up to four, so
    that each kind is there. A sliding window of 8 tokens, at most 4 experts. ``options`` are set last.
    Raises ValueError for what is no language model by itself.
    """
    if model_type in NO_LANGUAGE_MODEL:
        raise ValueError(f"{model_type} is no language model by itself: {NO_LANGUAGE_MODEL[model_type]}.")
    return _shrink(CONFIG_MAPPING[model_type](), options)


def _shrink(default: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedConfig:
    names = {alias: name for name, alias in (default.attribute_map or {}).items()}
    given = {k: v for k, v in default.to_dict().items() if not k.startswith("_")}
    changes: dict[str, Any] = {}
    special = SPECIAL.get(default.model_type, {})
    layers_name = (default.attribute_map or {}).get("num_hidden_layers", "num_hidden_layers")
    total = given.get(layers_name)
    picked = _pick_layers(given, total) if isinstance(total, int) else []
    for name, value in given.items():
        size = SIZES.get(name, SIZES.get(names.get(name, "")))
        sub = default.__dict__.get(name)
        if isinstance(sub, PreTrainedConfig):
            changes[name] = _shrink(sub, {})
        elif name == layers_name and picked:
            changes[name] = len(picked)
        elif isinstance(value, list | tuple) and total and len(value) == total:
            changes[name] = [min(v, size) if isinstance(v, int) and size else v for v in (value[i] for i in picked)]
        elif isinstance(value, list) and name == "eos_token_id":
            changes[name] = 2
        elif size is not None and isinstance(value, int) and not isinstance(value, bool):
            changes[name] = size if name.endswith(("_id", "_index", "vocab_size")) else min(value, size)
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int) and value > 127:
            changes[name] = 119
        elif value is None and name in NEEDED:
            changes[name] = size
    if "qk_rope_head_dim" in changes and "head_dim" in given:
        changes["head_dim"] = changes["qk_rope_head_dim"]
    heads = given.get("num_attention_heads")
    if "num_key_value_heads" in changes and given["num_key_value_heads"] == heads:
        changes["num_key_value_heads"] = 4
    if own := given.get("per_layer_config"):
        layers = {int(layer): _in_proportion(sizes, given, changes) for layer, sizes in own.items()}
        changes["per_layer_config"] = {new: layers[old] for new, old in enumerate(picked) if old in layers}
    if hasattr(default, "is_decoder"):
        changes["is_decoder"] = True
    kept = {k: v for k, v in given.items() if k not in changes and k not in ("model_type", "transformers_version")}
    for name in [name for name, value in kept.items() if isinstance(value, int | list) and _is_derived(default, name)]:
        del kept[name]  # the configuration works it out from the others, which are smaller now
    for name in ("num_labels", "id2label", "label2id", "dtype", "architectures"):
        kept.pop(name, None)
    return type(default)(**copy.deepcopy(kept) | changes | special | options)


def _in_proportion(own: dict[str, Any], given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sizes that a kind of layers has for itself: as much larger or smaller than the others' as they were."""
    own = {name: changes[name] * value // given[name] if name in changes else value for name, value in own.items()}
    if "qk_nope_head_dim" in own:
        own["head_dim"] = own["qk_nope_head_dim"] + own.get("qk_rope_head_dim", changes["qk_rope_head_dim"])
    return own


def _is_derived(default: PreTrainedConfig, name: str) -> bool:
    """Whether a configuration computed a value itself: its class leaves it open, or does not know it."""
    fields = {field.name: field.default for field in dataclasses.fields(default)}
    return fields.get(name) in (None, "auto")


def _pick_layers(given: dict[str, Any], total: int) -> list[int]:
    """Two layers, or four where lists that hold one entry for each layer tell of several kinds."""
    lists = [v for k, v in given.items() if isinstance(v, list | tuple) and len(v) == total]
    kinds = [tuple(str(values[layer]) for values in lists) for layer in range(total)]
    if len(set(kinds)) == 1:
        return [0, 1][:total]
    picked: list[int] = []
    for turn in range(4):  # the first layer of each kind, then the second of each, ...
        layers = {kind: [layer for layer in range(total) if kinds[layer] == kind] for kind in dict.fromkeys(kinds)}
        picked += [found[turn] for found in layers.values() if turn < len(found)]
    return sorted(picked[:4])


def tiny_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model, in float32 and on the CPU, that writes varied text: every parameter is drawn, biases too.

    Embeddings are small beside what the layers add to them; a model whose output embedding is its input embedding
    would otherwise repeat its last token for ever.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    with torch.no_grad():
        for parameter in model.parameters():
            if any(parameter is embedding for embedding in embeddings):
                parameter.normal_(std=0.02)
            elif parameter.ndim >= 2:
                parameter.normal_(std=2 * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(pad_token_id=0)  # nothing forced, nothing forbidden, and no end
    return model
