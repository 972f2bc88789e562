"""How fast is each decode loop on this machine, and how far from its limit? Prints a table, writes JSON.

    python benchmarks/decode_speed.py                                  # the bundled model
    python benchmarks/decode_speed.py --model llama-110m --prompt 24 512 --output speed.json
    python benchmarks/decode_speed.py --model microsoft/phi-1_5 --batch 1 4 16

All loops are opened, shown to write the same tokens, and then timed in turns, so that a slow moment of the machine
hits all of them. README.md beside this file says how to read the table.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import re
import resource
from pathlib import Path

import torch
from as_table import printed
from loops import LOOPS, Skipped, exports
from measurements import BASE, LIMIT, NEXT, add_output_options, failed, row, timed, write
from transformers import AutoModelForCausalLM, LlamaConfig

import decodeloop

#: The shape of llama2.c's stories110M: small enough for two cores, large enough that memory decides.
LLAMA_110M = LlamaConfig(
    vocab_size=32000,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)


def build(name: str, device: torch.device | str, dtype: str):
    """The model and whether its weights are trained."""
    if name == "llama-110m":
        torch.manual_seed(0)
        dtype_ = (torch.float16 if torch.device(device).type == "cuda" else torch.float32) if dtype == "auto" else dtype
        model = AutoModelForCausalLM.from_config(LLAMA_110M, dtype=dtype_, trust_remote_code=False)
        return model.to(device).eval(), "random"
    loaded = decodeloop.load(name, device=device, dtype=dtype, random_weights=name != "bundled")
    return loaded.model, loaded.weights


def same_tokens(expected: torch.Tensor, got: torch.Tensor, length: int) -> int:
    """How many new tokens agree before the first one of any row that does not."""
    same = (expected[:, length:] == got[:, length:].to(expected.device)).all(0)
    return int(same.int().cumprod(0).sum())


@torch.no_grad()
def parting(model, expected: torch.Tensor, got: torch.Tensor, position: int) -> tuple[float, bool] | None:
    """How much the model prefers its own token where a loop's first differs, and whether rounding decides there."""
    if position == expected.shape[1]:
        return None
    got = got.to(expected.device)
    text = int((expected[:, position] != got[:, position]).nonzero()[0])
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits = model(expected[text : text + 1, :position], use_cache=False, **keep).logits[0, -1].float()
    margin = float(logits[expected[text, position]] - logits[got[text, position]])
    rounding = 32 * torch.finfo(model.dtype).eps * float(logits.abs().max())  # as decodeloop.verify has it
    return margin, margin <= rounding


def agreement(model, expected: torch.Tensor, got: torch.Tensor, length: int, /, **place) -> list[dict]:
    """The rows that say how many new tokens are those of ``generate``, and by how much the first other one differs."""
    same = same_tokens(expected, got, length)
    rows = [row("same tokens", same, **place)]
    if lost := parting(model, expected, got, length + same):
        margin, near = lost
        rows.append(row("margin", margin, note="near tie" if near else None, **place))
    return rows


def compare(model, runs: dict, new: int, repeats: int, /, **place) -> list[dict]:
    """The rows of each loop, at one batch and one length of the prompt."""
    batch, length = place["batch"], place["context"]
    generator = torch.Generator().manual_seed(batch * 10000 + length)
    ids = torch.randint(3, model.config.vocab_size, (batch, length), generator=generator).to(model.device)
    expected = runs[BASE](ids, new)
    rows, working = [], {}
    for name, run in runs.items():
        try:
            if name != BASE:
                run(ids, new), run(ids, new)  # buffers, compilation and capture
                rows += agreement(model, expected, run(ids, new), length, engine=name, **place)
            working[name] = run
        except Exception as error:  # a peer that cannot do this batch must not end the comparison
            rows.append(failed(error, engine=name, **place))
    timings = decodeloop.prefill_and_decode_all(
        {name: lambda k, run=run: run(ids, k) for name, run in working.items()}, new, repeats=repeats
    )
    for name, t in timings.items():
        rows += timed(t.prefill.times, t.decode.times, engine=name, **place)
    limit = decodeloop.roofline(model, model.device, length=length + new // 2, batch=batch)
    return [*rows, row(NEXT, 1e3 * limit.seconds, engine=LIMIT, **place)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help='"bundled", "llama-110m", or a published shape (random)')
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--loops", nargs="+", default=list(LOOPS), choices=list(LOOPS), metavar="LOOP")
    parser.add_argument("--prompt", nargs="+", type=int, default=[24], help="lengths of the prompts, in tokens")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="numbers of rows")
    parser.add_argument("--shapes", nargs="+", metavar="ROWSxPROMPT", help="some pairs only, such as 1x24 16x24 1x512")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the exported graphs here, for the next run of this model")
    add_output_options(parser, "decode_speed")
    options = parser.parse_args()

    shapes = [(batch, length) for batch in options.batch for length in options.prompt]
    if options.shapes:
        wrong = [text for text in options.shapes if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text)]
        if wrong:
            parser.error(f"--shapes {wrong[0]}: expected rows x tokens of the prompt, such as 16x24.")
        shapes = [tuple(map(int, text.split("x"))) for text in options.shapes]
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    model, weights = build(options.model, "cpu" if device == "auto" else device, options.dtype)
    count = sum(p.numel() for p in model.parameters())
    limit = decodeloop.roofline(model, model.device)
    print(f"{options.model}: {count / 1e6:.0f} M weights ({weights}), {model.dtype}, on {model.device}\n{limit}")
    place = {"model": options.model, "dtype": str(model.dtype).removeprefix("torch.")}
    models, settings = [f"{options.model} ({weights} weights)"], {"new_tokens": options.new_tokens}
    rows, runs = [], {}
    with exports(options.folder) as folder:
        for name in dict.fromkeys([BASE, *options.loops]):
            try:
                runs[name] = LOOPS[name](model, folder)
            except Exception as error:
                rows.append(failed(str(error) if isinstance(error, Skipped) else error, engine=name, **place))
        for batch, length in shapes:
            sized = place | {"batch": batch, "context": length}
            rows += compare(model, runs, options.new_tokens, options.repeats, **sized)
            print(printed(rows), flush=True)
            write(options, rows, models, settings)  # after each size: a run that is cut short keeps what it has
            gc.collect()
        runs.clear()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
