"""The loops on a GPU, with onnxruntime's CUDA provider. Skipped where either is missing."""

import copy
import json
from pathlib import Path

import onnxruntime
import pytest
import spread_cases
import torch
from helpers import assert_greedy, left_padded, prompt_ids

import decodeloop
from decodeloop.decoding.prompt import check_prompt

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs an NVIDIA GPU and onnxruntime-gpu",
)


@pytest.fixture(
    scope="module", params=["dynamo float32 all", "dynamo float16 last", "fused float16 all", "fused float16 last"]
)
def pair(request, llama, tmp_path_factory):
    """A model on the GPU and its graph."""
    exporter, dtype, logits = request.param.split()
    model = copy.deepcopy(llama).to("cuda", getattr(torch, dtype))
    report = decodeloop.export_onnx(
        model, tmp_path_factory.mktemp("gpu") / "model.onnx", exporter=exporter, logits=logits
    )
    return model, decodeloop.OnnxDecoder(report.path, device="cuda", cuda_graph=exporter == "fused" or "auto")


def test_the_cuda_provider_runs(pair):
    assert pair[1].providers[0] == "CUDAExecutionProvider"


def test_three_loops_agree_on_a_padded_batch(pair):
    model, decoder = pair
    ids, mask = (t.cuda() for t in left_padded([9, 2, 30]))
    options = {"attention_mask": mask, "max_new_tokens": 40, "eos_token_id": None}
    expected = model.generate(ids, do_sample=False, **options)
    assert torch.equal(decodeloop.generate(model, ids, **options), expected)
    onnx = decoder.generate(ids, **options)
    assert_greedy(model, onnx, 30, mask)
    assert torch.equal(onnx, expected) or model.dtype == torch.float16  # which may part from it at a near tie
    assert onnx.device == ids.device


def test_tokens_come_back_to_where_the_prompt_was(pair):
    model, decoder = pair
    ids = prompt_ids(1, 5)
    assert decodeloop.generate(model, ids, max_new_tokens=3).device.type == "cpu"
    assert decoder.generate(ids, max_new_tokens=3).device.type == "cpu"


def test_a_seed_gives_the_tokens_it_gives_on_a_cpu(llama):
    ids = prompt_ids(2, 5)
    sampler = decodeloop.Sampler(temperature=0.8, top_k=30, seed=4)
    on_gpu = decodeloop.generate(copy.deepcopy(llama).cuda(), ids, sampler=sampler, max_new_tokens=30)
    assert torch.equal(on_gpu, decodeloop.generate(llama, ids, sampler=sampler, max_new_tokens=30))


def test_many_requests_in_a_row_do_not_disturb_each_other(pair):
    _, decoder = pair
    ids = [prompt_ids(1 + i % 3, 3 + i, seed=i) for i in range(8)]
    first = [decoder.generate(i, max_new_tokens=20) for i in ids]
    assert all(torch.equal(decoder.generate(i, max_new_tokens=20), f) for i, f in zip(ids, first, strict=True))


def test_dtype_auto_is_the_checkpoints_own():
    assert decodeloop.load().model.dtype == torch.float16
    assert decodeloop.load().model.device.type == "cuda"


def test_a_shared_cache_in_float32_is_refused(phi_fused):
    with pytest.raises(ValueError, match="is in float32, for which GroupQueryAttention has no CUDA"):
        decodeloop.OnnxDecoder(phi_fused.path, device="cuda")


@pytest.fixture(scope="module")
def said_on_two_gpus():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    script = Path(spread_cases.__file__)
    return json.loads(decodeloop.run_ranks(script, device="cuda", timeout=400).splitlines()[-1])


@pytest.mark.timeout(500)
@pytest.mark.parametrize("name", spread_cases.CASES)
def test_a_model_spread_over_two_gpus(said_on_two_gpus, name):
    assert said_on_two_gpus[name] == ["", ""]


