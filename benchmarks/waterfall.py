"""Where do the milliseconds go? From numpy feeds to the fastest loop, one change at a time, on a GPU.

    python benchmarks/waterfall.py --model microsoft/phi-1_5 --output waterfall.json

Each change has a gain that is predicted from what it removes, by the constants below, and one that is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import numpy
import onnx
import torch
from as_table import printed
from decode_speed import agreement, build
from loops import exported, exports, onnx_loop
from measurements import LIMIT, NEXT, add_output_options, row, timed, write

import decodeloop

LAUNCH = 5e-6  # s: the host's time to launch one operator, while the GPU would be ready for it
KERNEL = 2.2e-6  # s: the least time of a kernel and the gap after it within a CUDA graph
PCIE = 12e9  # bytes/s between pageable memory of the host and the GPU


def numpy_feeds(path: Path, device: torch.device):
    """``session.run`` on numpy arrays: the cache goes to the host and back at each step."""
    session = decodeloop.OnnxDecoder(path, device=device).session

    def run(ids: torch.Tensor, k: int) -> torch.Tensor:
        tokens, unread = ids.cpu().numpy(), ids.cpu().numpy()
        feeds = {
            i.name: numpy.zeros((len(ids), i.shape[1], 0, i.shape[3]), "float16" if "16" in i.type else "float32")
            for i in session.get_inputs()
            if i.name.startswith("past")
        }
        names = [o.name for o in session.get_outputs()]
        for _ in range(k):
            total = tokens.shape[1]
            feeds["input_ids"], feeds["attention_mask"] = unread, numpy.ones_like(tokens)
            feeds["position_ids"] = numpy.broadcast_to(numpy.arange(total - unread.shape[1], total), unread.shape)
            outputs = dict(zip(names, session.run(None, feeds), strict=True))
            unread = outputs["logits"][:, -1:].argmax(-1)
            tokens = numpy.concatenate([tokens, unread], axis=1)
            feeds = {n.replace("present", "past_key_values"): v for n, v in outputs.items() if n != "logits"}
        return torch.from_numpy(tokens)

    return run


def predicted(step: str, before: int, after: int, limit: decodeloop.Roofline) -> float:
    """Seconds per token that a change should save: its operators ``before`` and ``after``, and the bytes it moves."""
    if step == "IO binding":
        return 2 * limit.cache / PCIE
    if step == "shared cache":
        return (before - after) * LAUNCH
    if step == "CUDA graph":
        return after * (LAUNCH - KERNEL)
    return (before - after) * KERNEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the exported graphs here, for the next run")
    add_output_options(parser, "waterfall")
    options = parser.parse_args()

    model, weights = build(options.model, "auto", "auto")
    on_gpu = model.device.type == "cuda"
    ids = torch.randint(3, model.config.vocab_size, (1, 24), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    limit = decodeloop.roofline(model, model.device, length=24 + options.new_tokens // 2)
    with exports(options.folder) as folder:
        dynamo = exported(model, folder / "dynamo.onnx", "dynamo")
        with mock.patch("decodeloop.export.write.describe", return_value=None):
            traced = exported(model, folder / "traced.onnx", "fused")
        fused = exported(model, folder / "fused.onnx", "fused")
        steps = [
            ("numpy feeds", dynamo, numpy_feeds(dynamo, model.device)),
            ("IO binding", dynamo, onnx_loop(dynamo, model.device)),
            ("shared cache", traced, onnx_loop(traced, model.device, cuda_graph=False)),
            ("CUDA graph", traced, onnx_loop(traced, model.device)) if on_gpu else None,
            ("fused and merged", fused, onnx_loop(fused, model.device)),
        ]
        steps = [step for step in steps if step is not None]
        counts = {path: len(onnx.load(path, load_external_data=False).graph.node) for _, path, _ in steps}
        expected = model.generate(
            ids, max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        place = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch."), "batch": 1, "context": 24}
        rows = []
        for step, _, run in steps:
            rows += agreement(model, expected, run(ids, options.new_tokens), 24, engine=step, **place)
        timings = decodeloop.prefill_and_decode_all(
            {step: lambda k, run=run: run(ids, k) for step, _, run in steps},
            options.new_tokens,
            repeats=options.repeats,
        )
    before = None
    for step, path, _ in steps:
        timing, operators = timings[step], counts[path]
        at = place | {"engine": step}
        rows += [*timed(timing.prefill.times, timing.decode.times, **at), row("operators", operators, **at)]
        if before:
            gain = predicted(step, before[0], operators, limit)
            rows.append(row("predicted gain", 1e3 * gain, **at))
            rows.append(row("measured gain", 1e3 * (before[1] - timing.decode.median), **at))
        before = operators, timing.decode.median
    rows.append(row(NEXT, 1e3 * limit.seconds, engine=LIMIT, **place))
    print(f"{options.model} ({weights} weights), {model.dtype}, on {model.device}; limit: {limit}")
    print(printed(rows))
    write(options, rows, [f"{options.model} ({weights} weights)"], {"new_tokens": options.new_tokens})


if __name__ == "__main__":
    main()
