"""How fast is each decode loop on this machine, and how far from its limit? Prints a table, writes JSON.

    python benchmarks/decode_speed.py                                  # the bundled model
    python benchmarks/decode_speed.py --model llama-110m --prompt 24 512 --json speed.json
    python benchmarks/decode_speed.py --model microsoft/phi-1_5 --batch 1 4 16

All loops are opened, shown to write the same tokens, and then timed in turns, so that a slow moment of the machine
hits all of them. README.md beside this file says how to read the table.
"""

from __future__ import annotations

import argparse
import gc
import re
import resource
from pathlib import Path

import pandas
import torch
from loops import LOOPS, Skipped, exports, write_json
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
def parting(model, expected: torch.Tensor, got: torch.Tensor, position: int) -> str:
    """How much the model prefers its own token where a loop's first differs, and whether rounding decides there."""
    if position == expected.shape[1]:
        return ""
    got = got.to(expected.device)
    row = int((expected[:, position] != got[:, position]).nonzero()[0])
    logits = model(expected[row : row + 1, :position]).logits[0, -1].float()
    margin = float(logits[expected[row, position]] - logits[got[row, position]])
    rounding = 32 * torch.finfo(model.dtype).eps * float(logits.abs().max())  # as decodeloop.verify has it
    return f"{margin:.2g}{' (near tie)' if margin <= rounding else ''}"


def compare(model, runs: dict, rows: int, length: int, new: int, repeats: int) -> list[dict]:
    """One row of the table for each loop."""
    generator = torch.Generator().manual_seed(rows * 10000 + length)
    ids = torch.randint(3, model.config.vocab_size, (rows, length), generator=generator).to(model.device)
    expected = runs["generate"](ids, new)
    same, lost, working = {}, {}, {}
    for name, run in runs.items():
        try:
            if name != "generate":
                run(ids, new), run(ids, new)  # buffers, compilation and capture
            got = expected if name == "generate" else run(ids, new)
            same[name] = same_tokens(expected, got, length)
            lost[name] = parting(model, expected, got, length + same[name])
            working[name] = run
        except Exception as error:  # a peer that cannot do this batch must not end the comparison
            print(f"  {name}, {rows} x {length}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
    timings = decodeloop.prefill_and_decode_all(
        {name: lambda k, run=run: run(ids, k) for name, run in working.items()}, new, repeats=repeats
    )
    limit = decodeloop.roofline(model, model.device, length=length + new // 2, batch=rows)
    base = timings["generate"].decode.median
    return [
        {
            "rows": rows,
            "prompt": length,
            "loop": name,
            "first token (ms)": 1e3 * t.prefill.median,
            "next token (ms)": 1e3 * t.decode.median,
            "spread": t.decode.spread,
            "tokens/s": rows / t.decode.median,
            "x generate": base / t.decode.median,
            "of limit": limit.share(t.decode.median),
            "same tokens": f"{same[name]}/{new}",
            "margin": lost[name],
        }
        for name, t in timings.items()
    ]


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
    parser.add_argument("--json", type=Path, help="write the rows here, with where they were measured")
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
    rows, runs = [], {}
    with exports(options.folder) as folder:
        for name in dict.fromkeys(["generate", *options.loops]):
            try:
                runs[name] = LOOPS[name](model, folder)
            except Skipped as reason:
                print(f"  {name}: skipped, {reason}")
            except Exception as error:
                print(f"  {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
        for batch, length in shapes:
            measured = compare(model, runs, batch, length, options.new_tokens, options.repeats)
            print(pandas.DataFrame(measured).round(3).to_string(index=False), flush=True)
            rows += measured
            gc.collect()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            if options.json:  # after each shape: a run that is cut short keeps what it has
                facts = {"model": options.model, "weights": weights, "dtype": str(model.dtype), "limit": str(limit)}
                write_json(options.json, facts | {"peak_memory_gib": peak}, rows)
        runs.clear()
    print(f"peak memory of this process: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
