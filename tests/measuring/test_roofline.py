"""The limit: which bytes are counted."""

import pytest
import torch
from helpers import SMALL, build
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import decodeloop
from decodeloop import quantize_onnx, roofline

TABLE = SMALL["vocab_size"] * SMALL["hidden_size"] * 4


def all_bytes(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def test_a_table_that_is_only_gathered_from_is_not_counted(llama, phi):
    assert roofline(llama, "cpu", bandwidth=1e9).weights == all_bytes(llama) - TABLE
    assert roofline(phi, "cpu", bandwidth=1e9).weights == all_bytes(phi)  # its head shares the table


def test_learned_positions_are_gathered_from():
    model = build(GPT2LMHeadModel, GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    assert roofline(model, "cpu", bandwidth=1e9).weights == all_bytes(model) - 512 * 32 * 4


def test_the_cache_counts_for_each_row_and_position(llama):
    limit = roofline(llama, "cpu", length=100, batch=3, bandwidth=1e9)
    assert limit.cache == 3 * 100 * 2 * 2 * 2 * 16 * 4  # rows, positions, layers, keys and values, heads, size, bytes
    assert limit.bytes == limit.weights + limit.cache
    assert limit.seconds == limit.bytes / 1e9
    assert limit.tokens_per_second == pytest.approx(3e9 / limit.bytes)
    assert limit.share(4 * limit.seconds) == 0.25


def test_a_window_bounds_what_is_read():
    model = build(MistralForCausalLM, MistralConfig, num_key_value_heads=2, sliding_window=5)
    long, short = (roofline(model, "cpu", length=n, bandwidth=1e9).cache for n in (100, 5))
    assert long == short == 5 * 2 * 2 * 2 * 8 * 4


def test_a_graph_has_the_limit_of_what_is_stored_in_it(llama, phi, phi_fused, tmp_path):
    model = roofline(phi, "cpu", length=10, bandwidth=1e9)
    graph = roofline(phi_fused.path, "cpu", length=10, bandwidth=1e9)
    assert graph.cache == model.cache
    assert graph.weights == pytest.approx(model.weights, rel=0.05)  # but for biases that are added up
    small = quantize_onnx(phi_fused.path, tmp_path / "small.onnx", bits=4)
    decoder = decodeloop.OnnxDecoder(small, device="cpu")
    assert roofline(decoder, "cpu", bandwidth=1e9).weights < 0.4 * model.weights


def test_of_a_mixture_of_experts_those_count_that_a_row_reads():
    sizes = {"num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    model = build(Qwen3MoeForCausalLM, Qwen3MoeConfig, **sizes, head_dim=8)
    experts = sum(parameter.nbytes for name, parameter in model.named_parameters() if ".experts." in name)
    assert experts > 0
    assert roofline(model, "cpu", bandwidth=1e9).weights == all_bytes(model) - TABLE - experts // 4


def test_the_bandwidth_is_measured_for_what_is_read(llama, monkeypatch):
    measured = {}

    def bandwidth(device, size):
        return measured.setdefault(size, 1e9 * (1 + len(measured)))

    monkeypatch.setattr("decodeloop.measuring.roofline.memory_bandwidth", bandwidth)
    short, long = roofline(llama, "cpu"), roofline(llama, "cpu", length=50)
    assert measured == {short.bytes: short.bandwidth, long.bytes: long.bandwidth}
    assert short.bytes < long.bytes
    assert str(long).endswith("at 2 GB/s")


def test_no_product_reads_its_matrix_faster_than_the_limit_says(monkeypatch):
    monkeypatch.setattr("decodeloop.measuring.bandwidth.AGAIN", 0)
    for rows in (1024, 16384):  # 8 MB, which a cache may hold, and 134 MB
        matrix, vector = torch.ones(rows, 2048), torch.ones(2048)
        fastest = decodeloop.measure(lambda matrix=matrix, vector=vector: matrix @ vector, device="cpu").min
        speeds = (decodeloop.memory_bandwidth("cpu", matrix.nbytes) for _ in range(20))  # the fastest until then
        assert any(matrix.nbytes / fastest <= 1.5 * speed for speed in speeds)  # in one that is no busier than it was


def test_what_cannot_be_used_is_named(llama):
    with pytest.raises(ValueError, match="length=-1: expected an int of 0 or more"):
        roofline(llama, "cpu", length=-1)
    with pytest.raises(ValueError, match="batch=0: expected an int of 1 or more"):
        roofline(llama, "cpu", batch=0)
    with pytest.raises(ValueError, match="int: expected a transformers model, an OnnxDecoder, or a graph's path"):
        roofline(3, "cpu")
