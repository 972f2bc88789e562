"""Where the modules of each family keep the parts of a decoder, and what they compute that no module's name tells.

A family is data: another one is another entry. What an entry cannot say, the family does not have: a model of which a
weight would be left over is traced (:func:`decodeloop.export.fused.describe.describe`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


class NotDescribed(Exception):
    """A model has something that a description cannot say."""


@dataclass(frozen=True)
class Norms:
    """The norms of what a part of a layer reads and of what it writes. One that a layer does not have is not computed.

    A parallel layer without ``before_mlp`` has one for both parts.
    """

    before_attention: str = "input_layernorm"
    after_attention: str = ""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = ""


@dataclass(frozen=True)
class Family:
    """Names of modules, attributes and settings; the defaults are Llama's.

    ``a|b`` is whichever of both is there.

    Attributes
    ----------
    decoder, layers, attention, mlp, final_norm : str
        The decoder within the model, its list of layers and last norm; the parts of a layer.
    norms : Norms
    after_sums : bool
        The norms before a part are applied to the sums behind it instead, where the setting ``do_layer_norm_before``
        is off.
    query, key, value, out : str
        Linear layers of attention.
    joined : str
        One layer that holds all three of query, key and value.
    by_group : bool
        The rows of ``joined`` are those of each key head in turn: its queries, its key, its value.
    repeated : str
        A setting: whether each key head stands in the cache once for each of its query heads.
    gate, up, gate_up, down : str
        Linear layers of the feed-forward part. Without a gate it is plain.
    parallel : bool or str
        Whether both parts read the same and their outputs are added; a setting that says so.
    norm_offset : float
        What a norm adds to its weight.
    centred : bool
        Whether norms subtract the mean.
    activation : str
        The setting that names the activation.
    rotates : str
        What the attention says about itself: false in layers that do not rotate.
    pairs : bool
        Whether neighbours are rotated together, not the first half with the second.
    positions : str
        A table of learned positions, within the decoder.
    embedding_scale, residual_scale, logit_scale, logit_divisor, logit_cap, clip : str
        Settings: factors of the embedding, of what each part adds, and of the logits; soft cap of the logits; bound of
        queries, keys and values.
    attention_cap : str
        The soft cap of attention scores, which the attention has.
    unless : tuple of str
        Settings that change the computation in a way that nothing here describes, where they are on.
    """

    decoder: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    final_norm: str = "norm"
    norms: Norms = Norms()
    after_sums: bool = False
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    joined: str = ""
    by_group: bool = False
    repeated: str = ""
    out: str = "o_proj"
    gate: str = "gate_proj"
    up: str = "up_proj"
    gate_up: str = ""
    down: str = "down_proj"
    parallel: bool | str = False
    norm_offset: float = 0.0
    centred: bool = False
    activation: str = "hidden_act"
    rotates: str = "use_rope"
    pairs: bool = False
    positions: str = ""
    embedding_scale: str = ""
    residual_scale: str = ""
    logit_scale: str = ""
    logit_divisor: str = ""
    logit_cap: str = ""
    attention_cap: str = ""
    clip: str = ""
    unless: tuple[str, ...] = ()


LLAMA = Family()
GEMMA = Family(norm_offset=1.0)
#: Norms around each part, as in Gemma 2.
AROUND = Norms(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)
GEMMA_3 = replace(GEMMA, norms=AROUND, activation="hidden_activation", logit_cap="final_logit_softcapping")
GLM = Family(gate_up="gate_up_proj", pairs=True)
#: Norms of what a part writes, none of what it reads.
BEHIND = replace(AROUND, before_attention="", before_mlp="")
ONE_NORM = Norms(before_mlp="")
COHERE = Family(parallel=True, norms=ONE_NORM, centred=True, pairs=True, logit_scale="logit_scale")
GPT = Family(decoder="transformer", layers="h", attention="attn", final_norm="ln_f", gate="", up="c_fc", down="c_proj")

#: By exact class, since a subclass may compute something else.
FAMILIES = {
    "CohereForCausalLM": COHERE,
    "Cohere2ForCausalLM": replace(COHERE, rotates="sliding_window"),
    "FalconForCausalLM": replace(
        GPT,
        attention="self_attention",
        norms=Norms(before_attention="input_layernorm|ln_attn", before_mlp="post_attention_layernorm|ln_mlp"),
        joined="query_key_value",
        by_group=True,
        repeated="new_decoder_architecture",
        out="dense",
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        parallel="parallel_attn|new_decoder_architecture",
        activation="activation",
        unless=("alibi",),
    ),
    "GemmaForCausalLM": GEMMA,
    "Gemma2ForCausalLM": replace(GEMMA_3, attention_cap="attn_logit_softcapping"),
    "Gemma3ForCausalLM": GEMMA_3,
    "Gemma4ForCausalLM": replace(GEMMA_3, norm_offset=0.0),
    "GlmForCausalLM": GLM,
    "Glm4ForCausalLM": replace(
        GLM, norms=Norms(after_attention="post_self_attn_layernorm", after_mlp="post_mlp_layernorm")
    ),
    "GPT2LMHeadModel": replace(
        GPT,
        norms=Norms(before_attention="ln_1", before_mlp="ln_2"),
        joined="c_attn",
        out="c_proj",
        activation="activation_function",
        positions="wpe",
    ),
    "GPTNeoXForCausalLM": Family(
        decoder="gpt_neox",
        attention="attention",
        final_norm="final_layer_norm",
        joined="query_key_value",
        by_group=True,
        out="dense",
        gate="",
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        parallel="use_parallel_residual",
    ),
    "GraniteForCausalLM": Family(
        embedding_scale="embedding_multiplier", residual_scale="residual_multiplier", logit_divisor="logits_scaling"
    ),
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "OlmoForCausalLM": Family(centred=True, clip="clip_qkv"),
    "Olmo2ForCausalLM": replace(LLAMA, norms=BEHIND),
    "Olmo3ForCausalLM": replace(LLAMA, norms=BEHIND),
    "OPTForCausalLM": Family(
        decoder="model.decoder",
        mlp="",  # its layers lie in the layer itself
        final_norm="final_layer_norm",
        norms=Norms(before_attention="self_attn_layer_norm", before_mlp="final_layer_norm"),
        after_sums=True,
        out="out_proj",
        gate="",
        up="fc1",
        down="fc2",
        activation="activation_function",
        positions="embed_positions",
    ),
    "PhiForCausalLM": Family(
        parallel=True, norms=ONE_NORM, final_norm="final_layernorm", out="dense", gate="", up="fc1", down="fc2"
    ),
    "Phi3ForCausalLM": Family(joined="qkv_proj", gate_up="gate_up_proj"),
    "Qwen2ForCausalLM": LLAMA,
    "Qwen3ForCausalLM": LLAMA,
    "SmolLM3ForCausalLM": LLAMA,
    "Starcoder2ForCausalLM": Family(gate="", up="c_fc", down="c_proj"),
}
