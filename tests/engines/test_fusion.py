"""Norms, gates and sums join the products of a compiled step, on any architecture that computes them so."""

from collections import Counter

import pytest
import torch
from helpers import SMALL, left_padded, prompt_ids
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN

import decodeloop
from decodeloop.engines.kernels import cpu_product, merged_linear, products
from decodeloop.engines.kernels.decode_attention import NAME
from decodeloop.engines.kernels.fusion import Fusion

LAYERS = 2
# by layer: products with their norm, of these with a gate, with an activation, products with their sum, with a second
JOINED = {
    "llama": (2, 1, 0, 2, 0),
    "qwen2": (2, 1, 0, 2, 0),
    "qwen3": (2, 1, 0, 2, 0),
    "gemma": (2, 1, 0, 2, 0),
    "mistral": (2, 1, 0, 2, 0),
    "granite": (2, 1, 0, 0, 0),  # what is added is scaled first
    "phi": (1, 0, 1, 1, 1),
    "gpt_neox": (2, 0, 1, 1, 1),
    "starcoder2": (2, 0, 1, 2, 0),
}


def tiny(kind, dtype):
    torch.manual_seed(0)
    sizes = SMALL | {"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "head_dim": 8}
    if kind == "mistral":
        sizes |= {"sliding_window": None}
    if kind in ("phi", "gpt_neox", "opt", "starcoder2"):
        sizes = SMALL | {"num_hidden_layers": LAYERS}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), dtype=dtype).eval()


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """On a CPU torch compiles C++, which takes a compiler, and a path to torch without spaces."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.ones(8))
    except Exception as error:
        pytest.skip(f"torch.compile cannot be used here: {str(error).strip().splitlines()[0]}")


def attention(node) -> tuple[str, ...] | None:
    """What an attention does itself: writing into the cache, then rotation, then norms."""
    if "decodeloop.decode_attention" in str(node.target):
        return ()
    if node.target is not torch.ops.higher_order.auto_functionalized:
        return None
    does = {"rotates": node.kwargs["cos"], "normalises": node.kwargs["query_norm"]}
    return ("writes", *(name for name, what in does.items() if what is not None))


class Counting(Fusion):
    """Keeps what the graph holds after the pass."""

    def __call__(self, graph):
        super().__call__(graph)
        self.calls = [node for node in graph.nodes if node.op == "call_function"]
        products = [node.args[7:] for node in self.calls if "norm_matvec" in str(node.target)]
        self.gates = sum(len(given) == 1 and given != ("",) for given in products)
        self.activations = sum(len(given) == 2 for given in products)
        self.seconds = sum("matvec_add" in str(node.target) and node.args[-1] is not None for node in self.calls)
        self.attentions = [does for node in self.calls if (does := attention(node)) is not None]

    def count(self) -> tuple[int, int, int, int, int]:
        named = Counter(str(node.target).split(".")[1] for node in self.calls if "decodeloop" in str(node.target))
        return named["norm_matvec"], self.gates, self.activations, named["matvec_add"], self.seconds

    def uuid(self):
        return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", JOINED)
def test_a_compiled_step_joins_what_stands_around_its_products(kind, dtype, monkeypatch):
    torch._dynamo.reset()  # it compiles a function anew only so many times
    model = tiny(kind, dtype)
    fusion = Counting(dtype)

    def compiled(model):
        monkeypatch.setattr(merged_linear, "linear_for", lambda weight: merged_linear.products.linear)
        fast = merged_linear.with_merged_linears(model)
        return lambda: torch.compile(fast.forward, dynamic=False, options={"post_grad_custom_pre_pass": fusion})

    monkeypatch.setattr("decodeloop.engines.torch_static.compiled", compiled)
    ids = prompt_ids(1, 6)
    decoder = decodeloop.TorchDecoder(model, compile=True)
    got = decoder.generate(ids, max_new_tokens=8, eos_token_id=None)
    norms, *others = (LAYERS * each for each in JOINED[kind])
    assert fusion.count() == (norms + 1, *others)  # the last norm, into the head
    if dtype == torch.float32:
        expected = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert torch.equal(got, expected)
    else:
        assert decodeloop.verify(model, decoder, ids, max_new_tokens=8).agrees


#: What the attention of a compiled step does beside.
ATTENDS = {
    "llama": ("writes", "rotates"),
    "mistral": ("writes", "rotates"),  # within a window
    "phi": ("writes", "rotates"),  # the first columns
    "gpt_neox": ("writes", "rotates"),
    "gemma2": ("writes", "rotates"),  # with a cap
    "qwen3": ("writes", "rotates", "normalises"),  # before columns are heads
    "gemma3_text": ("writes", "rotates", "normalises"),  # after, by one more than its weights; two rotations
    "olmo2": ("writes",),  # normalises all heads together, and rotates wider numbers, if there are any
    "cohere": ("writes",),  # rotates neighbours
    "opt": ("writes",),
}


@pytest.mark.parametrize(("lengths", "dtype"), [([6, 3, 5], torch.float32), ([6], torch.bfloat16)])
@pytest.mark.parametrize("kind", ATTENDS)
def test_attention_joins_what_stands_before_it(kind, lengths, dtype, monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny(kind, dtype)
    if kind == "mistral":
        model.config.sliding_window = 5
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" in name:  # which are ones, or zeros, in a new model
                weights += 0.3 * torch.randn_like(weights)
    fusion = Counting(dtype)

    def compiled(model):
        fast = merged_linear.with_merged_linears(model)
        fast.set_attn_implementation(NAME)
        return lambda: torch.compile(fast.forward, dynamic=False, options={"post_grad_custom_pre_pass": fusion})

    monkeypatch.setattr("decodeloop.engines.torch_static.compiled", compiled)
    ids, mask = left_padded(lengths)
    decoder = decodeloop.TorchDecoder(model, compile=True)
    report = decodeloop.verify(model, decoder, ids, attention_mask=mask, max_new_tokens=8)
    assert report.agrees, report
    wide = ("rotates",) if kind == "olmo2" and dtype == torch.float32 else ()
    assert fusion.attentions == [ATTENDS[kind] + wide] * LAYERS
    assert not torch._dynamo.utils.counters["inductor"]["possibly_missed_reinplacing_bytes"]  # no cache is copied


def rotates(x, cos, sin):
    return x * cos + torch.cat([-x[..., 4:], x[..., :4]], dim=-1) * sin


def normalises(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def attends(query, key, value, mask):
    return torch.ops.decodeloop.decode_attention(query, key, value, mask, 0.5, None, None, False)


def looks_back(query, key, value, keys, values, place, mask, cos, sin, weight):
    keys.index_copy_(2, place, key)
    values.index_copy_(2, place, value)
    return attends(query * keys.amax(), keys, values, mask)  # reads what was written, before attention does


def by_numbers(query, key, value, keys, values, place, mask, cos, sin, weight):
    keys.index_copy_(2, place, rotates(key, 0.8, 0.6))
    values.index_copy_(2, place, value)
    return attends(rotates(query, 0.8, 0.6), keys, values, mask)


def eps_is_a_tensor(query, key, value, keys, values, place, mask, cos, sin, weight):
    eps = cos[0, 0, 0, 0] ** 2
    keys.index_copy_(2, place, rotates(normalises(key, weight, eps), cos, sin))
    values.index_copy_(2, place, value)
    return attends(rotates(normalises(query, weight, eps), cos, sin), keys, values, mask)


def norm_of_this_step(query, key, value, keys, values, place, mask, cos, sin, weight):
    weight = weight + 1
    keys.index_copy_(2, place, rotates(normalises(key, weight, 1e-5), cos, sin))
    values.index_copy_(2, place, value)
    return attends(rotates(normalises(query, weight, 1e-5), cos, sin), keys, values, mask)


def place_of_this_step(query, key, value, keys, values, place, mask, cos, sin, weight):
    place = place + 1
    keys.index_copy_(2, place, rotates(key, cos, sin))
    values.index_copy_(2, place, value)
    return attends(rotates(query, cos, sin), keys, values, mask)


def keeps_the_old(query, key, value, keys, values, place, mask, cos, sin, weight):
    old = keys.clone() * 1
    new = keys.index_copy(2, place, rotates(key, cos, sin))
    values.index_copy_(2, place, value)
    return attends(rotates(query, cos, sin), new, values, mask) + (keys + old).sum()


def one_is_another(query, key, value, keys, values, place, mask, cos, sin, weight):
    keys.index_copy_(2, place, rotates(key, cos, cos))
    values.index_copy_(2, place, value)
    return attends(rotates(query, cos, sin), keys, values, mask)


@pytest.mark.parametrize(
    ("step", "does"),
    [
        (looks_back, [()]),
        (by_numbers, [("writes",)]),
        (eps_is_a_tensor, [("writes", "rotates")]),
        (norm_of_this_step, [("writes", "rotates")]),
        (place_of_this_step, [()]),
        (keeps_the_old, [()]),
        (one_is_another, [("writes",)]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_only_looks_like_it_is_left_alone(step, does):
    torch._dynamo.reset()
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 1, 8) for heads in (4, 2, 2))
    keys, values, mask = torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8), torch.zeros(1, 1, 1, 16)
    cos, sin, weight, place = torch.rand(1, 1, 1, 8), torch.rand(1, 1, 1, 8), torch.randn(8), torch.tensor([5])
    fusion, results = Counting(torch.float32), []
    for run in (step, torch.compile(step, options={"post_grad_custom_pre_pass": fusion})):
        buffers = keys.clone(), values.clone()
        results.append((run(query, key, value, *buffers, place, mask, cos, sin, weight), *buffers))
    assert fusion.attentions == does
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected)


def after(y, activation):
    return activation(y)


def of_its_last_columns(y, activation):
    return y[..., :6], activation(y[..., 6:])


def of_its_first_columns(y, activation):
    return activation(y[..., :6]), y[..., 6:]


def read_before(y, activation):
    return y * 2, activation(y)


def read_in_part_before(y, activation):
    return y[..., 4:8] * 2, activation(y[..., 6:])


def twice(y, activation):
    return activation(y[..., 6:]), torch.relu(y[..., 6:]) + y[..., 6:]


def of_rows(y, activation):
    return activation(y.view(1, 2, 5)[:, 1:])


def read_as_rows(y, activation):
    return y.view(1, 2, 5) * 2, activation(y[..., 6:])


def added_up(y, activation):
    return y.sum(-1, keepdim=True), activation(y[..., 6:])


def read_from_the_end(y, activation):
    return y[..., -3:] * 2, activation(y[..., 6:])


def split(y, activation):
    first, second = y.split([6, 4], dim=-1)
    return first, activation(second)


def read_by_rows(y, activation):
    return y[0:1] * 2, activation(y[..., 6:])


@pytest.mark.parametrize("name", ["silu", "relu", "gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu"])
@pytest.mark.parametrize(
    ("used", "joins"),
    [
        (after, True),
        (of_its_last_columns, True),
        (of_its_first_columns, False),
        (read_before, False),
        (read_in_part_before, False),
        (twice, False),
        (of_rows, False),
        (read_as_rows, False),
        (added_up, False),
        (read_from_the_end, False),
        (read_by_rows, False),
        (split, False),
    ],
)
def test_a_product_activates_what_nothing_else_reads(used, joins, name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, norm, weight, bias = torch.randn(1, 1, 8), torch.randn(8), torch.randn(10, 8), torch.randn(10)
    fusion = Counting(torch.float32)

    def step(x):
        product = merged_linear.products.matvec
        return used(product(torch.nn.functional.layer_norm(x, (8,), norm, bias[:8]), weight, bias), ACT2FN[name])

    got = torch.compile(step, options={"post_grad_custom_pre_pass": fusion})(x)
    torch.testing.assert_close(got, step(x))
    assert fusion.count()[2] == (joins and name != "quick_gelu")  # which no kernel knows


def test_a_product_plus_a_number_is_no_sum_of_two_rows():
    torch._dynamo.reset()
    weight, x = torch.randn(6, 8), torch.randn(1, 1, 8)
    compiled = torch.compile(
        lambda x: 1.0 + merged_linear.products.matvec(x, weight, None),
        options={"post_grad_custom_pre_pass": Fusion(torch.float32)},
    )
    torch.testing.assert_close(compiled(x), 1.0 + torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize("product", [products.summed, torch.nn.functional.linear], ids=lambda each: each.__name__)
def test_a_compiled_step_on_a_cpu_writes_the_same_by_either_product(kind, dtype, product, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(cpu_product, "faster", lambda dtype: product)
    model, ids = tiny(kind, dtype), prompt_ids(1, 6)
    decoder = decodeloop.TorchDecoder(model, compile=True)
    options = {"max_new_tokens": 8, "eos_token_id": None}
    if dtype == torch.float32:
        assert torch.equal(decoder.generate(ids, **options), decodeloop.generate(model, ids, **options))
    else:
        assert decodeloop.verify(model, decoder, ids, max_new_tokens=8).agrees


@pytest.mark.parametrize(("columns", "stays"), [(1, False), (2, True)])
def test_a_matrix_product_over_one_column_becomes_a_product(columns, stays):
    """Rotary angles: positions times frequencies, for which no library is asked."""
    torch._dynamo.reset()
    fusion = Counting(torch.float32)
    column, row = torch.randn(2, 6, columns), torch.randn(2, columns, 5)
    compiled = torch.compile(lambda a, b: (a @ b).cos(), options={"post_grad_custom_pre_pass": fusion})
    torch.testing.assert_close(compiled(column, row), (column @ row).cos())
    assert any("mm" in str(node.target) for node in fusion.calls) == stays
