"""Writes small GGUF files: a llama of two layers with a tokenizer of single characters and a chat template."""

import torch
from helpers import build
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TOKENS = ["<s>", "</s>", *map(chr, range(33, 127)), "th", "in"]
SHAPE = {"vocab_size": len(TOKENS), "hidden_size": 64, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}


def tiny_llama():
    return build(LlamaForCausalLM, LlamaConfig, **SHAPE, tie_word_embeddings=True, rms_norm_eps=1e-5)


def write_gguf(path, model, *, architecture="llama", kind="Q8_0", without=()):
    """Write a llama; ``kind`` is the type of its matrices, ``without`` are names of tensors to leave out."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # the embedding
            continue
        stem, _, ending = name.rpartition(".")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(stem.split(".")[-1])
        if heads:  # llama.cpp rotates pairs that lie side by side
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        data, type_ = tensor.to(torch.float32).numpy(), gguf.GGMLQuantizationType.F32
        if data.ndim > 1:
            type_ = gguf.GGMLQuantizationType[kind]
            data = gguf.quantize(data, type_)
        if stem not in without:
            writer.add_tensor(f"{names.get_name(stem)}.{ending}", data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
