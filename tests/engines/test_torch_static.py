"""TorchDecoder: a static cache that grows in buckets, the same tokens as generate. Its CUDA graph is in test_gpu.py."""

import functools

import pytest
import torch
from helpers import build, left_padded, prompt_ids
from transformers import GPT2Config, GPT2LMHeadModel

from decodeloop import TorchDecoder, generate
from decodeloop.engines.kernels import cpu_product
from decodeloop.engines.kernels.merged_linear import linears_by_input, with_merged_linears
from decodeloop.engines.kernels.products import summed


def test_tokens_are_those_of_generate_while_the_buffers_grow(llama):
    decoder = TorchDecoder(llama)
    for lengths in ([12], [12, 5, 9], [1, 70]):
        ids, mask = left_padded(lengths)
        options = {"attention_mask": mask, "max_new_tokens": 350, "eos_token_id": None}
        assert torch.equal(decoder.generate(ids, **options), llama.generate(ids, do_sample=False, **options))


def test_learned_positions_are_counted_from_each_rows_start():
    model = build(GPT2LMHeadModel, GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    ids, mask = left_padded([3, 11])
    options = {"attention_mask": mask, "max_new_tokens": 30, "eos_token_id": None}
    assert torch.equal(TorchDecoder(model).generate(ids, **options), model.generate(ids, do_sample=False, **options))


@pytest.mark.parametrize(("name", "products"), [("phi", 1 + 3 * 2), ("llama", 1 + 4 * 2)])
def test_a_compiled_step_writes_the_same_with_fewer_products(name, products, request, monkeypatch):
    model, seen = request.getfixturevalue(name), []

    def backend(graph, inputs):  # torch's own needs a C++ compiler
        seen.append(sum(node.target is torch.nn.functional.linear for node in graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    decoder = TorchDecoder(model, compile=True)
    ids, mask = left_padded([6, 2])
    options = {"attention_mask": mask, "max_new_tokens": 10, "eos_token_id": None}
    assert torch.equal(decoder.generate(ids, **options), generate(model, ids, **options))
    assert seen == [products]


def test_every_size_is_compiled_however_many_there_were_before(llama, monkeypatch):
    seen, most = [], torch._dynamo.config.recompile_limit  # of one function, after which torch runs it as it is

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    decoder, ids = TorchDecoder(llama, compile=True), prompt_ids(1, 4)
    for rows in range(1, most + 3):
        many = ids.repeat(rows, 1)
        assert torch.equal(decoder.generate(many, max_new_tokens=3), generate(llama, many, max_new_tokens=3))
        assert len(seen) == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_as_a_sum_is_that_of_pytorch(dtype, bias, rows):
    torch.manual_seed(0)
    x, weight = torch.randn(1, rows, 32, dtype=dtype), torch.randn(8, 32, dtype=dtype)
    added = torch.randn(8, dtype=dtype) if bias else None
    torch.testing.assert_close(summed(x, weight, added), torch.nn.functional.linear(x, weight, added))


@pytest.fixture
def untimed():
    """What was timed in this process is forgotten, before the test and after it."""
    cpu_product._faster.cache_clear()
    yield
    cpu_product._faster.cache_clear()


@pytest.mark.parametrize("faster", [summed, torch.nn.functional.linear], ids=lambda each: each.__name__)
def test_the_product_of_a_row_that_was_faster_is_taken_on_a_cpu(llama, faster, monkeypatch, untimed):
    """By their fastest runs, since any run may be slowed down; and they are timed once, for all layers and models."""
    calls = []

    def seconds(linear, weight):
        calls.append(linear)
        fast = (linear is torch.nn.functional.linear) == (faster is torch.nn.functional.linear)
        return 1.0 if fast and len(calls) > 4 else 2.0 + len(calls) % 3

    monkeypatch.setattr(cpu_product, "seconds", seconds)
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *given: function(*given))
    for _ in range(2):
        merged = with_merged_linears(llama)
        assert merged.model.layers[0].mlp.down_proj.product.linear is faster
    assert len(calls) == 2 * cpu_product.RUNS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_numbers_that_have_no_sum_are_not_timed(dtype, monkeypatch):
    monkeypatch.setattr(cpu_product, "_faster", None)
    assert cpu_product.faster(dtype) is torch.nn.functional.linear


def test_what_surrounds_a_decoders_making_is_not_timed(monkeypatch, untimed):
    """Neither another default device nor automatic casting, each of which would count for all later decoders."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(
        cpu_product, "seconds", lambda linear, weight: seen.append((weight.device.type, casts())) or 1.0
    )

    def casts():
        return torch.is_autocast_enabled("cpu")

    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        cpu_product.faster(torch.float32)
    assert set(seen) == {("cpu", False)}


def test_ranks_take_the_same_product_without_timing_it(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(cpu_product, "_faster", None)
    assert cpu_product.faster(torch.float32) is summed


@pytest.mark.parametrize("error", [torch._dynamo.exc.TorchDynamoException, RuntimeError])
def test_without_a_compiler_nothing_is_timed_and_the_step_says_why(llama, monkeypatch, untimed, error):
    def fails(*given, **options):
        raise error("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fails)
    decoder = TorchDecoder(llama, compile=True)
    with pytest.raises(error, match=r"no C\+\+ compiler"):
        decoder.generate(prompt_ids(1, 4), max_new_tokens=3)


def test_merged_layers_leave_the_model_as_it_was_and_share_its_other_weights(llama):
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    first = llama.model.layers[0]
    parts = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]]
    parts += [["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]
    layers = [[f"model.layers.{i}.{name}" for name in names] for i in (0, 1) for names in parts]
    assert linears_by_input(llama) == [*layers, ["lm_head"]]
    merged = with_merged_linears(llama)
    assert llama.model.layers[0] is first
    assert not any(module._forward_pre_hooks for module in llama.modules())
    assert llama.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert merged.model.layers[0].mlp.down_proj.product.weight.data_ptr() == first.mlp.down_proj.weight.data_ptr()
    ids = prompt_ids(2, 9)
    torch.testing.assert_close(merged(ids).logits, llama(ids).logits)


def test_a_cache_of_another_loop_is_continued(phi):
    ids, mask = left_padded([8, 3])
    options = {"attention_mask": mask, "eos_token_id": None}
    first, cache = generate(phi, ids, max_new_tokens=4, return_cache=True, **options)
    options["attention_mask"] = torch.cat([mask, torch.ones(2, 4, dtype=torch.int64)], dim=-1)
    expected = generate(phi, first, max_new_tokens=300, **options)
    decoder = TorchDecoder(phi)
    got, cache = decoder.generate(first, past_key_values=cache, max_new_tokens=300, return_cache=True, **options)
    assert torch.equal(got, expected)
    assert cache.get_seq_length() == 311


@pytest.mark.parametrize("lengths", [[40], [40, 31]])
def test_a_prompt_attends_to_itself_alone_however_large_the_buffers(llama, lengths, monkeypatch):
    attend, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query, key, value, attn_mask=None, **options):
        seen.append((key.shape[2], attn_mask is not None))
        return attend(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    ids, mask = left_padded(lengths)
    decoder = TorchDecoder(llama, capacity=512)
    decoder.generate(ids, attention_mask=mask, max_new_tokens=2, eos_token_id=None)
    padded = len(lengths) > 1
    assert set(seen) == {(40, padded), (512, True)}  # without a mask there are faster kernels, and less memory


def test_a_capacity_must_hold_the_prompt(phi):
    with pytest.raises(ValueError, match="capacity=0: expected an int of 1 or more"):
        TorchDecoder(phi, capacity=0)
    decoder = TorchDecoder(phi, capacity=10)
    with pytest.raises(ValueError, match="capacity=10 is smaller than the prompt, which has 11 positions"):
        decoder.generate(prompt_ids(1, 11))
    ids = prompt_ids(1, 10)
    assert torch.equal(decoder.generate(ids, max_new_tokens=90), generate(phi, ids, max_new_tokens=90))


def test_no_room_names_the_bytes_and_leaves_the_decoder_usable(phi, monkeypatch):
    decoder, ids = TorchDecoder(phi), prompt_ids(1, 5)
    expected = decoder.generate(ids, max_new_tokens=5)
    zeros = torch.zeros

    def no_memory(*shape, **options):
        if len(shape) == 1 and isinstance(shape[0], tuple) and len(shape[0]) == 4 and shape[0][2]:
            raise RuntimeError("CUDA out of memory")
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", no_memory)
    with pytest.raises(
        MemoryError, match=r"no room on cpu for a cache of 393,216 bytes \(0.0 GiB\): ask for fewer rows"
    ):
        decoder.generate(prompt_ids(3, 5), max_new_tokens=5)
    monkeypatch.undo()
    assert torch.equal(decoder.generate(ids, max_new_tokens=5), expected)


def test_no_room_for_masks_is_the_same_error(phi, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("decodeloop.engines.static_step.StepMasks", no_memory)
    with pytest.raises(MemoryError, match=r"no room on cpu for a cache of 393,216 bytes"):
        TorchDecoder(phi).generate(prompt_ids(3, 5), max_new_tokens=5)
