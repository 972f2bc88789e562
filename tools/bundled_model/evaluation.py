"""Evaluation: complete held-out exercises greedily, run what comes out, count what is right."""

import random
import time
from collections import Counter
from dataclasses import dataclass

import torch

from .check import verdicts
from .exercises import (
    BLANK_NAMES,
    DOCSTRING_STYLES,
    PAGE_FAMILY,
    PAGE_NAME,
    PAGE_PROMPT,
    Exercise,
    documents,
    write,
)
from .families import AREAS

# What a prompt may end with after its docstring; the pages' prompt is tried with each.
ENDINGS = {
    "nothing": "",
    "newline": "\n",
    "newline, indentation": "\n   ",
    "space": " ",
    "three spaces": "   ",
    "space, newline": " \n",
    "two newlines": "\n\n",
    "half an indentation": "\n ",
}
MAX_NEW_TOKENS = 400


@dataclass(frozen=True)
class Task:
    kind: str  # "combinations", "wordings", "blank names", "endings" or "page"
    family: str
    name: str
    prompt: str
    label: str = ""


@dataclass(frozen=True)
class Result:
    task: Task
    completion: str
    stopped: bool
    wrong: str  # "" where right

    @property
    def right(self) -> bool:
        return self.stopped and not self.wrong


def make_tasks(combinations: int = 300, wordings: int = 100, seed: int = 1) -> list[Task]:
    """The exercises to solve. No two of a kind are the same exercise."""
    tasks, seen = [], set()
    for kind, split, count in (("combinations", "test", combinations), ("wordings", "test_wording", wordings)):
        for document in documents(split, 4 * count + 100, seed):
            e = document.exercise
            if (kind, e.family.key, e.name, e.template, e.params) not in seen and count > 0:
                seen.add((kind, e.family.key, e.name, e.template, e.params))
                tasks.append(Task(kind, e.family.key, e.name, document.prompt))
                count -= 1
    rng = random.Random(f"blank/{seed}")
    for document in list(documents("test_wording", 2 * wordings, seed + 1)):
        e = document.exercise
        if e.family.kind != "class" and sum(task.kind == "blank names" for task in tasks) < wordings:
            blank = Exercise(e.family, rng.choice(BLANK_NAMES[:3]), e.template, e.params)
            if blank.name not in e.params:
                tasks.append(Task("blank names", e.family.key, blank.name, write(blank, rng, DOCSTRING_STYLES).prompt))
    for i, task in enumerate(tasks[: combinations // 3]):
        label, end = list(ENDINGS.items())[i % len(ENDINGS)]
        unit = " " * (len(task.prompt.splitlines()[-1]) - len(task.prompt.splitlines()[-1].lstrip()))
        tasks.append(Task("endings", task.family, task.name, task.prompt + end.replace("\n   ", "\n" + unit), label))
    tasks += [Task("page", PAGE_FAMILY, PAGE_NAME, PAGE_PROMPT + end, label) for label, end in ENDINGS.items()]
    return tasks


@torch.no_grad()
def complete(model, tokenizer, prompts: list[str], batch: int = 64) -> list[tuple[str, bool]]:
    """Greedy completions and whether each ended by itself; prompts of like length go together, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, tuple[str, bool]] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True).to(model.device)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        for i, row in zip(part, tokens[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
            stopped = tokenizer.eos_token_id in row
            found[i] = tokenizer.decode(row[: row.index(tokenizer.eos_token_id)] if stopped else row), stopped
    return [found[i] for i in range(len(prompts))]


def evaluate(model, tokenizer, tasks: list[Task]) -> tuple[dict, list[Result]]:
    """Solve and run all tasks. The figures are plain numbers and strings, fit for JSON."""
    began = time.perf_counter()
    completions = complete(model, tokenizer, [task.prompt for task in tasks])
    seconds = time.perf_counter() - began
    answers = [(t.family, t.prompt + text, t.name) for t, (text, _) in zip(tasks, completions, strict=True)]
    results = [
        Result(task, text, stopped, wrong)
        for task, (text, stopped), wrong in zip(tasks, completions, verdicts(answers), strict=True)
    ]
    figures: dict = {"seconds_to_generate": round(seconds, 1), "device": str(model.device), "dtype": str(model.dtype)}
    for kind in dict.fromkeys(task.kind for task in tasks):
        those = [result for result in results if result.task.kind == kind]
        figures[kind] = {
            "right": sum(result.right for result in those),
            "of": len(those),
            "stopped": sum(result.stopped for result in those),
            "by area": by_area(those),
            "families with a failure": dict(Counter(r.task.family for r in those if not r.right)),
        }
        if kind in ("page", "endings"):
            figures[kind]["wrong with the ending"] = dict(Counter(r.task.label for r in those if not r.right))
    page = [result for result in results if result.task.kind == "page"]
    figures["page completion"] = page[0].completion if page else ""
    return figures, results


def by_area(results: list[Result]) -> dict[str, str]:
    areas = dict.fromkeys(AREAS.values())
    parts = {area: [r.right for r in results if AREAS[r.task.family] == area] for area in areas}
    return {area: f"{sum(right)}/{len(right)}" for area, right in parts.items() if right}


def table(figures: dict) -> str:
    """The figures as lines of text, an area of families per column."""
    areas = list(dict.fromkeys(AREAS.values()))
    kinds = [kind for kind, value in figures.items() if isinstance(value, dict)]
    rows = [["exercises", "right", "stopped", *areas]]
    for kind in kinds:
        value = figures[kind]
        share = f"{value['right']}/{value['of']} ({100 * value['right'] / max(value['of'], 1):.0f} %)"
        rows.append([kind, share, str(value["stopped"]), *(value["by area"].get(area, "") for area in areas)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
