"""Does it export? Every causal language model that transformers knows, tiny and random, exported and decoded.

    python tools/architectures/export_coverage.py                    # what docs/coverage.csv lacks; all take 40 minutes
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from tqdm import tqdm

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLUMNS = ["result", "architecture", "class", "PyTorch", "dynamo", "fused", "int4", "logit difference", "seconds"]
COLUMNS += ["reason"]
COUNTED = [("fused", "fused"), ("fused", "traced"), ("int4", "quantized"), ("int4", "in part")]
SECONDS, GIBIBYTES = 240, 4
PROMPTS, NEW_TOKENS = (21, 9), 24  # both longer than the window of tiny_models, 8


def measure(model_type: str, class_name: str, verbose: bool = False) -> dict[str, str]:
    """One row of the table: build, decode with transformers and with our loop, export twice, quantize."""
    import torch

    import decodeloop

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row = empty_row(model_type, class_name)
    started, reasons = time.perf_counter(), []

    def attempt(column: str, action, stage: str = "") -> object:
        """Run a stage: what it returns, or None and the column says "refused", with the reason kept."""
        try:
            return action()
        except Exception as error:
            if verbose:
                traceback.print_exc()
            row[column] = "refused"
            reasons.append(f"{stage or column}: {one_line(error)}")
            return None

    model = attempt("PyTorch", lambda: built(model_type, class_name), "the tiny model cannot be built")
    if model is not None:
        row["class"] = type(model).__name__
        ids, mask = padded_batch()
        options = {"attention_mask": mask, "max_new_tokens": NEW_TOKENS, "eos_token_id": None}
        found = attempt("PyTorch", lambda: varied(model, ids, mask), "transformers' generate fails")
        model, expected = found or (model, None)
        if expected is not None:
            got = attempt("PyTorch", lambda: decodeloop.generate(model, ids, **options))
            row["PyTorch"] = row["PyTorch"] if got is None else same(expected, got)
        with tempfile.TemporaryDirectory() as folder:
            graphs = {}
            for exporter in ("dynamo", "fused"):
                path = Path(folder) / f"{exporter}.onnx"
                report = attempt(exporter, lambda e=exporter, p=path: decodeloop.export_onnx(model, p, exporter=e))
                if report is None:
                    continue
                decoder = decodeloop.OnnxDecoder(report.path, device="cpu", spinning=False)
                got = attempt(exporter, lambda d=decoder: d.generate(ids, **options))
                if got is None or (expected is not None and not torch.equal(expected, got)):
                    row[exporter] = "differs"
                    continue
                row[exporter] = "same" if exporter == "dynamo" else report.graph
                graphs[exporter] = report.path
                if exporter == "dynamo":
                    found = decodeloop.verify(model, decoder, ids, attention_mask=mask, max_new_tokens=NEW_TOKENS)
                    row["logit difference"] = f"{found.max_logit_diff:.1e}"
            if graphs:
                source = graphs.get("fused") or graphs["dynamo"]
                row["int4"] = attempt("int4", lambda: quantized(source, ids, options)) or "refused"
    row["reason"] = "; ".join(reasons)
    row["result"] = "pass" if row["PyTorch"] == row["dynamo"] == "same" else "fail"
    row["seconds"] = f"{time.perf_counter() - started:.0f}"
    return row


def built(model_type: str, class_name: str) -> PreTrainedModel:
    """A tiny model, with heads of 64 as real ones have where a fused graph is known: it rotates multiples of 16."""
    from tiny_models import tiny_config, tiny_model

    from decodeloop.export.fused.families import FAMILIES

    config = tiny_config(model_type)
    if class_name in FAMILIES:
        given = config.to_dict()  # what is set; a property would be worked out
        heads = {"head_dim": 64} if given.get("head_dim") and not given.get("per_layer_config") else {}
        config = tiny_config(model_type, hidden_size=64 * config.num_attention_heads, **heads)
    return tiny_model(config)


def empty_row(model_type: str, class_name: str) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {"result": "fail", "architecture": model_type, "class": class_name}


def same(expected, got) -> str:
    import torch

    return "same" if torch.equal(expected, got) else "differs"


def quantized(source: Path, ids, options: dict) -> str:
    """Weights of 4 bits, run: whether every matrix product was quantized."""
    import onnx_ir

    import decodeloop

    target = decodeloop.quantize_onnx(source, source.with_name("int4.onnx"), bits=4, block_size=16)
    decodeloop.OnnxDecoder(target, device="cpu", spinning=False).generate(ids, **options)
    values = onnx_ir.load(target).graph.initializers
    products = {"MatMul", "FusedMatMul", "Gemm", "Einsum", "Conv"}
    part = [name for name in target.left if any(node.op_type in products for node, _ in values[name].uses())]
    return "in part" if part else "quantized"


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
    return row["result"] == "pass"


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
    row = empty_row(*arguments[:2])
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
    import onnxruntime

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
    versions += f" and onnxruntime {onnxruntime.__version__}"
    count = sum(map(passes, rows.values()))
    how = [sum(row[column] == value for row in rows.values()) for column, value in COUNTED]
    return (
        f"**{count} of {len(rows)} architectures pass**; {how[0]} have a fused graph and {how[1]} a traced one with "
        f"the attention operator; {how[2]} are quantized to 4 bits whole, {how[3]} in part. Measured with {versions}, "
        f"on {datetime.date.today()}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", help="model types, as in their configurations; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is in the table already, too")
    parser.add_argument("--failed", action="store_true", help="measure again what failed")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time; each takes a core and up to 4 GiB")
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
    sources = {name: known[name] if isinstance(known[name], str) else known[name][0] for name in todo}
    with ThreadPoolExecutor(args.jobs) as pool:
        verbose = bool(args.architectures)
        started = [pool.submit(run, context, name, class_name, verbose) for name, class_name in sources.items()]
        for future in tqdm(as_completed(started), total=len(todo), disable=not sys.stderr.isatty()):
            row = future.result()
            rows[row["architecture"]] = row
            write(args.table, rows)
            if verbose or not sys.stderr.isatty():
                print(*(row[column] for column in COLUMNS), sep="\t", flush=True)
    if args.page.exists():
        text = args.page.read_text(encoding="utf-8")
        args.page.write_text(re.sub(r"^\*\*\d+ of .*$", summary(rows), text, flags=re.MULTILINE), encoding="utf-8")
    print(summary(rows))


if __name__ == "__main__":
    main()
