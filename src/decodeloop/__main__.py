"""The command line: ``python -m decodeloop export NAME FOLDER``, then ``python -m decodeloop chat FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from decodeloop.conversation import Conversation
from decodeloop.decoding.sampling import Sampler
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.folder import open_folder, save_folder
from decodeloop.models.load import load
from decodeloop.progress import working

EXPORT = """Export a model into a new folder that holds all that is needed to run it: the graph and its weights, the
tokenizer with its chat template, the generation settings. The graph is run beside the model before the folder gets its
name; a run that fails or is stopped leaves nothing."""
CHAT = """Talk to a model in a folder that `export` made: a line is a turn, Ctrl-C ends an answer, Ctrl-D the
conversation. The cache is kept between turns, so that each one reads what is new alone. A model without a chat template
continues what is written."""
#: The template of such a model: the turns below each other.
LINES = "{% for turn in messages %}{{ turn['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did what was asked, 2 after an error, which is one line on stderr."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            options.run(options)
        except KeyboardInterrupt:
            return 130
        except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
            print(f"decodeloop: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
            return 2
    return 0


def export(options: argparse.Namespace) -> None:
    """``export``: load, export and check, quantize, write the folder."""
    with working(f"load {options.name}", announced=True):
        loaded = load(options.name, device=options.device, dtype=options.dtype)
    if loaded.note:
        print(f"  {loaded.note}", file=sys.stderr)
    what = f"export ({options.exporter}){f', quantize to {options.bits} bits' if options.bits else ''} and check"
    with working(what, announced=True):
        report = save_folder(loaded, options.folder, exporter=options.exporter, bits=options.bits)
    proof = f"{'before rounding, ' if options.bits else ''}{report.checked}"
    print(f"{options.folder}: {report.bytes / 1e6:.1f} MB, a {report.graph} graph; {proof}")


def chat(options: argparse.Namespace) -> None:
    """``chat``: a conversation with the model in a folder."""
    with working(f"open {options.folder}", announced=True):
        decoder, tokenizer = open_folder(options.folder, device=options.device)
    if not tokenizer.chat_template:
        print("  It has no chat template: it continues what you write.", file=sys.stderr)
        tokenizer.chat_template = tokenizer.decode(tokenizer("")["input_ids"]) + LINES  # what it puts before a text
    if options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {options.max_new_tokens}: expected 1 or more.")
    conversation = Conversation(
        decoder,
        tokenizer,
        system=options.system,
        max_new_tokens=options.max_new_tokens,
        when_full="forget",
        sampler=_sampler(decoder, options.temperature, options.seed),
    )
    with decoder:
        for line in _lines():
            began, before = time.perf_counter(), conversation.forgotten
            with contextlib.suppress(KeyboardInterrupt):  # ends the answer
                for piece in conversation.reply(line):
                    print(piece, end="", flush=True)
            print(flush=True)
            if conversation.forgotten > before:
                limit = conversation.max_positions
                print(f"  The oldest turns are forgotten: the model has {limit} positions.", file=sys.stderr)
            if options.stats:
                seconds = time.perf_counter() - began
                print(
                    f"  read {conversation.prefilled} tokens, wrote {conversation.written} in {seconds:.1f} s",
                    file=sys.stderr,
                )


def _sampler(decoder: OnnxDecoder, temperature: float | None, seed: int | None) -> Sampler | None:
    """How tokens are drawn, as the folder's generation settings say it but for what was asked for; None is greedy."""
    said = decoder.generation_config
    own = {name: getattr(said, name, None) for name in ("temperature", "top_k", "top_p", "min_p")}
    settings = {name: value for name, value in own.items() if value is not None}
    if temperature is not None:
        settings["temperature"] = temperature
    elif not getattr(said, "do_sample", False):
        return None
    return Sampler(seed=seed, **settings) if settings.get("temperature") != 0 else None


def _lines() -> Iterator[str]:
    """What is typed, or comes from a pipe, line by line; empty ones are left out."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line:
            return
        if line.strip():
            yield line.strip("\r\n")


def _warn(message: Warning | str, *where: Any, **how: Any) -> None:
    print(f"\n  {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m decodeloop", description="A model to ONNX, and a chat with it.")
    commands = parser.add_subparsers(title="commands", required=True)
    device: dict[str, Any] = {
        "default": "auto",
        "help": '"cpu", "cuda", or "auto" (default): CUDA where there is a GPU',
    }

    command = commands.add_parser(
        "export", help="make a folder with a graph, its tokenizer and settings", description=EXPORT
    )
    command.add_argument("name", help="a directory, a .gguf file, a hub id, or bundled")
    command.add_argument("folder", help="the folder to make")
    command.add_argument(
        "--exporter",
        choices=("fused", "dynamo"),
        default="fused",
        help="fused (default): the faster one, for onnxruntime; dynamo: for any ONNX runtime",
    )
    command.add_argument("--bits", type=int, choices=(8, 4), help="quantize the weights (default: leave them)")
    command.add_argument("--device", **device)
    command.add_argument(
        "--dtype",
        default="auto",
        help='such as float16; "auto" (default) is float32 on a CPU, the model\'s own on a GPU',
    )
    command.set_defaults(run=export)

    command = commands.add_parser("chat", help="talk to the model in such a folder", description=CHAT)
    command.add_argument("folder", help="what export made")
    command.add_argument("--system", help="what the model is told first")
    command.add_argument("--max-new-tokens", type=int, default=512, help="of an answer (default: 512)")
    command.add_argument(
        "--temperature",
        type=float,
        help="0 takes the most probable token; above it, tokens are drawn (default: as the folder's settings say)",
    )
    command.add_argument("--seed", type=int, help="the same one draws the same tokens")
    command.add_argument("--stats", action="store_true", help="say after each answer what was read and written")
    command.add_argument("--device", **device)
    command.set_defaults(run=chat)
    return parser


if __name__ == "__main__":
    sys.exit(main())
