"""Does it export? Every causal language model that transformers knows, tiny and random, exported and decoded.

    python tools/architectures/export_coverage.py                    # what docs/coverage.csv lacks; all: half an hour
    python tools/architectures/export_coverage.py llama gemma3_text  # these, again; tracebacks are printed
    python tools/architectures/export_coverage.py --again            # all of them, from nothing

Each model has a process of its own, with a limit on time and memory. ``transformers``' ``generate`` is the judge.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from tqdm import tqdm

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLUMNS = ["architecture", "class", "exported", "PyTorch", "ONNX Runtime", "logit difference", "seconds", "reason"]
SECONDS, GIBIBYTES = 120, 4
PROMPTS, NEW_TOKENS = (21, 9), 24  # both longer than the window of tiny_models, 8


def measure(model_type: str, class_name: str, verbose: bool = False) -> dict[str, str]:
    """One row of the table: build, decode with transformers, decode with our loop, export, decode with ONNX Runtime."""
    import onnxruntime
    import torch
    from tiny_models import tiny_config, tiny_model

    import decodeloop

    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    row = dict.fromkeys(COLUMNS, "") | {"architecture": model_type, "class": class_name, "exported": "no"}
    started = time.perf_counter()
    stage = "the tiny model cannot be built"
    try:
        model = tiny_model(tiny_config(model_type))
        row["class"] = type(model).__name__
        ids, mask = padded_batch()
        with tempfile.TemporaryDirectory() as folder:
            stage = ""
            decodeloop.export_inputs(model)  # refuses what cannot be exported, in a second
            stage = "transformers' generate fails"
            model, expected = varied(model, ids, mask)
            stage = ""
            report = decodeloop.export_onnx(model, Path(folder) / "model.onnx")
            row["exported"] = "yes"
            stage = "the PyTorch loop fails"
            got = decodeloop.generate(model, ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, eos_token_id=None)
            row["PyTorch"] = "same" if torch.equal(expected, got) else "differ"
            stage = "ONNX Runtime fails"
            session_options = onnxruntime.SessionOptions()
            session_options.intra_op_num_threads, session_options.log_severity_level = 2, 4
            decoder = decodeloop.OnnxDecoder(report.path, device="cpu", session_options=session_options)
            got = decoder.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, eos_token_id=None)
            row["ONNX Runtime"] = "same" if torch.equal(expected, got) else "differ"
            found = decodeloop.verify(model, decoder, ids, attention_mask=mask, max_new_tokens=NEW_TOKENS)
            row["logit difference"] = f"{found.max_logit_diff:.1e}"
            if row["PyTorch"] == "differ":
                row["reason"] = "the PyTorch loop gives other tokens than generate"
            elif row["ONNX Runtime"] == "differ":
                row["reason"] = f"the graph gives other tokens: {found}"
    except Exception as error:
        if verbose:
            traceback.print_exc()
        row["reason"] = f"{stage}: {type(error).__name__}: {one_line(error)}" if stage else one_line(error)
    row["seconds"] = f"{time.perf_counter() - started:.0f}"
    return row


def padded_batch():
    """Two prompts of different lengths, the shorter one padded on the left: ids and mask, ``[2, 21]`` each."""
    import torch

    ids = torch.randint(5, 99, (len(PROMPTS), max(PROMPTS)), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[0] * (max(PROMPTS) - length) + [1] * length for length in PROMPTS])
    return ids.masked_fill(mask == 0, 0), mask


def varied(model, ids, mask):
    """The model with a seed that makes it write many different tokens, and what it writes."""
    from tiny_models import tiny_model

    def tokens(seed):
        candidate = model if seed == 0 else tiny_model(model.config, seed)
        text = candidate.generate(
            ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True, pad_token_id=0
        )
        return len(text[:, ids.shape[1] :].unique()), candidate, text

    best = tokens(0)
    for seed in range(1, 6):
        if best[0] < 8:
            best = max(best, tokens(seed), key=lambda found: found[0])
    return best[1:]


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 240 else text[:240] + " ..."


def passes(row: dict[str, str]) -> bool:
    return row["PyTorch"] == row["ONNX Runtime"] == "same" and not row["reason"]


def work(pipe, *arguments) -> None:
    """In a process of its own: a model that asks for too much memory fails alone."""
    resource.setrlimit(resource.RLIMIT_DATA, (GIBIBYTES << 30,) * 2)
    pipe.send(measure(*arguments))
    pipe.close()


def run(context, *arguments) -> dict[str, str]:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    row = dict.fromkeys(COLUMNS, "") | {"architecture": arguments[0], "class": arguments[1], "exported": "no"}
    try:
        if here.poll(SECONDS):
            return here.recv()
        process.kill()
        return row | {"reason": f"not done in {SECONDS} s", "seconds": str(SECONDS)}
    except EOFError:
        process.join()
        return row | {"reason": f"its process died (exit code {process.exitcode}, {GIBIBYTES} GiB of memory allowed)"}
    finally:
        process.join(5)
        process.kill()
        process.join()


def read(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["architecture"]: row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[str, dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda row: (not passes(row), row["architecture"])))


def summary(rows: dict[str, dict[str, str]]) -> str:
    """The sentence on the page, with what it was measured with."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
    versions += f" and onnxruntime {importlib.metadata.version('onnxruntime')}"
    count = sum(map(passes, rows.values()))
    return f"**{count} of {len(rows)} architectures pass**, with {versions}, on {datetime.date.today()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", help="model types, as in their configurations; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is in the table already, too")
    parser.add_argument("--failed", action="store_true", help="measure again what failed")
    parser.add_argument("--table", type=Path, default=DOCS / "coverage.csv")
    parser.add_argument("--page", type=Path, default=DOCS / "coverage.rst", help="where the count is to be put")
    args = parser.parse_args()

    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    rows = {name: row for name, row in read(args.table).items() if name in known}
    if args.architectures:
        todo = args.architectures
    else:
        todo = [name for name in known if args.again or name not in rows or (args.failed and not passes(rows[name]))]
    if unknown := set(todo) - set(known):
        parser.error(f"transformers has no causal language model of type {', '.join(sorted(unknown))}")

    context = multiprocessing.get_context("forkserver")  # imports once, and no process inherits another's threads
    context.set_forkserver_preload(["decodeloop", "tiny_models", "onnxscript", "torch.onnx._internal.exporter._core"])
    sys.path.insert(0, str(Path(__file__).parent))
    bar = tqdm(todo, disable=not sys.stderr.isatty())
    for name in bar:
        bar.set_description(name)
        class_name = known[name] if isinstance(known[name], str) else known[name][0]
        row = rows[name] = run(context, name, class_name, bool(args.architectures))
        write(args.table, rows)
        if args.architectures or bar.disable:
            print(*(row[column] for column in COLUMNS), sep="\t", flush=True)
    if args.page.exists():
        text = args.page.read_text(encoding="utf-8")
        args.page.write_text(re.sub(r"^\*\*\d+ of .*$", summary(rows), text, flags=re.MULTILINE), encoding="utf-8")
    print(summary(rows))


if __name__ == "__main__":
    main()
