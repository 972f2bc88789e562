"""What PyTorch's exporter cannot follow is traced in another way, and gives the model's tokens all the same."""

import onnxruntime
import pytest
import torch
from helpers import left_padded
from tiny_models import tiny_config, tiny_model
from torch.export import Dim

from decodeloop import OnnxDecoder, export_onnx
from decodeloop.export.rewrites import Rewrites, at_least_one
from decodeloop.export.traced import TRANSLATIONS

#: Experts in a loop, two ways, and a size that no token would differ by: one layer of each.
ARCHITECTURES = {
    "dbrx": {"n_layers": 1},
    "longcat_flash": {"num_layers": 1, "num_hidden_layers": 2},
    "mpt": {"n_layers": 1},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_graph_writes_generates_tokens(architecture, tmp_path):
    model = tiny_model(tiny_config(architecture, **ARCHITECTURES[architecture]))
    decoder = OnnxDecoder(export_onnx(model, tmp_path / "model.onnx", logits="last").path, device="cpu")
    for lengths in ((1,), (21, 9)):
        ids, mask = left_padded(lengths, seed=sum(lengths))
        expected = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        got = decoder.generate(ids, attention_mask=mask, max_new_tokens=12, eos_token_id=None)
        assert got.tolist() == expected.tolist(), lengths


class Experts(torch.nn.Module):
    """Four experts, of which each row goes to two: as many turns as experts are hit, and a class that none hits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, rows, scores):
        chosen = torch.topk(scores, 2, dim=-1).indices
        sent = torch.nn.functional.one_hot(chosen, num_classes=5).permute(2, 1, 0)
        out = torch.zeros_like(rows)
        for hit in torch.greater(sent.sum(dim=(-1, -2)), 0).nonzero():
            expert = int(hit.item())
            _, row = torch.where(sent[expert].squeeze(0))
            if row.numel() == 0:
                continue
            out.index_add_(0, row, rows[row] @ self.weight[expert])
        return out


def test_a_loop_over_experts_serves_texts_that_hit_others():
    model, rows, scores = Experts(), torch.randn(6, 8), torch.zeros(6, 4)
    scores[:, :2] = 1.0  # traced with two of the experts hit
    with Rewrites():
        program = torch.export.export(
            model, (rows, scores), dynamic_shapes=({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}), strict=False
        )
    for chosen in ([2, 3], [0, 3]):
        scores = torch.zeros(3, 4)
        scores[:, chosen] = 1.0
        torch.testing.assert_close(program.module()(rows[:3], scores), model(rows[:3], scores))


def test_without_the_rewriting_such_a_loop_cannot_be_traced():
    with pytest.raises(RuntimeError, match="data-dependent"):
        torch.export.export(Experts(), (torch.randn(6, 8), torch.rand(6, 4)), strict=False)


def test_indices_that_are_not_looped_over_are_what_they_were():
    with Rewrites():
        assert torch.tensor([False, True, True]).nonzero().tolist() == [[1], [2]]
        assert [int(row) for row in torch.topk(torch.tensor([5.0, 7.0, 6.0]), 2).indices] == [1, 2]
        assert torch.topk(input=torch.tensor([[5.0, 7.0, 6.0]]), k=1).indices.tolist() == [[1]]
        assert torch.topk(torch.tensor([[5.0], [7.0]]), 1, dim=0).indices.tolist() == [[1]]
        assert torch.nn.functional.one_hot(torch.tensor([1]), 3).tolist() == [[0, 1, 0]]
        assert torch.ones(3).numel() == 3
        assert torch.ones(1, 3).squeeze(0).shape == (3,)
        assert torch.ones(2, 3).squeeze(0).shape == (2, 3)


def test_a_size_of_at_least_one_settles_what_it_decides():
    """Else the exporter keeps both: a bias of one row, and one of none, which a text of no token would get."""

    class Biased(torch.nn.Module):
        def forward(self, scores, past, bias):
            at_least_one(scores.shape[0])
            return scores + bias[max(0, 1 - scores.shape[0] - past.shape[0]) :]

    inputs, shapes = (torch.ones(3, 4), torch.ones(5), torch.ones(1, 4)), ({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}, None)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # as torch.onnx.export traces
        program = torch.export.export(Biased(), inputs, dynamic_shapes=shapes, strict=False)
    assert program.module()(torch.ones(7, 4), torch.ones(2), inputs[2]).tolist() == [[2.0] * 4] * 7
    at_least_one(3)  # a size that is known already


def test_the_inverse_of_the_error_function_is_pytorchs(tmp_path):
    class Inverse(torch.nn.Module):
        def forward(self, x):
            return torch.erfinv(x)

    x = torch.cat([torch.linspace(-0.9999, 0.9999, 2001), torch.tensor([0.0, 1e-8, -1e-5])])
    path = tmp_path / "erf_inv.onnx"
    torch.onnx.export(Inverse().eval(), (x,), path, dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), torch.erfinv(x), rtol=2e-5, atol=1e-7)