@pytest.mark.timeout(200)
def test_a_group_ends_though_a_captured_step_was_not_closed(tmp_path):
    """NCCL would wait for it for ever: a script that forgets it is cleared before the group is left."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    script = tmp_path / "forgets.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(spread_cases.__file__).parent)!r})\n"
        "from spread_cases import *\n"
        "decoder = TorchDecoder(pair('llama')[1], cuda_graph=True)\n"
        "decoder.generate(prompt_ids(1, 5).cuda(), **OPTIONS)\n"
        "print(any(step.graph for step in decoder.steps.kept.values()))\n"
    )
    assert decodeloop.run_ranks(script, device="cuda", timeout=120) == "True\n" * 2


@pytest.fixture
def replays(monkeypatch):
    """A list that grows by one with each replay of a CUDA graph."""
    seen, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: seen.append(graph) or replay(graph))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_captured_step_on_pytorch_writes_the_same(llama, dtype, replays):
    model = copy.deepcopy(llama).to("cuda", dtype)
    decoder = decodeloop.TorchDecoder(model, cuda_graph=True)
    for lengths in ([12], [12, 5, 9], [1, 70], [12]):
        ids, mask = (t.cuda() for t in left_padded(lengths))
        options = {"attention_mask": mask, "max_new_tokens": 350, "eos_token_id": None}
        replays.clear()
        got = decoder.generate(ids, **options)
        assert len(replays) > 300  # all but the first steps over buffers of a new size
        assert_greedy(model, got, max(lengths), mask)
        if dtype == torch.float32:  # float16, masked to its capacity, rounds differently
            assert torch.equal(got, model.generate(ids, do_sample=False, **options))


def test_a_compiled_step_is_captured_and_writes_the_same(replays):
    loaded = decodeloop.load()
    decoder = decodeloop.TorchDecoder(loaded.model, compile=True, cuda_graph=True)
    text = 'def factorial(n):\n    """Return the factorial of n."""'
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids.cuda()
    got = decoder.generate(ids)
    assert torch.equal(got, decodeloop.generate(loaded.model, ids))
    assert len(replays) > (got.shape[1] - ids.shape[1]) / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(78, 300), (6, 4100), (2048, 2048)])
def test_a_row_times_a_matrix_is_what_pytorch_gives_with_what_stands_around_it(shape, dtype):
    from decodeloop.engines.kernels import products

    def close(got, exact):
        assert got.dtype == dtype
        error = (got.double().cpu() - exact).abs().max() / exact.abs().max()
        assert error < max(8 * torch.finfo(dtype).eps, 1e-5)  # TF32 would be off by about 1e-4

    torch.manual_seed(0)
    weight = torch.randn(shape, device="cuda", dtype=dtype) / shape[1] ** 0.5  # so that no gate is all but closed
    bias, norm = weight[:, 0].contiguous(), weight[0].contiguous()
    for rows, offset in ((1, None), (1, bias), (3, None)):
        x = torch.randn(rows, 1, shape[1], device="cuda", dtype=dtype)
        close(products.linear(x, weight, offset), products.matvec(*(wide(t) for t in (x, weight, offset))))
    x, residual = torch.randn(1, 1, shape[1], device="cuda", dtype=dtype), bias[None, None]
    for offset in (None, bias):
        for other in (None, residual.flip(-1).contiguous()):
            arguments = x, weight, offset, residual, other
            close(products.matvec_add(*arguments), products.matvec_add(*map(wide, arguments)))
        for kind in products.NORMS:
            for shift in (None, norm.flip(0).contiguous()) if kind == "layer" else (None,):
                exact = products.norm_matvec(
                    wide(x), wide(norm), wide(shift), 1e-5, kind, wide(weight), wide(offset), ""
                )
                close(products.norm_matvec(x, norm, shift, 1e-5, kind, weight, offset, ""), exact)
    for kind, gate in (("rms", "silu"), ("rms_plus_one", "gelu_tanh")):
        exact = products.norm_matvec(wide(x), wide(norm), None, 1e-5, kind, wide(weight), None, gate)
        close(products.norm_matvec(x, norm, None, 1e-5, kind, weight, None, gate), exact)
    for activation in products.ACTIVATIONS:
        for offset, first in ((None, 0), (bias, shape[0] // 3)):
            given = wide(x), wide(norm), None, 1e-5, "layer", wide(weight), wide(offset), activation, first
            exact = products.norm_matvec(*given)
            given = x, norm, None, 1e-5, "layer", weight, offset, activation, first
            close(products.norm_matvec(*given), exact)


def wide(tensor):
    """In float64 on the CPU, where the operators are what they mean."""
    return None if tensor is None else tensor.double().cpu()


@pytest.mark.parametrize("size", [64, 48, 256])
@pytest.mark.parametrize(("rows", "heads", "key_heads", "capacity"), [(1, 4, 4, 64), (2, 8, 2, 320), (40, 16, 4, 1000)])
def test_one_query_attends_as_pytorchs_function_does(rows, heads, key_heads, capacity, size):
    from decodeloop.engines.kernels import decode_attention

    query = torch.randn(rows, 1, heads, size, device="cuda", dtype=torch.float16).transpose(1, 2)
    key, value = torch.randn(2, rows, key_heads, capacity, size, device="cuda", dtype=torch.float16)
    mask = torch.zeros(rows, 1, 1, capacity, device="cuda", dtype=torch.float16)
    mask[..., capacity // 2 :] = mask[0, ..., : capacity // 4] = torch.finfo(torch.float16).min
    repeated = (x.double().repeat_interleave(heads // key_heads, 1) for x in (key, value))
    exact = torch.nn.functional.scaled_dot_product_attention(query.double(), *repeated, attn_mask=mask.double())
    got, _ = decode_attention.attention(None, query, key, value, mask)
    torch.testing.assert_close(got.double(), exact.transpose(1, 2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("softcap", "sinks"), [(5.0, False), (None, True), (5.0, True), (None, False)])
@pytest.mark.parametrize(("rows", "heads", "key_heads", "capacity"), [(1, 4, 1, 64), (2, 8, 2, 1500)])
def test_one_query_attends_with_caps_and_sinks_within_a_window(
    rows, heads, key_heads, capacity, softcap, sinks, window
):
    from decodeloop.engines.kernels import decode_attention

    query = 3 * torch.randn(rows, heads, 1, 64, device="cuda", dtype=torch.bfloat16)
    key, value = torch.randn(2, rows, key_heads, capacity, 64, device="cuda", dtype=torch.bfloat16)
    mask = torch.zeros(rows, 1, 1, capacity, device="cuda", dtype=torch.bfloat16)
    now = capacity * 3 // 4
    mask[..., now + 1 :] = mask[0, ..., : now // 2] = torch.finfo(torch.bfloat16).min
    if window:
        mask[..., : max(now - window + 1, 0)] = torch.finfo(torch.bfloat16).min
    sink = torch.randn(heads, device="cuda", dtype=torch.bfloat16) if sinks else None
    options = {"softcap": softcap, "s_aux": sink, "sliding_window": window}
    got, _ = decode_attention.attention(None, query, key, value, mask, **options)
    keys, values = (x.double().repeat_interleave(heads // key_heads, 1) for x in (key, value))
    scores = query.double() @ keys.transpose(2, 3) / 8
    scores = (softcap * (scores / softcap).tanh() if softcap else scores) + mask.double()
    if sinks:
        scores = torch.cat([scores, sink.double()[None, :, None, None].expand(rows, -1, 1, 1)], dim=-1)
    exact = scores.softmax(-1)[..., :capacity] @ values
    torch.testing.assert_close(got.double(), exact.transpose(1, 2), atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("norms", "plus_one"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("windowed", "softcap", "sinks"), [(False, None, False), (True, 5.0, True)])
@pytest.mark.parametrize(
    ("rows", "heads", "key_heads", "capacity", "size", "rotary"),
    [
        (1, 4, 4, 64, 64, 64),
        (3, 8, 2, 320, 48, 24),
        (1, 14, 2, 5000, 64, 64),
        (40, 16, 4, 1000, 128, 128),
        (1, 2, 1, 70, 256, 0),
        (1, 4, 1, 3000, 256, 128),
        (2, 6, 6, 1500, 96, 48),
        (1, 4, 4, 1500, 64, 64),
        (2, 4, 2, 320, 128, 128),
    ],
)
def test_attention_normalises_rotates_and_appends(
    rows, heads, key_heads, capacity, size, rotary, windowed, softcap, sinks, norms, plus_one, dtype
):
    from decodeloop.engines.kernels.decode_attention import append_and_attend

    def random(*shape):
        return torch.randn(*shape, device="cuda", dtype=dtype)

    product = random(rows, 1, (heads + 2 * key_heads) * size)
    parts = product.split([heads * size, key_heads * size, key_heads * size], dim=-1)
    parts = [part.view(rows, 1, -1, size).transpose(1, 2) for part in parts]  # as merged layers leave them
    angles = 6 * torch.rand(rows, 1, 1, rotary // 2, device="cuda").repeat(1, 1, 1, 2)
    turns = (angles.cos().to(dtype), angles.sin().to(dtype)) if rotary else (None, None)
    scales = (random(size), random(size)) if norms else (None, None)
    sink = random(heads) if sinks else None
    for now in (0, capacity // 2, capacity - 1):
        mask = torch.zeros(rows, 1, 1, capacity, device="cuda", dtype=dtype)
        mask[..., now + 1 :] = torch.finfo(dtype).min
        if windowed:
            mask[..., : max(now - 20, 0)] = torch.finfo(dtype).min
        cache = random(2, rows, key_heads, capacity, size)
        cache[:, :, :, now:] = float("nan")  # what nobody wrote is hidden, and the token's place is written
        cache[:, :, :, now + 1 :] = 0
        place = torch.tensor([now], device="cuda")
        arguments = place, *turns, *scales, 1e-6, plus_one, mask, size**-0.5, softcap, sink, windowed
        results = []
        for here in (lambda x: x.clone(), lambda x: x.cpu()):
            keys, values = map(here, cache)
            given = (here(x) if isinstance(x, torch.Tensor) else x for x in arguments)
            results.append((append_and_attend(*map(here, parts), keys, values, *given), keys, values))
        for got, exact in zip(*results, strict=True):
            torch.testing.assert_close(got.cpu(), exact, atol=4e-2, rtol=4e-2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(("heads", "key_heads", "capacity"), [(4, 4, 64), (4, 4, 1000), (8, 2, 4000)])
def test_a_key_that_is_no_number_is_not_hidden(heads, key_heads, capacity, number):
    """A model that overflows is told so: by head, in pieces, and by group."""
    from decodeloop.engines.kernels.decode_attention import append_and_attend

    parts = [torch.randn(1, n, 1, 64, device="cuda", dtype=torch.float16) for n in (heads, key_heads, key_heads)]
    keys, values = torch.randn(2, 1, key_heads, capacity, 64, device="cuda", dtype=torch.float16)
    mask = torch.zeros(1, 1, 1, capacity, device="cuda", dtype=torch.float16)
    keys[0, 0, capacity // 3] = number
    place = torch.tensor([capacity - 1], device="cuda")
    got = append_and_attend(
        *parts, keys, values, place, None, None, None, None, 0.0, False, mask, 0.125, None, None, False
    )
    finite = got.isfinite().all(-1)[0, 0]
    reads = torch.arange(heads, device="cuda") // (heads // key_heads) == 0
    assert not finite[reads].any()
    assert finite[~reads].all()


@pytest.mark.parametrize("capacity", [40, 300, 1500, 2500])
def test_a_row_of_which_all_is_hidden_is_an_average(capacity):
    """As softmax has it: the smallest float32 is as small as what is added to it. By head, in pieces, and by group."""
    from decodeloop.engines.kernels.decode_attention import decode_attention

    query, mask = torch.randn(2, 6, 1, 20, device="cuda"), torch.zeros(2, 1, 1, capacity, device="cuda")
    keys, values = torch.randn(2, 2, 2, capacity, 20, device="cuda")
    mask[0] = torch.finfo(torch.float32).min
    options = 0.2, None, None, False
    exact = decode_attention(query.cpu(), keys.cpu(), values.cpu(), mask.cpu(), *options)
    torch.testing.assert_close(decode_attention(query, keys, values, mask, *options).cpu(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("vocabulary", [1, 1000, 1024, 5001, 151936])
def test_the_likeliest_tokens_are_those_of_max(vocabulary, dtype):
    from decodeloop.engines.kernels.likeliest import likeliest

    logits = torch.randn(5, 3, vocabulary, device="cuda", dtype=dtype)[:, -1]  # of the last of three tokens
    logits[1] = logits[1].round().clamp(-1, 1)  # ties
    logits[2], logits[3, vocabulary // 2], logits[4, vocabulary // 2] = -float("inf"), float("inf"), float("nan")
    scores, tokens = logits.max(-1)
    found = likeliest(logits)
    assert torch.equal(found[0], tokens)
    torch.testing.assert_close(found[1].view(torch.float64), scores.double(), atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("engine", ["captured", "compiled", "fused"])
def test_what_a_step_has_found_is_of_the_last_token_that_was_read(llama, engine, tmp_path):
    model = copy.deepcopy(llama).to("cuda", torch.float16)
    if engine == "fused":
        report = decodeloop.export_onnx(model, tmp_path / "model.onnx", exporter="fused")
        decoder = decodeloop.OnnxDecoder(report.path, device="cuda", cuda_graph=True)
    else:
        decoder = decodeloop.TorchDecoder(model, compile=engine == "compiled", cuda_graph=True)
    prompt = check_prompt(prompt_ids(2, 7), None, max_new_tokens=20).to("cuda")
    for _ in range(2):  # the second time over buffers whose step is captured
        decoder.start(prompt, 27)
        logits = decoder.forward(prompt.input_ids)
        assert decoder.likeliest() is None
        for step in range(6):
            logits = decoder.forward(logits[:, -1].argmax(-1, keepdim=True))
            if decoder.likeliest() is None:
                assert step < 3
                continue
            for found, expected in zip(decoder.likeliest(), logits[:, -1].max(-1), strict=True):
                assert torch.equal(found, expected.to(found.dtype))
        assert decoder.likeliest() is not None
        decoder.rewind(2)
        assert decoder.likeliest() is None


@pytest.mark.parametrize("compiled", [False, True])
def test_a_captured_step_on_another_gpu_than_the_current_one(llama, compiled):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    model = copy.deepcopy(llama).to("cuda:1")
    ids, options = prompt_ids(1, 9).to("cuda:1"), {"max_new_tokens": 20, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(model, compile=compiled, cuda_graph=True)
    assert torch.equal(decoder.generate(ids, **options), model.generate(ids, do_sample=False, **options))
    assert decoder.likeliest() is not None
    assert torch.cuda.current_device() == 0


def test_what_the_compiler_makes_waits_before_it_reads_what_a_kernel_of_ours_wrote():
    """Ours let the next one start before they have waited: what is read early then may not be there."""
    from torch._inductor.utils import run_and_get_code

    from decodeloop.engines.kernels import products
    from decodeloop.engines.kernels.compiled import options
    from decodeloop.engines.kernels.overlap import overlaps

    given = options(torch.device("cuda"), torch.float16)
    if not overlaps(torch.device("cuda")) or len(given) < 3:
        pytest.skip("kernels do not overlap here")
    x, weight = torch.randn(1, 1, 64, device="cuda", dtype=torch.float16), torch.randn(64, 64, device="cuda").half()
    step = torch.compile(lambda x: (products.matvec(x.sin(), weight, None) + x.sin()).cos(), options=given)
    _, (code, *_) = run_and_get_code(step, x)
    kernels = [each for each in code.split("async_compile.triton")[1:] if "cos(" in each]
    assert kernels
    assert all("gdc_wait" in each.partition("tl.load")[0] for each in kernels)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_captured_step_leaves_scores_that_are_processed_to_the_loop(llama, compiled):
    model = copy.deepcopy(llama).to("cuda")
    model.generation_config.repetition_penalty, model.generation_config.suppress_tokens = 1.5, [3, 5, 8]
    ids = prompt_ids(1, 9).cuda()
    options = {"max_new_tokens": 30, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(model, compile=compiled, cuda_graph=True)
    assert torch.equal(decoder.generate(ids, **options), model.generate(ids, do_sample=False, **options))


def test_a_captured_step_says_that_a_model_overflowed(llama):
    model = copy.deepcopy(llama).to("cuda", torch.float16)
    decoder = decodeloop.TorchDecoder(model, cuda_graph=True)
    ids = prompt_ids(1, 9).cuda()
    decoder.generate(ids, max_new_tokens=8, eos_token_id=None)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="its best score is nan"):
        decoder.generate(ids, max_new_tokens=8, eos_token_id=None)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu"])
def test_an_activation_of_no_number_is_none(activation):
    from decodeloop.engines.kernels import products

    x, weight = torch.randn(1, 1, 64, device="cuda"), torch.randn(10, 64, device="cuda")
    weight[[1, 7]] = float("nan")
    got = products.norm_matvec(x, x[0, 0], None, 1e-5, "rms", weight, None, activation, 4)
    assert got.isnan()[0, 0].nonzero().flatten().tolist() == [1, 7]


@pytest.mark.parametrize("lengths", [[30], [30, 4, 11]])
def test_a_compiled_step_of_grouped_heads_writes_the_same(llama, lengths):
    model = copy.deepcopy(llama).to("cuda")
    ids, mask = (t.cuda() for t in left_padded(lengths))
    options = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": None}
    decoder = decodeloop.TorchDecoder(model, compile=True, cuda_graph=True)
    report = decodeloop.verify(model, decoder, ids, **options)
    assert report.same_tokens or report.divergence.near_tie, report
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("embedding", ["auto", True])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_run_on_cuda(tmp_path, bits, embedding):
    loaded = decodeloop.load()
    decodeloop.export_onnx(loaded.model, tmp_path / "m.onnx", exporter="fused")
    small = decodeloop.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", bits=bits, embedding=embedding)
    decoder = decodeloop.OnnxDecoder(small, device="cuda", cuda_graph=True)
    text = 'def factorial(n):\n    """Return the factorial of n."""'
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids.cuda()
    assert torch.equal(decoder.generate(ids), decodeloop.generate(loaded.model, ids))


def test_no_room_names_the_bytes_and_leaves_the_decoder_usable(pair):
    model, decoder = pair
    ids = prompt_ids(1, 5).cuda()
    expected = decoder.generate(ids, max_new_tokens=5)
    for each in (decoder, decodeloop.TorchDecoder(model)):
        rows = torch.cuda.mem_get_info()[1] // 2**14  # the cache of 105 positions takes 26 KiB for each, or more
        with pytest.raises(MemoryError, match=r"no room on cuda.* [\d,]+ bytes"):
            each.generate(ids.expand(rows, -1), max_new_tokens=100)
        assert torch.equal(each.generate(ids, max_new_tokens=5)[:, :6], expected[:, :6])
