"""The public functions that decode, and from what the fuzz test draws their arguments."""

import copy

import numpy as np
import torch
from fuzz_subjects import COUNTS, FLAGS, MASK, ONE, TWO, is_in
from fuzzing import Spec
from hypothesis import strategies as st
from hypothesis.strategies import just
from transformers import DynamicCache

import decodeloop

CALLABLES = ("len", "module", "empty module")  # what they raise is their own


def decoding_specs(subjects):
    """The specs by name."""
    specs = {}
    for name, call in {
        "generate": lambda **kw: decodeloop.generate(subjects.phi, **kw),
        "TorchDecoder.generate": subjects.static.generate,
        "OnnxDecoder.generate": subjects.onnx.generate,
        "OnnxDecoder.generate, fused": subjects.fused.generate,
    }.items():
        specs |= {f"{name}, {kind}": spec for kind, spec in generating_specs(subjects, call).items()}
    return specs | {
        "generate, model": Spec(
            decodeloop.generate, {"model": just(subjects.phi), "input_ids": just(ONE)}, {"max_new_tokens": COUNTS}
        ),
        "stream": Spec(
            listed,
            {"model": just(subjects.phi), "input_ids": just(ONE)},
            decoding_options(subjects),
            generates_as(subjects.phi),
        ),
        "onnx_generate": Spec(
            decodeloop.onnx_generate,
            {
                "decoder": st.sampled_from([subjects.onnx, subjects.fused_graph]),
                "input_ids": just(ONE),
                "device": just("cpu"),
            },
            {"return_session": FLAGS, "max_new_tokens": COUNTS},
        ),
        **choosing_specs(subjects),
        **talking_specs(subjects),
        **engine_specs(subjects),
    }


def decoding_options(subjects):
    """What every loop takes."""
    return {
        "attention_mask": just(None),
        "max_new_tokens": COUNTS,
        "max_length": st.none() | st.integers(5, 8),
        "eos_token_id": st.sampled_from(["model", None, 2, [2, 3], torch.tensor(2), np.int64(2)]),
        "pad_token_id": st.sampled_from(["model", None, 0]),
        "stop_strings": st.none(),
        "tokenizer": just(subjects.bundled.tokenizer),
        "sampler": st.none() | just(decodeloop.Sampler(seed=0, top_k=3)),
        "lookup": st.none(),
        "past_key_values": st.none(),
        "prefill_chunk": st.none() | st.integers(1, 6),
    }


def generating_specs(subjects, call):
    """A ``generate``, given two rows, or one, or strings that end the text."""
    caches = st.sampled_from([subjects.cache, subjects.tensors, DynamicCache]).map(lambda make: make())
    generated = generates_as(subjects.phi)
    options = decoding_options(subjects) | {
        "on_token": st.sampled_from([None, lambda tokens: None]),
        "streamer": st.none(),
        "progress": FLAGS,
        "return_cache": FLAGS,
    }
    of_one_row = {
        "past_key_values": st.none() | caches,
        "lookup": st.sampled_from([None, decodeloop.PromptLookup(), decodeloop.DraftModel(subjects.llama)]),
        "sampler": st.none(),
    }
    ending = {
        "input_ids": just(ONE),
        "stop_strings": st.sampled_from(["zz", ["zz", "qq"]]),
        "tokenizer": just(subjects.bundled.tokenizer),
    }
    return {
        "rows": Spec(call, {"input_ids": just(TWO), "attention_mask": just(MASK)}, options, generated, never=CALLABLES),
        "row": Spec(call, {"input_ids": just(ONE)}, options | of_one_row, generated, never=CALLABLES),
        "strings": Spec(call, ending, options, never=CALLABLES),
    }


def choosing_specs(subjects):
    """How a token is chosen or guessed."""

    def sampled(**kw):
        return decodeloop.generate(subjects.phi, ONE, max_new_tokens=2, sampler=decodeloop.Sampler(**kw))

    def drafted(**kw):
        return decodeloop.generate(subjects.phi, ONE, max_new_tokens=5, lookup=decodeloop.DraftModel(**kw))

    def looked_up(**kw):
        return decodeloop.generate(subjects.phi, ONE, max_new_tokens=3, lookup=decodeloop.PromptLookup(**kw))

    return {
        "Sampler": Spec(
            sampled,
            {},
            {
                "temperature": st.floats(0.1, 2),
                "top_k": COUNTS,
                "top_p": st.floats(0.1, 1),
                "min_p": st.floats(0, 1),
                "repetition_penalty": st.floats(0.5, 2),
                "seed": st.none() | COUNTS | just([3]),
                "typical_p": st.floats(0.1, 1),
                "no_repeat_ngram_size": COUNTS,
                "bad_words_ids": st.sampled_from([(), [[4]], [[5, 6]]]),
                "forced_tokens": st.sampled_from([{}, {0: 5}]),
                "min_new_tokens": COUNTS,
                "processors": st.sampled_from([(), [lambda ids, scores: scores]]),
                "do_sample": FLAGS,
            },
            is_in(torch.Tensor),
        ),
        "DraftModel": Spec(
            drafted,
            {"model": st.sampled_from([subjects.llama, subjects.onnx])},
            {"tokens": st.integers(1, 4)},
            generates_as(subjects.phi, input_ids=ONE, max_new_tokens=5),
        ),
        "PromptLookup": Spec(
            looked_up, {}, {"tokens": st.integers(1, 4), "ngram": st.integers(1, 4)}, is_in(torch.Tensor)
        ),
    }


