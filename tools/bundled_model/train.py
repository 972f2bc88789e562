"""Make the bundled model: corpus, tokenizer, training, evaluation, model card.

    python tools/bundled_model/train.py                  # on a GPU, about ten minutes
    python tools/bundled_model/train.py --smoke          # the same path on a CPU, about a minute, to a scratch folder

The result replaces ``src/decodeloop/bundled`` only when it is complete and was read back. Seeds are fixed; on a GPU the
order of additions is not, so a second run gives a model that is as good rather than bitwise the same.
"""

import argparse
import json
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import tokenizers
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bundled_model is a package, also to a script in it

from bundled_model import corpus
from bundled_model.card import model_card
from bundled_model.evaluation import evaluate, make_tasks, table
from bundled_model.exercises import PAGE_PROMPT
from bundled_model.families import FAMILIES
from bundled_model.model import Shape, load_folder, make_model, save_folder
from bundled_model.tokenizer import train_tokenizer
from bundled_model.training import Plan, train

BUNDLED = Path(__file__).resolve().parents[2] / "src" / "decodeloop" / "bundled"
SMOKE_SHAPE = Shape(vocab_size=1024, hidden_size=64, intermediate_size=128, layers=2, heads=2, positions=2048)
SMOKE_PLAN = Plan(steps=30, minutes=0.5, rows=8, length=256, warmup=5, validate_every=15)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    plan, shape = Plan(), Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, a scratch folder: does the path work?")
    parser.add_argument("--out", type=Path, help="folder to write (default: src/decodeloop/bundled, or a scratch one)")
    parser.add_argument("--stdlib", type=Path, help="standard library's sources (default: this Python's)")
    parser.add_argument("--stdlib-python", default=None, help="version to name in the card when --stdlib is given")
    parser.add_argument("--documents", type=int, default=500_000, help="exercises to write")
    parser.add_argument("--minutes", type=float, default=plan.minutes, help="time for training at most")
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--rows", type=int, default=plan.rows)
    parser.add_argument("--length", type=int, default=plan.length)
    parser.add_argument("--learning-rate", type=float, default=plan.learning_rate)
    parser.add_argument("--stdlib-share", type=float, default=plan.stdlib_share)
    parser.add_argument("--given-weight", type=float, default=plan.given_weight)
    parser.add_argument("--patience", type=int, default=plan.patience)
    parser.add_argument("--validate-every", type=int, default=plan.validate_every)
    parser.add_argument("--warmup", type=int, default=plan.warmup)
    parser.add_argument("--heads", type=int, default=shape.heads)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model for training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.smoke:
        args.device = "cpu"
        args.out = args.out or Path(tempfile.mkdtemp(prefix="bundled-smoke-")) / "bundled"
        if args.out.resolve() == BUNDLED:
            parser.error("a smoke run does not replace the bundled model: give another --out")
    args.out = args.out or BUNDLED
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here; --smoke runs on a CPU")
    return args


def plans(args: argparse.Namespace) -> tuple[Shape, Plan, dict]:
    """Sizes of the model, the training and the corpus and evaluation."""
    if args.smoke:
        sizes = {"documents": 4000, "vocabulary_documents": 4000, "files": 40, "combinations": 6, "wordings": 4}
        return SMOKE_SHAPE, replace(SMOKE_PLAN, seed=args.seed), sizes
    names = set(Plan.__dataclass_fields__) & set(vars(args))
    sizes = {
        "documents": args.documents,
        "vocabulary_documents": 60_000,
        "files": None,
        "combinations": 300,
        "wordings": 100,
    }
    return Shape(heads=args.heads), Plan(**{name: getattr(args, name) for name in names}), sizes


