"""How near to the limit do steps come that read and write a state? Models that keep one, at their published shapes.

    python benchmarks/state_speed.py                     # on a GPU if there is one
    python benchmarks/state_speed.py --models mamba-130m --new-tokens 32

Random weights. Each loop's tokens are compared with those of ``generate`` before anything is timed. The limit counts
what a step must read: the weights, keys and values of the text so far, and the states, which it also writes.
"""

from __future__ import annotations

import argparse
import functools

import torch
from as_table import printed
from decode_speed import agreement
from measurements import LIMIT, NEXT, add_output_options, row, timed, write
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
    decoders = {"torch": functools.partial(decodeloop.generate, model)}
    decoders["torch static"] = decodeloop.TorchDecoder(model).generate
    if compiled:
        decoders["torch compiled"] = decodeloop.TorchDecoder(model, compile=True).generate
    return decoders


def measure(name: str, device: str, dtype: torch.dtype, new_tokens: int, compiled: bool) -> list[dict]:
    model = build(name, device, dtype)
    ids = torch.randint(3, 50000, (1, 24), generator=torch.Generator().manual_seed(0)).to(device)
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
    )
    place = {"model": name, "dtype": str(dtype).removeprefix("torch."), "batch": 1, "context": ids.shape[1]}
    runs, rows = {}, []
    for loop, generate in loops(model, compiled).items():
        runs[loop] = lambda k, generate=generate: generate(ids, max_new_tokens=k, eos_token_id=None)
        rows += agreement(model, expected, runs[loop](new_tokens), ids.shape[1], engine=loop, **place)
    timings = decodeloop.prefill_and_decode_all(runs, new_tokens)
    for loop, timing in timings.items():
        rows += timed(timing.prefill.times, timing.decode.times, engine=loop, **place)
    limit = decodeloop.roofline(model, device, length=ids.shape[1] + new_tokens // 2)
    rows.append(row(NEXT, 1e3 * limit.seconds, engine=LIMIT, **place))
    rows.append(row("weights", limit.weights / 1e6, engine=LIMIT, **place))
    return [*rows, row("cache and states", limit.cache / 1e6, engine=LIMIT, **place)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["lfm2-1.2b", "mamba-1.4b"])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--no-compile", action="store_true")
    add_output_options(parser, "state_speed")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    rows = []
    for name in args.models:
        rows += measure(name, device, dtype, args.new_tokens, compiled=not args.no_compile)
        print(printed(rows), flush=True)
        models = [f"{each} (random weights)" for each in args.models]
        write(args, rows, models, {"new_tokens": args.new_tokens})


if __name__ == "__main__":
    main()
