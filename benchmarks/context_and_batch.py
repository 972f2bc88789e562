"""How do the loops fare with many rows, and with long texts? Two curves for each engine, beside the limit.

    python benchmarks/context_and_batch.py                       # llama-3.2-1b's shape on a GPU, llama-110m's on a CPU
    python benchmarks/context_and_batch.py --quick               # fewer and smaller sizes: two minutes on a CPU
    python benchmarks/context_and_batch.py --engines generate "torch compiled" --batches 1 16 --contexts --output b.json

    python benchmarks/context_and_batch.py --engines "torch compiled" --contexts --output b.json --add       # and more

Batches share a short prompt's length, contexts are one row each. Engines run one after the other, each alone in memory,
and one that fails is a row that says why. README.md beside this file says how to read the verdicts.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from as_table import printed
from decode_speed import agreement, build
from loops import LOOPS, Skipped, exports
from measurements import (
    BASE,
    LIMIT,
    NEXT,
    MeasurementError,
    add_output_options,
    failed,
    joined,
    read,
    refuse_other_machines,
    row,
    targets,
    timed,
    write,
)
from verdicts import verdicts

import decodeloop

SHORT = 32  # tokens of the prompt while batches grow
ENGINES = [BASE, "torch static", "torch compiled", "onnx fused", "genai", "genai graph"]


@dataclass(frozen=True)
class Sizes:
    """What is measured: numbers of rows with a short prompt, and prompts of one row; tokens written, and runs."""

    batches: list[int]
    contexts: list[int]
    new_tokens: int = 32
    repeats: int = 5


ON_GPU = Sizes([1, 2, 4, 8, 16, 32, 64], [1024, 2048, 4096, 8192, 16384, 32768])
ON_CPU = Sizes([1, 2, 4, 8, 16, 32, 64], [128, 256, 512, 1024, 1920])
QUICK = Sizes([1, 4], [128, 1024], new_tokens=8, repeats=3)


@dataclass
class Clock:
    """Called after each token: when the first one was there."""

    device: torch.device
    first: float | None = None
    start: float = field(default_factory=time.perf_counter)

    def __call__(self, tokens: object) -> None:
        if self.first is None:
            self.first = self.now()

    def now(self) -> float:
        """Seconds since the start, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.start


def timed_run(run, ids: torch.Tensor, new: int) -> tuple[float, float, torch.Tensor]:
    """Seconds to the first token and for each further one, told apart within one run; and the tokens.

    The difference of a long and a short run would tell little here: reading a long prompt takes longer than writing.
    """
    if ids.device.type == "cuda":
        torch.cuda.synchronize(ids.device)
    clock = Clock(ids.device)
    tokens = run(ids, new, clock)
    total = clock.now()
    if clock.first is None:
        raise RuntimeError("no token was written")
    return clock.first, (total - clock.first) / (new - 1), tokens


def measure(run, ids: torch.Tensor, sizes: Sizes, /, **place) -> tuple[list[dict], torch.Tensor]:
    """The two rows of one engine at one size, and the tokens that it wrote."""
    run(ids, sizes.new_tokens)  # buffers, compilation and capture
    gc.collect()
    gc.disable()  # it rests while the clock runs
    try:
        runs = [timed_run(run, ids, sizes.new_tokens) for _ in range(sizes.repeats)]
    finally:
        gc.enable()
    first, following, tokens = zip(*runs, strict=True)
    return timed(first, following, **place), tokens[-1]


def prompt(model, batch: int, context: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch * 100_000 + context)
    return torch.randint(3, model.config.vocab_size, (batch, context), generator=generator).to(model.device)


def free() -> None:
    """Leave no memory of what was measured last."""
    torch.compiler.reset()  # what was compiled for other sizes counts against a limit, and is not asked for again
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU


