"""Measure a bundled model: complete held-out exercises, run what comes out, print how many are right.

    python tools/bundled_model/evaluate.py                       # the bundled model, on a CPU: a minute or two
    python tools/bundled_model/evaluate.py some/folder --json figures.json --failures

What the model writes is executed, in a process of its own with limits on time and memory; that is no sandbox.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bundled_model is a package, also to a script in it

from bundled_model.card import model_card
from bundled_model.evaluation import evaluate, make_tasks, table
from bundled_model.exercises import PAGE_PROMPT
from bundled_model.model import load_folder

BUNDLED = Path(__file__).resolve().parents[2] / "src" / "decodeloop" / "bundled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--combinations", type=int, default=300, help="exercises with a new combination of known parts")
    parser.add_argument(
        "--wordings", type=int, default=100, help="exercises with a wording that is nowhere in the corpus"
    )
    parser.add_argument("--seed", type=int, default=1, help="which exercises are drawn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--failures", action="store_true", help="print every wrong answer")
    parser.add_argument("--write", action="store_true", help="put the figures into the folder's model card")
    args = parser.parse_args()
    model, tokenizer = load_folder(args.folder, getattr(torch, args.dtype), args.device)
    figures, results = evaluate(model, tokenizer, make_tasks(args.combinations, args.wordings, args.seed))
    print(table(figures))
    for kind, value in figures.items():
        if isinstance(value, dict) and value["families with a failure"]:
            print(f"{kind}: wrong in", value["families with a failure"], value.get("wrong with the ending", ""))
    print(f"generated in {figures['seconds_to_generate']} s on {figures['device']}; the pages' prompt becomes\n")
    print(PAGE_PROMPT + figures["page completion"])
    if args.failures:
        for result in results:
            if not result.right:
                print(
                    f"--- {result.task.kind}: {result.wrong or 'did not stop'}\n{result.task.prompt}{result.completion}"
                )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if args.write:
        stored = args.folder / "training.json"
        record = json.loads(stored.read_text(encoding="utf-8")) | {"evaluation": figures}
        stored.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (args.folder / "README.md").write_text(model_card(record, PAGE_PROMPT), encoding="utf-8")


if __name__ == "__main__":
    main()
