"""The model that ships: small enough, loads without a network, answers and stops."""

from pathlib import Path

import pytest
from bundled_model.evaluation import ENDINGS, complete, evaluate, make_tasks
from bundled_model.exercises import PAGE_PROMPT
from bundled_model.model import LARGEST_FOLDER, load_folder

BUNDLED = Path(__file__).parents[2] / "src" / "decodeloop" / "bundled"


@pytest.fixture(scope="module")
def bundled():
    return load_folder(BUNDLED)


def test_it_is_small_and_complete():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= LARGEST_FOLDER
    needed = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert needed <= {path.name for path in BUNDLED.iterdir()}


def test_it_prints_the_primes_and_stops(bundled):
    model, tokenizer = bundled
    ((text, stopped),) = complete(model, tokenizer, [PAGE_PROMPT])
    assert stopped
    printed = []
    namespace = {"print": lambda *values: printed.extend(values)}
    exec(PAGE_PROMPT + text, namespace)
    namespace["print_prime"](30)
    assert printed == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]


def test_it_answers_however_a_prompt_ends(bundled):
    tasks = [task for task in make_tasks() if task.kind == "page" and task.label != "half an indentation"]
    figures, results = evaluate(*bundled, tasks)
    assert figures["page"]["right"] == len(ENDINGS) - 1, [r.wrong for r in results if not r.right]


def test_it_solves_what_it_has_not_seen(bundled):
    """A sample; `tools/bundled_model/evaluate.py` measures all of it."""
    tasks = [task for task in make_tasks(60, 20) if task.kind in ("combinations", "wordings")]
    figures, _ = evaluate(*bundled, tasks)
    assert figures["combinations"]["right"] >= 0.9 * 60
    assert figures["wordings"]["right"] >= 0.6 * 20