def sweep(model, name: str, folder: Path, sizes: Sizes, place: dict, expected: dict) -> list[dict]:
    """All rows of one engine. ``expected`` holds the tokens of ``generate`` by size; it comes first and leaves them."""
    try:
        run = LOOPS[name](model, folder)
    except Exception as error:
        return [failed(str(error) if isinstance(error, Skipped) else error, engine=name, **place)]
    rows: list[dict] = []
    for size in points(sizes):
        here = place | {"engine": name, "batch": size[0], "context": size[1]}
        ids, started = prompt(model, *size), time.perf_counter()
        try:
            found, tokens = measure(run, ids, sizes, **here)
            rows += found
            if name == BASE:
                expected[size] = tokens
            elif size in expected:
                rows += agreement(model, expected[size], tokens, size[1], **here)
        except Exception as error:  # no room, most often: the next size or engine may have it
            rows.append(failed(error, **here))
        free()
        print(f"  {name}, {size[0]} x {size[1]}: {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def points(sizes: Sizes) -> list[tuple[int, int]]:
    """Rows and tokens of the prompt, in the order in which they are measured: buffers grow, and are made once."""
    asked = [*((batch, SHORT) for batch in sizes.batches), *((1, context) for context in sizes.contexts)]
    return list(dict.fromkeys(asked))


def limits(model, sizes: Sizes, place: dict) -> list[dict]:
    """The least time of a step at each size, by the bytes that it must read."""
    rows = []
    for batch, context in points(sizes):
        limit = decodeloop.roofline(model, model.device, length=context + sizes.new_tokens // 2, batch=batch)
        at = {"engine": LIMIT, "batch": batch, "context": context}
        rows.append(row(NEXT, 1e3 * limit.seconds, **place, **at))
    return rows


def earlier(options: argparse.Namespace, settings: dict) -> list[dict]:
    """The rows that this run adds to: those of the same machine, settings and commit that are there already."""
    paths = [path for path in targets(options) if path.exists()] if options.add else []
    if not paths:
        return []
    old, facts = read(paths[0]), decodeloop.provenance()
    refuse_other_machines(old, {"benchmark": options.benchmark, "settings": settings, "provenance": facts})
    if old["provenance"]["commit"] != facts["commit"]:
        raise MeasurementError(f"{paths[0]} is of commit {old['provenance']['commit']}: leave --add out to begin anew.")
    return old["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    shape = "meta-llama/Llama-3.2-1B" if on_gpu else "llama-110m"
    full = ON_GPU if on_gpu else ON_CPU
    parser.add_argument("--model", default=shape, help=f'"bundled", or a known shape with random weights ({shape})')
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=list(LOOPS), metavar="ENGINE")
    parser.add_argument("--batches", nargs="*", type=int, metavar="ROWS", help="numbers of rows, or none")
    parser.add_argument("--contexts", nargs="*", type=int, metavar="TOKENS", help="lengths of the prompt, or none")
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="few and small sizes")
    parser.add_argument("--folder", type=Path, help="keep the exported graphs here, for the next run of this model")
    add_output_options(parser, "context_and_batch")
    parser.add_argument("--add", action="store_true", help="add the rows to those that the file has")
    options = parser.parse_args()

    asked = {name: getattr(options, name) for name in ("batches", "contexts", "new_tokens", "repeats")}
    sizes = Sizes(**vars(QUICK if options.quick else full) | {k: v for k, v in asked.items() if v is not None})
    if sizes.new_tokens < 2 or sizes.repeats < 1 or not points(sizes):
        parser.error("expected --new-tokens of 2 or more, --repeats of 1 or more, and a size to measure.")
    settings = {"new_tokens": sizes.new_tokens}
    try:
        before = earlier(options, settings)
    except MeasurementError as error:
        parser.error(str(error))
    model, weights = build(options.model, "cuda" if on_gpu else "cpu", options.dtype)
    place = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch.")}
    print(f"{options.model} ({weights} weights), {model.dtype}, on {model.device}; {decodeloop.roofline(model)}")
    rows, expected = limits(model, sizes, place), {}
    with exports(options.folder) as folder:
        for name in sorted(dict.fromkeys(options.engines), key=lambda each: each != BASE):  # its tokens are compared
            rows += sweep(model, name, folder, sizes, place, expected)
            free()
            write(options, joined(before, rows), [f"{options.model} ({weights} weights)"], settings)
    print(printed(joined(before, rows)))
    for each in verdicts(joined(before, rows)):
        print(f"{'holds' if each['holds'] else 'does not hold'}: {each['text']}")


if __name__ == "__main__":
    main()