def talking_specs(subjects):
    """Text in, text out."""
    tokenizer = copy.deepcopy(subjects.bundled.tokenizer)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}\n{% endfor %}"

    def talked(**kw):
        conversation = decodeloop.Conversation(**kw)
        return ["".join(conversation.reply("x = 1")), "".join(conversation.fork().reply("y = x"))]

    def pieces(**kw):
        return list(decodeloop.text_pieces(**kw))

    return {
        "Conversation": Spec(
            talked,
            {"model": just(subjects.bundled.model), "tokenizer": just(tokenizer), "max_new_tokens": just(3)},
            {
                "system": st.sampled_from([None, "# short"]),
                "max_positions": st.sampled_from([None, 64]),
                "when_full": st.sampled_from(["refuse", "forget"]),
                "sampler": st.none() | just(decodeloop.Sampler(seed=0, top_k=3)),
                "stop_strings": st.sampled_from([(), "zz", ["zz", "qq"]]),
            },
            is_in(list),
            never=CALLABLES,
        ),
        "text_pieces": Spec(
            pieces,
            {"tokenizer": just(tokenizer), "tokens": just([40, 41, 42])},
            {"stop_strings": st.sampled_from([(), "zz", ["zz", "qq"]])},
            is_in(list),
            never=CALLABLES,
        ),
    }


def engine_specs(subjects):
    """The decoders: opened, and asked for two tokens."""
    phi = subjects.phi

    def opened(**kw):
        with decodeloop.OnnxDecoder(**kw) as decoder:
            return decoder.generate(ONE, max_new_tokens=2)

    def static(**kw):
        return decodeloop.TorchDecoder(**kw).generate(ONE, max_new_tokens=2)

    def short(result, kw):
        expected = phi.generate(ONE, attention_mask=torch.ones_like(ONE), max_new_tokens=2, do_sample=False)
        assert torch.equal(result, expected)

    capacities = st.none() | st.integers(5, 99)
    return {
        "OnnxDecoder": Spec(
            opened,
            {"path": st.sampled_from([subjects.graph, str(subjects.fused_graph)]), "device": just("cpu")},
            {
                "capacity": capacities,
                "cuda_graph": just("auto"),
                "spinning": st.sampled_from([True, False, "auto"]),
                "session_options": st.none(),
            },
            short,
        ),
        "TorchDecoder": Spec(
            static,
            {"model": just(phi)},
            {"capacity": capacities, "cuda_graph": just("auto"), "compile": just(False)},
            short,
            never=("True", "1", "np.bool_(True)"),
        ),
    }


def listed(**kw):
    """The whole text of a stream."""
    new = list(decodeloop.stream(**kw))
    return torch.cat([kw.get("input_ids").to(torch.int64), *(tokens[:, None] for tokens in new)], dim=-1)


def generates_as(model, **always):
    """A check that tokens are those of ``model.generate``, where they were not drawn; ``always`` was given besides."""

    def check(result, kw):
        kw = kw | always
        tokens, ids = result[0] if isinstance(result, tuple) else result, kw["input_ids"]
        ends, length = kw.get("eos_token_id", "model"), kw.get("max_length")
        new = kw.get("max_new_tokens", 100) if length is None else length - ids.shape[1]
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens[:, : ids.shape[1]], ids)
        assert tokens.shape[1] <= ids.shape[1] + new
        if not new or kw.get("sampler") is not None or kw.get("pad_token_id", "model") is None:
            return
        mask = kw.get("attention_mask")
        own = {"attention_mask": torch.ones_like(ids) if mask is None else mask}
        if ends != "model":
            own["eos_token_id"] = -1 if ends is None else torch.as_tensor(ends).tolist()
        expected = model.generate(ids, max_new_tokens=new, do_sample=False, pad_token_id=0, **own)
        assert torch.equal(tokens, expected), (tokens, expected)

    return check
