"""Buffers of fixed capacity: they grow while a text does, and few are kept between requests."""

import gc

import pytest
import torch
from helpers import left_padded, prompt_ids

from decodeloop import OnnxDecoder, TorchDecoder, generate


@pytest.fixture(params=["static", "fused", "traced"])
def decoder(request, phi, phi_fused, phi_traced):
    """Those whose buffers have a fixed capacity."""
    if request.param == "static":
        return TorchDecoder(phi)
    return OnnxDecoder({"fused": phi_fused, "traced": phi_traced}[request.param].path, device="cpu")


def test_tokens_are_those_of_generate_while_the_buffers_grow(phi, decoder):
    for lengths in ([12], [12, 5, 9]):  # room is made for 256 new tokens at first
        ids, mask = left_padded(lengths)
        options = {"attention_mask": mask, "max_new_tokens": 350, "eos_token_id": None}
        assert torch.equal(decoder.generate(ids, **options), generate(phi, ids, **options))


def test_a_capacity_beyond_the_models_positions_is_as_good_as_all_of_them(phi, phi_fused):
    ids, options = prompt_ids(1, 5), {"max_new_tokens": 9, "eos_token_id": None}
    for decoder in (TorchDecoder(phi, capacity=1000), OnnxDecoder(phi_fused.path, device="cpu", capacity=1000)):
        assert torch.equal(decoder.generate(ids, **options), generate(phi, ids, **options))


def held() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) is torch.Tensor and found.layout is torch.strided]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_what_large_requests_took_is_let_go_of(decoder):
    before = held()
    decoder.generate(prompt_ids(64, 5), max_new_tokens=2, eos_token_id=None)
    large = held() - before
    for batch in range(1, 9):
        decoder.generate(prompt_ids(batch, 5), max_new_tokens=2, eos_token_id=None)
    assert held() - before < large / 2


def test_many_requests_take_no_more_than_a_few(decoder):
    def serve():
        for batch in (1, 2, 3):
            for length in (5, 70, 200):
                decoder.generate(prompt_ids(batch, length), max_new_tokens=3, eos_token_id=None)
        return held()

    first = serve()
    assert serve() == serve() <= first
