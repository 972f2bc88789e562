"""The public functions that load, export, convert, measure and compare, and from what the fuzz test draws."""

import os

import torch
from fuzz_subjects import COUNTS, DEVICES, FLAGS, MASK, ONE, TWO, is_in
from fuzzing import JUNK, Spec
from hypothesis import strategies as st
from hypothesis.strategies import just

import decodeloop


def nested(keys):
    """Lists and dicts of such junk: for what takes any object."""
    return st.recursive(
        st.sampled_from(keys).map(lambda key: JUNK[key]()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        max_leaves=4,
    )


ANYTHING = nested(sorted(JUNK))
MOVABLE = nested([key for key in sorted(JUNK) if "meta" not in key])  # a meta tensor has no data to move


def package_specs(subjects):
    """The specs by name."""
    return {
        **model_specs(subjects),
        **cache_specs(subjects),
        **describing_specs(),
        **comparing_specs(subjects),
        **timing_specs(),
        **machine_specs(subjects),
    }


def model_specs(subjects):
    """What loads, writes and shrinks a model."""

    def exported(result, kw):
        assert result.path.exists()

    return {
        "load": Spec(
            decodeloop.load,
            {"name": just("bundled")},
            {"device": DEVICES, "dtype": st.sampled_from(["auto", "float16", torch.float32]), "random_weights": FLAGS},
            is_in(decodeloop.LoadedModel),
        ),
        "export_onnx": Spec(
            decodeloop.export_onnx,
            {
                "model": just(subjects.phi),
                "path": just(subjects.folder / "model.onnx"),
                "exporter": st.sampled_from(["fused", "gqa"]),
                "check": just(False),
            },
            {"logits": st.sampled_from(["all", "last", None]), "progress": FLAGS},
            exported,
        ),
        "quantize_onnx": Spec(
            decodeloop.quantize_onnx,
            {
                "source": st.sampled_from([subjects.graph, subjects.fused_graph]),
                "target": just(subjects.folder / "small.onnx"),
            },
            {
                "bits": st.sampled_from([4, 8]),
                "block_size": st.sampled_from([16, 32]),
                "symmetric": FLAGS,
                "head": FLAGS,
                "embedding": st.sampled_from([True, False, "auto"]),
                "accuracy_level": st.sampled_from([0, 4]),
            },
            is_in(os.PathLike),
        ),
    }


def cache_specs(subjects):
    """What converts and cuts keys and values."""
    config, tensors, cache = subjects.phi.config, st.builds(subjects.tensors), st.builds(subjects.cache)

    def equal(result, kw):
        assert decodeloop.max_diff(result, subjects.tensors())["abs"] == 0

    def cropped(result, kw):
        assert result.get_seq_length() == kw["length"]

    return {
        "cache_to_tensors": Spec(decodeloop.cache_to_tensors, {"cache": cache}, {}, equal),
        "tensors_to_cache": Spec(
            decodeloop.tensors_to_cache, {"tensors": tensors}, {"config": just(config), "length": just(4)}, equal
        ),
        "tensors_to_static": Spec(
            decodeloop.tensors_to_static,
            {"tensors": tensors, "config": just(config), "capacity": st.integers(4, 9)},
            {"length": just(4)},
            lambda result, kw: equal(decodeloop.cache_to_tensors(result), kw),
        ),
        "tensors_to_legacy": Spec(decodeloop.tensors_to_legacy, {"tensors": tensors}, {}, is_in(tuple)),
        "empty_tensors": Spec(
            decodeloop.empty_tensors,
            {"config": st.sampled_from([config, subjects.llama.config])},
            {"batch": COUNTS, "length": COUNTS, "dtype": just(torch.float16), "device": just("cpu")},
            is_in(list),
        ),
        "crop_cache": Spec(decodeloop.crop_cache, {"cache": cache, "length": COUNTS}, {}, cropped),
    }


def describing_specs():
    """What takes any object."""
    return {
        "string_type": Spec(
            decodeloop.string_type,
            {"obj": ANYTHING},
            {"with_shape": FLAGS, "with_min_max": FLAGS, "with_device": FLAGS},
            is_in(str),
            raises=False,
        ),
        "max_diff": Spec(decodeloop.max_diff, {"expected": ANYTHING, "got": ANYTHING}, {}, is_in(dict), raises=False),
        "to_any": Spec(
            decodeloop.to_any,
            {"nested": MOVABLE, "device_or_dtype": st.sampled_from(["cpu", torch.float64])},
            {},
        ),
    }


def comparing_specs(subjects):
    """What judges a decoder."""
    reference, graphs = subjects.phi, [str(subjects.graph), subjects.fused_graph]
    decoders = st.sampled_from([reference, subjects.static, subjects.onnx, subjects.fused, *graphs])

    def agreed(result, kw):
        assert result.agrees

    return {
        "verify": Spec(
            decodeloop.verify,
            {
                "reference": just(reference),
                "candidate": decoders.filter(lambda each: each is not reference),
                "prompts": just(ONE),
            },
            {"max_new_tokens": st.integers(1, 3), "attention_mask": st.none(), "eos_token_id": just("model")},
            agreed,
        ),
        "perplexity": Spec(
            decodeloop.perplexity,
            {"decoder": decoders, "input_ids": just(TWO)},
            {"attention_mask": just(MASK)},
            is_in(float),
        ),
    }


def timing_specs():
    """What calls a function many times."""
    options = {"repeats": st.integers(1, 2), "warmup": st.integers(0, 1), "device": DEVICES}
    rules = {"typed": True, "never": (repr(2**40), "len", "module", "empty module")}
    return {
        "measure": Spec(decodeloop.measure, {"fn": just(lambda: 1)}, options, is_in(decodeloop.Timing), **rules),
        "measure_all": Spec(decodeloop.measure_all, {"fns": just({"a": lambda: 1})}, options, is_in(dict), **rules),
        "prefill_and_decode": Spec(
            decodeloop.prefill_and_decode,
            {"run": just(lambda k: torch.zeros(1, 1).expand(1, k)), "new_tokens": st.integers(2, 5)},
            options,
            is_in(decodeloop.GenerationTiming),
            **rules,
        ),
    }


def machine_specs(subjects):
    """What a model weighs, where it runs, and how fast that may be."""
    return {
        "get_weight_type": Spec(decodeloop.get_weight_type, {"model": just(subjects.phi)}, {}, is_in(torch.dtype)),
        "roofline": Spec(
            decodeloop.roofline,
            {
                "model": st.sampled_from([subjects.phi, subjects.onnx, subjects.fused_graph]),
                "bandwidth": st.floats(1, 1e12),
            },
            {"length": COUNTS, "batch": st.integers(1, 4), "device": DEVICES},
            is_in(decodeloop.Roofline),
        ),
        "memory_bandwidth": Spec(decodeloop.memory_bandwidth, {"device": DEVICES}, {}, is_in(float)),
        "provenance": Spec(
            decodeloop.provenance,
            {},
            {
                "device": DEVICES,
                "provider": st.sampled_from([None, "CPUExecutionProvider", subjects.onnx]),
                "model": st.sampled_from(["x", None, subjects.bundled]),
                "figures": st.sampled_from([None, {"a": 1.5}]),
                "rows": COUNTS,
            },
            is_in(dict),
            typed=True,
        ),
    }
