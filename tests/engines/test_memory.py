"""What a decoder holds on to between requests."""

import gc

import pytest
import torch
from helpers import prompt_ids

from decodeloop import OnnxDecoder, TorchDecoder


@pytest.fixture(params=["static", "fused"])
def decoder(request, phi, phi_fused):
    """The two whose buffers have a fixed capacity."""
    return TorchDecoder(phi) if request.param == "static" else OnnxDecoder(phi_fused.path, device="cpu")


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
