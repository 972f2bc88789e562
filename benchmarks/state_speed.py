"""How near to the limit do steps come that read and write a state? Models that keep one, at their published shapes.

    python benchmarks/state_speed.py                     # on a GPU if there is one
    python benchmarks/state_speed.py --models mamba-130m --new-tokens 32

Random weights. Each loop's tokens are compared with those of ``generate`` before anything is timed. The limit counts
what a step must read: the weights, keys and values of the text so far, and the states, which it also writes.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import pandas
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import decodeloop

ATTENDS = (2, 5, 8, 10, 12, 14)
SHAPES = {
    "lfm2-1.2b": {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 12288,
        "conv_L_cache": 3,
        "layer_types": ["full_attention" if layer in ATTENDS else "conv" for layer in range(16)],
    },
    "mamba-1.4b": {"model_type": "mamba", "vocab_size": 50280, "hidden_size": 2048, "num_hidden_layers": 48},
    "mamba-130m": {"model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24},
}


def build(name: str, device: str, dtype: torch.dtype):
    options = dict(SHAPES[name])
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()


def loops(model, compiled: bool) -> dict:
    decoders = {"generate": functools.partial(decodeloop.generate, model)}
    decoders["TorchDecoder"] = decodeloop.TorchDecoder(model).generate
    if compiled:
        decoders["and compiled"] = decodeloop.TorchDecoder(model, compile=True).generate
    return decoders


def measure(name: str, device: str, dtype: torch.dtype, new_tokens: int, compiled: bool) -> list[dict]:
    model = build(name, device, dtype)
    ids = torch.randint(3, 50000, (1, 24), generator=torch.Generator().manual_seed(0)).to(device)
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
    )
    runs, same = {}, {}
    for loop, generate in loops(model, compiled).items():
        runs[loop] = lambda k, generate=generate: generate(ids, max_new_tokens=k, eos_token_id=None)
        differ = (runs[loop](new_tokens) != expected)[0, 24:].nonzero()
        same[loop] = int(differ[0]) if len(differ) else new_tokens
    timings = decodeloop.prefill_and_decode_all(runs, new_tokens)
    limit = decodeloop.roofline(model, device, length=24 + new_tokens // 2)
    return [
        {
            "model": name,
            "loop": loop,
            "tokens/s": round(timing.tokens_per_second, 1),
            "spread": f"{1 / timing.decode.max:.0f} to {1 / timing.decode.min:.0f}",
            "of the limit (%)": round(100 * limit.share(timing.decode.median), 1),
            "same tokens": same[loop],
            "limit (tokens/s)": round(limit.tokens_per_second),
            "weights (MB)": round(limit.weights / 1e6),
            "cache and states (MB)": round(limit.cache / 1e6, 2),
        }
        for loop, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["lfm2-1.2b", "mamba-1.4b"])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    rows = []
    for name in args.models:
        rows += measure(name, device, dtype, args.new_tokens, compiled=not args.no_compile)
        print(pandas.DataFrame(rows).to_string(index=False), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"facts": decodeloop.provenance(), "rows": rows}, indent=1, default=str))


if __name__ == "__main__":
    main()
