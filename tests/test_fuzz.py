"""Whatever the public functions are given, they give a right answer or an error of their own in one line.

200 cases, always the same ones; ``nox -s fuzz`` draws 2,000 others (``FUZZ_CASES``).
"""

import contextlib
import os

import numpy as np
import pytest
import torch
from fuzzing import JUNK, Spec, arguments, fault
from helpers import left_padded, prompt_ids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import decodeloop

CASES = int(os.environ.get("FUZZ_CASES", "0"))


class Specs(dict):
    """The specs by name, and the folder for what is written. Hypothesis shows no more of it than its name."""

    def __init__(self, folder, specs):
        super().__init__(specs)
        self.folder = folder

    def __repr__(self):
        return "specs"


@pytest.fixture(scope="session")
def specs(phi, llama, bundled, phi_graph, phi_fused, tmp_path_factory):
    """The public functions by name, with what their arguments are drawn from."""
    folder, just = tmp_path_factory.mktemp("fuzz"), st.just
    (folder / "folder").mkdir()
    one, (two, mask) = prompt_ids(1, 5), left_padded([3, 5])
    counts, flags, devices = st.integers(0, 4), st.booleans(), st.sampled_from(["cpu", "auto", torch.device("cpu")])

    def cached():
        return decodeloop.generate(phi, one[:, :4], max_new_tokens=1, return_cache=True)[1]

    def flat():
        return decodeloop.cache_to_tensors(cached())

    caches = st.sampled_from([cached, flat, DynamicCache]).map(lambda make: make())
    words, callables = bundled.tokenizer, ("len", "module", "empty module")  # what they raise is their own

    decoding = {
        "attention_mask": just(None),
        "max_new_tokens": counts,
        "max_length": st.none() | st.integers(5, 8),
        "eos_token_id": st.sampled_from(["model", None, 2, [2, 3], torch.tensor(2), np.int64(2)]),
        "pad_token_id": st.sampled_from(["model", None, 0]),
        "stop_strings": st.none(),
        "tokenizer": just(words),
        "sampler": st.none() | just(decodeloop.Sampler(seed=0, top_k=3)),
        "lookup": st.none(),
        "past_key_values": st.none(),
    }
    running = decoding | {
        "on_token": st.sampled_from([None, lambda tokens: None]),
        "streamer": st.none(),
        "progress": flags,
        "return_cache": flags,
    }

    def tokens_of(result):
        return result[0] if isinstance(result, tuple) else result

    def generated(result, kw):
        tokens, ids = tokens_of(result), kw["input_ids"]
        ends = kw.get("eos_token_id", "model")
        length = kw.get("max_length")
        new = kw.get("max_new_tokens", 100) if length is None else length - ids.shape[1]
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens[:, : ids.shape[1]], ids)
        assert tokens.shape[1] <= ids.shape[1] + new
        if new and kw.get("sampler") is None:
            own = (
                {} if ends == "model" else {"eos_token_id": torch.as_tensor(ends).tolist() if ends is not None else -1}
            )
            mask = kw.get("attention_mask")
            mask = torch.ones_like(ids) if mask is None else mask
            expected = phi.generate(
                ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0, **own
            )
            pad = kw.get("pad_token_id", "model")
            if pad is not None:
                assert torch.equal(tokens, expected), (tokens, expected)

    def run_all(spec_call):
        return {
            "rows": Spec(
                spec_call, {"input_ids": just(two), "attention_mask": just(mask)}, running, generated, never=callables
            ),
            "row": Spec(
                spec_call,
                {"input_ids": just(one)},
                running
                | {
                    "past_key_values": st.none() | caches,
                    "lookup": st.none() | just(decodeloop.PromptLookup()),
                    "sampler": st.none(),
                },
                generated,
                never=callables,
            ),
            "strings": Spec(
                spec_call,
                {
                    "input_ids": just(one),
                    "stop_strings": st.sampled_from(["zz", ["zz", "qq"]]),
                    "tokenizer": just(words),
                },
                running,
                never=callables,
            ),
        }

    def listed(**kw):
        ids = kw.get("input_ids")
        new = list(decodeloop.stream(**kw))
        return torch.cat([ids.to(torch.int64), *(tokens[:, None] for tokens in new)], dim=-1)

    def sampled(**kw):
        return decodeloop.generate(phi, one, max_new_tokens=2, sampler=decodeloop.Sampler(**kw))

    def looked_up(**kw):
        return decodeloop.generate(phi, one, max_new_tokens=3, lookup=decodeloop.PromptLookup(**kw))

    def opened(**kw):
        with decodeloop.OnnxDecoder(**kw) as decoder:
            return decoder.generate(one, max_new_tokens=2)

    def static(**kw):
        return decodeloop.TorchDecoder(**kw).generate(one, max_new_tokens=2)

    def short(result, kw):
        expected = phi.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=2, do_sample=False)
        assert torch.equal(result, expected)

    def equal(result, kw):
        assert decodeloop.max_diff(result, flat())["abs"] == 0

    def is_in(*kinds):
        def check(result, kw):
            assert isinstance(result, kinds), result

        return check

    def cropped(result, kw):
        assert result.get_seq_length() == kw["length"]

    def agreed(result, kw):
        assert result.agrees

    def exported(result, kw):
        assert result.path.exists()

    onnx, fused = (
        decodeloop.OnnxDecoder(phi_graph.path, device="cpu"),
        decodeloop.OnnxDecoder(phi_fused.path, device="cpu"),
    )
    torch_decoder = decodeloop.TorchDecoder(phi)
    models = just(phi)
    anything = st.recursive(
        st.sampled_from(sorted(JUNK)).map(lambda key: JUNK[key]()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        max_leaves=4,
    )
    decoders = st.sampled_from([phi, torch_decoder, onnx, fused, str(phi_graph.path), phi_fused.path])
    timing = {"repeats": st.integers(1, 2), "warmup": st.integers(0, 1), "device": devices}
    endless = (repr(2**40), *callables)
    specs = {}
    for name, call in {
        "generate": lambda **kw: decodeloop.generate(phi, **kw),
        "TorchDecoder.generate": torch_decoder.generate,
        "OnnxDecoder.generate": onnx.generate,
        "OnnxDecoder.generate, fused": fused.generate,
    }.items():
        specs |= {f"{name}, {kind}": spec for kind, spec in run_all(call).items()}
    specs |= {
        "generate, model": Spec(
            decodeloop.generate, {"model": models, "input_ids": just(one)}, {"max_new_tokens": counts}
        ),
        "stream": Spec(listed, {"model": models, "input_ids": just(one)}, decoding, generated),
        "onnx_generate": Spec(
            decodeloop.onnx_generate,
            {"decoder": st.sampled_from([onnx, phi_fused.path]), "input_ids": just(one), "device": just("cpu")},
            {"return_session": flags, "max_new_tokens": counts},
        ),
        "Sampler": Spec(
            sampled,
            {},
            {
                "temperature": st.floats(0.1, 2),
                "top_k": counts,
                "top_p": st.floats(0.1, 1),
                "min_p": st.floats(0, 1),
                "repetition_penalty": st.floats(0.5, 2),
                "seed": st.none() | counts | just([3]),
                "typical_p": st.floats(0.1, 1),
                "no_repeat_ngram_size": counts,
                "bad_words_ids": st.sampled_from([(), [[4]], [[5, 6]]]),
                "forced_tokens": st.sampled_from([{}, {0: 5}]),
                "min_new_tokens": counts,
                "processors": st.sampled_from([(), [lambda ids, scores: scores]]),
                "do_sample": flags,
            },
            is_in(torch.Tensor),
        ),
        "PromptLookup": Spec(
            looked_up, {}, {"tokens": st.integers(1, 4), "ngram": st.integers(1, 4)}, is_in(torch.Tensor)
        ),
        "OnnxDecoder": Spec(
            opened,
            {"path": st.sampled_from([phi_graph.path, str(phi_fused.path)]), "device": just("cpu")},
            {
                "capacity": st.none() | st.integers(5, 99),
                "cuda_graph": just("auto"),
                "spinning": st.sampled_from([True, False, "auto"]),
                "session_options": st.none(),
            },
            short,
        ),
        "TorchDecoder": Spec(
            static,
            {"model": models},
            {"capacity": st.none() | st.integers(5, 99), "cuda_graph": just("auto"), "compile": just(False)},
            short,
            never=("True", "1", "np.bool_(True)"),
        ),
        "export_onnx": Spec(
            decodeloop.export_onnx,
            {
                "model": models,
                "path": just(folder / "model.onnx"),
                "exporter": st.sampled_from(["fused", "gqa"]),
                "check": just(False),
            },
            {"logits": st.sampled_from(["all", "last", None])},
            exported,
        ),
        "quantize_onnx": Spec(
            decodeloop.quantize_onnx,
            {"source": st.sampled_from([phi_graph.path, phi_fused.path]), "target": just(folder / "small.onnx")},
            {
                "bits": st.sampled_from([4, 8]),
                "block_size": st.sampled_from([16, 32]),
                "symmetric": flags,
                "head": flags,
                "accuracy_level": st.sampled_from([0, 4]),
            },
            is_in(os.PathLike),
        ),
        "cache_to_tensors": Spec(decodeloop.cache_to_tensors, {"cache": st.builds(cached)}, {}, equal),
        "tensors_to_cache": Spec(
            decodeloop.tensors_to_cache,
            {"tensors": st.builds(flat)},
            {"config": just(phi.config), "length": just(4)},
            equal,
        ),
        "tensors_to_static": Spec(
            decodeloop.tensors_to_static,
            {"tensors": st.builds(flat), "config": just(phi.config), "capacity": st.integers(4, 9)},
            {"length": just(4)},
            lambda result, kw: equal(decodeloop.cache_to_tensors(result), kw),
        ),
        "tensors_to_legacy": Spec(decodeloop.tensors_to_legacy, {"tensors": st.builds(flat)}, {}, is_in(tuple)),
        "empty_tensors": Spec(
            decodeloop.empty_tensors,
            {"config": st.sampled_from([phi.config, llama.config])},
            {"batch": counts, "length": counts, "dtype": just(torch.float16), "device": just("cpu")},
            is_in(list),
        ),
        "crop_cache": Spec(
            decodeloop.crop_cache,
            {"cache": st.builds(cached), "length": counts},
            {},
            cropped,
        ),
        "load": Spec(
            decodeloop.load,
            {"name": just("bundled")},
            {"device": devices, "dtype": st.sampled_from(["auto", "float16", torch.float32]), "random_weights": flags},
            is_in(decodeloop.LoadedModel),
        ),
        "get_weight_type": Spec(decodeloop.get_weight_type, {"model": models}, {}, is_in(torch.dtype)),
        "string_type": Spec(
            decodeloop.string_type,
            {"obj": anything},
            {"with_shape": flags, "with_min_max": flags, "with_device": flags},
            is_in(str),
            raises=False,
        ),
        "max_diff": Spec(decodeloop.max_diff, {"expected": anything, "got": anything}, {}, is_in(dict), raises=False),
        "verify": Spec(
            decodeloop.verify,
            {"reference": just(phi), "candidate": decoders.filter(lambda each: each is not phi), "prompts": just(one)},
            {"max_new_tokens": st.integers(1, 3), "attention_mask": st.none(), "eos_token_id": just("model")},
            agreed,
        ),
        "perplexity": Spec(
            decodeloop.perplexity,
            {"decoder": decoders, "input_ids": just(two)},
            {"attention_mask": just(mask)},
            is_in(float),
        ),
        "measure": Spec(
            decodeloop.measure, {"fn": just(lambda: 1)}, timing, is_in(decodeloop.Timing), typed=True, never=endless
        ),
        "measure_all": Spec(
            decodeloop.measure_all, {"fns": just({"a": lambda: 1})}, timing, is_in(dict), typed=True, never=endless
        ),
        "prefill_and_decode": Spec(
            decodeloop.prefill_and_decode,
            {"run": just(lambda k: torch.zeros(1, 1).expand(1, k)), "new_tokens": st.integers(2, 5)},
            timing,
            is_in(decodeloop.GenerationTiming),
            typed=True,
            never=endless,
        ),
        "roofline": Spec(
            decodeloop.roofline,
            {"model": st.sampled_from([phi, onnx, phi_fused.path]), "bandwidth": st.floats(1, 1e12)},
            {"length": counts, "batch": st.integers(1, 4), "device": devices},
            is_in(decodeloop.Roofline),
        ),
        "memory_bandwidth": Spec(decodeloop.memory_bandwidth, {"device": devices}, {}, is_in(float)),
        "provenance": Spec(
            decodeloop.provenance,
            {},
            {
                "device": devices,
                "provider": st.sampled_from([None, "CPUExecutionProvider", onnx]),
                "model": st.sampled_from(["x", None, bundled]),
                "figures": st.sampled_from([None, {"a": 1.5}]),
                "rows": counts,
            },
            is_in(dict),
            typed=True,
        ),
        "to_any": Spec(
            decodeloop.to_any,
            {"nested": anything, "device_or_dtype": st.sampled_from(["cpu", torch.float64])},
            {},
        ),
    }
    return Specs(folder, specs)


@pytest.mark.timeout(7200 if CASES else 900)
@settings(
    max_examples=CASES or 200,
    derandomize=not CASES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_right_answer_or_an_error_of_our_own(specs, data):
    name = data.draw(st.sampled_from(sorted(specs)), label="function")
    given, spoiled = arguments(data.draw, specs[name])
    (specs.folder / "file").write_text("no graph")  # an export to this path may have replaced it
    with contextlib.chdir(specs.folder):
        found = fault(specs[name], given, spoiled)
    assert found is None, f"{name}({', '.join(given)}), junk: {spoiled}: {found}"
