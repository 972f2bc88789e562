"""What is given where a model is asked for: what load returned is one, and what is no decoder is named."""

import pytest
import torch
from helpers import prompt_ids
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CpmAntConfig,
    CpmAntForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PhiConfig,
    PhiModel,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

import decodeloop
from decodeloop import TorchDecoder


def test_what_load_returns_is_a_model_everywhere(bundled, tmp_path):
    ids = bundled.tokenizer("def add(a, b):", return_tensors="pt").input_ids
    expected = decodeloop.generate(bundled.model, ids, max_new_tokens=6)
    assert torch.equal(decodeloop.generate(bundled, ids, max_new_tokens=6), expected)
    assert [int(token) for token in decodeloop.stream(bundled, ids, max_new_tokens=6)] == expected[0, -6:].tolist()
    static = TorchDecoder(bundled)
    assert torch.equal(static.generate(ids, max_new_tokens=6), expected)
    graph = decodeloop.export_onnx(bundled, tmp_path / "model.onnx", exporter="fused").path
    assert torch.equal(decodeloop.onnx_generate(graph, ids, max_new_tokens=6, device="cpu"), expected)
    assert decodeloop.verify(bundled, static, ids, max_new_tokens=6).agrees
    assert decodeloop.roofline(bundled, bandwidth=1e9) == decodeloop.roofline(bundled.model, bandwidth=1e9)
    assert decodeloop.perplexity(bundled, ids) == decodeloop.perplexity(bundled.model, ids)


@pytest.mark.parametrize("given", ["microsoft/phi-1_5", None, {"model": 1}, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_named(given, tmp_path):
    for use in (
        lambda: decodeloop.generate(given, prompt_ids(1, 3)),
        lambda: decodeloop.stream(given, prompt_ids(1, 3)),
        lambda: TorchDecoder(given),
        lambda: decodeloop.export_onnx(given, tmp_path / "model.onnx"),
    ):
        with pytest.raises(ValueError, match=f"^{type(given).__name__}: expected a transformers model, or what decode"):
            use()


BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
NO_DECODERS = {
    "has an encoder": [
        (BartForConditionalGeneration, BartConfig, BART | {"decoder_attention_heads": 4}),
        (T5ForConditionalGeneration, T5Config, {"d_model": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4}),
    ],
    "keeps a recurrent state": [(RwkvForCausalLM, RwkvConfig, {"hidden_size": 32, "num_hidden_layers": 2})],
    "keeps nothing between steps": [
        (OpenAIGPTLMHeadModel, OpenAIGPTConfig, {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64})
    ],
    "keeps earlier hidden states": [(XLNetLMHeadModel, XLNetConfig, {"d_model": 32, "n_layer": 1, "n_head": 4})],
    "gives no logits": [(PhiModel, PhiConfig, {})],
}


@pytest.mark.parametrize(("reason", "kind"), [(reason, kind) for reason in NO_DECODERS for kind in NO_DECODERS[reason]])
def test_models_that_are_no_decoders_are_refused_in_one_line(reason, kind):
    model_class, config_class, options = kind
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=97, **options)).eval()
    for use in (lambda: decodeloop.generate(model, prompt_ids(1, 5)), lambda: TorchDecoder(model)):
        with pytest.raises(ValueError, match=f"^{model_class.__name__} {reason}.*: expected") as error:
            use()
        assert "\n" not in str(error.value)


def test_a_model_that_keeps_something_else_in_its_cache_is_refused():
    """CPM-Ant puts a prompt of its own before the text."""
    config = CpmAntConfig(vocab_size=97, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=64, prompt_length=8)
    config.num_hidden_layers = 1
    model = CpmAntForCausalLM(config).eval()
    with pytest.raises(ValueError, match="read 5 tokens and put 13 into its cache: expected a decoder"):
        decodeloop.generate(model, prompt_ids(1, 5), max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": {"temperature": 0.7}}, r"sampler=\{'temperature': 0.7\}: expected a decodeloop.Sampler, or None"),
        ({"sampler": True}, "sampler=True: expected a decodeloop.Sampler"),
        (
            {"lookup": decodeloop.PromptLookup},
            "lookup=.*PromptLookup.*: expected a decodeloop.PromptLookup or DraftModel, or None",
        ),
        ({"lookup": 10}, "lookup=10: expected a decodeloop.PromptLookup or DraftModel, or None"),
        ({"stop_strings": 5}, "stop_strings=5: expected a string or several"),
    ],
)
def test_arguments_of_another_kind_are_named(phi, options, message):
    with pytest.raises(ValueError, match=message):
        decodeloop.generate(phi, prompt_ids(1, 3), **options)