def main() -> None:
    args = parse()
    shape, plan, sizes = plans(args)
    began = time.perf_counter()

    def say(*words) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s]", *words, flush=True)

    library, library_held_out = corpus.stdlib_texts(args.stdlib, sizes["files"])
    say(f"standard library: {len(library)} files, {len(library_held_out)} held out")
    pairs = corpus.exercise_texts("train", sizes["documents"], args.seed)
    held_back = min(4000, sizes["documents"] // 4)
    checks = {
        "combinations": corpus.exercise_texts("validation", held_back, args.seed),
        "wordings": corpus.exercise_texts("validation_wording", held_back, args.seed),
    }
    say(f"exercises: {len(pairs)} distinct of {len(FAMILIES)} families, each proven")
    words = [prompt + completion for prompt, completion in pairs[: sizes["vocabulary_documents"]]]
    tokenizer = train_tokenizer(words + library, shape.vocab_size, shape.positions)
    say(f"tokenizer: {len(tokenizer)} tokens")
    exercises, stdlib = corpus.exercise_stream(tokenizer, pairs), corpus.stdlib_stream(tokenizer, library)
    validation = {name: corpus.exercise_stream(tokenizer, texts) for name, texts in checks.items()}
    validation["stdlib"] = corpus.stdlib_stream(tokenizer, library_held_out)
    say(f"tokens: {len(exercises.tokens):,} of exercises, {len(stdlib.tokens):,} of the standard library")

    torch.manual_seed(args.seed)
    model = make_model(shape, tokenizer)
    outcome = train(model, exercises, stdlib, validation, plan, args.device)
    say(f"trained: {outcome.steps} steps, {outcome.tokens / outcome.seconds:,.0f} tokens/s, by {outcome.stopped_by}")
    if args.device == "cuda":
        say(f"GPU memory at most: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")

    candidate = args.out.parent / f".{args.out.name}-candidate"  # stays if something fails from here on
    save_folder(model.cpu(), tokenizer, {}, candidate)
    weights_bytes = (candidate / "model.safetensors").stat().st_size
    bare_bytes = sum(path.stat().st_size for path in candidate.iterdir())
    shipped, words = load_folder(candidate, device=args.device)  # the rounded weights are judged
    figures, results = evaluate(shipped, words, make_tasks(sizes["combinations"], sizes["wordings"]))
    say("evaluated")
    failures = [result for result in results if not result.right and result.task.kind != "blank names"]
    for result in failures[: 0 if args.smoke else 30]:
        print(f"--- {result.task.kind}: {result.wrong or 'did not stop'}\n{result.task.prompt}{result.completion}")
    print(table(figures))

    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": shape.layers, "hidden": shape.hidden_size, "heads": shape.heads, "positions": shape.positions,
        "vocabulary": shape.vocab_size, "weights_bytes": weights_bytes, "folder_bytes": bare_bytes,
        "command": re.sub(r" --out \S+", "", shlex.join(["python", "tools/bundled_model/train.py", *sys.argv[1:]])),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "a CPU",
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "date": datetime.now(UTC).date().isoformat(),
        "exercises": len(pairs), "exercise_tokens": len(exercises.tokens), "families": len(FAMILIES),
        "templates": sum(len(f.wordings) + len(f.held_out) for f in FAMILIES.values()),
        "stdlib_python": args.stdlib_python or ("version unknown" if args.stdlib else platform.python_version()),
        "stdlib_files": len(library), "stdlib_tokens": len(stdlib.tokens), "stdlib_share": plan.stdlib_share,
        "steps": outcome.steps, "step_tokens": plan.rows * plan.length, "seed": args.seed,
        "seconds": outcome.seconds, "total_seconds": time.perf_counter() - began,
        "tokens_per_second": outcome.tokens / outcome.seconds, "stopped_by": outcome.stopped_by,
        "best_step": outcome.best_step, "losses": outcome.losses, "plan": asdict(plan), "history": outcome.history,
        "evaluation": figures,
    }  # fmt: skip
    for _ in range(3):  # the card tells the folder's size, and is part of it
        files = {"README.md": model_card(record, PAGE_PROMPT), "training.json": json.dumps(record, indent=1) + "\n"}
        record["folder_bytes"] = bare_bytes + sum(len(text.encode()) for text in files.values())
    save_folder(model, tokenizer, files, args.out)
    shutil.rmtree(candidate)
    say(f"wrote {args.out}")


if __name__ == "__main__":
    main()
