"""The corpus: exercises, each proven right by running it, and CPython's standard library, as token tensors."""

import ast
import functools
import hashlib
import multiprocessing
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from .check import verdict
from .exercises import Document, documents

SKIPPED = {
    "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings", "pydoc_data", "turtledemo",
    "ensurepip", "__pycache__", "lib-dynload", "idle_test",
}  # fmt: skip
LARGEST_FILE = 300_000  # bytes: above lie tables rather than programs
CHUNK = 5000  # documents made by one task
BLANK_SHARE = 0.08  # of the corpus's functions have a name that says nothing
PROVEN: set[str] = set()  # code that this process has run and found right


@dataclass
class Stream:
    """Documents one after the other. A training row may begin at any of `starts`, and always at one of them."""

    tokens: torch.Tensor  # [total] int32
    graded: torch.Tensor  # [total] bool: what a model has to write, not what it is given
    starts: torch.Tensor  # [rows] int64

    def to(self, device: str) -> "Stream":
        return Stream(self.tokens.to(device), self.graded.to(device), self.starts.to(device))


def prove(document: Document) -> None:
    """Run the document's code against its family's cases, unless equal code was proven before."""
    source = document.prompt + document.completion
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    key = f"{document.exercise.family.key} {ast.dump(tree)}"
    if key not in PROVEN:
        wrong = verdict(document.exercise.family, source, document.exercise.name)
        if wrong:
            raise ValueError(f"an exercise of family {document.exercise.family.key!r} is wrong: {wrong}\n{source}")
        PROVEN.add(key)


def make_chunk(task: tuple[str, int, str]) -> list[tuple[str, str]]:
    split, count, seed = task
    pairs = []
    for document in documents(split, count, seed, blank=BLANK_SHARE if split == "train" else 0.0):
        prove(document)
        pairs.append((document.prompt, document.completion))
    return pairs


def exercise_texts(split: str, count: int, seed: int) -> list[tuple[str, str]]:
    """`count` exercises of a split as (prompt, completion), without the repetitions among them, each proven."""
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    tasks = [(split, size, f"{seed}/{i}") for i, size in enumerate(sizes)]
    if len(tasks) == 1:
        chunks = map(make_chunk, tasks)
    else:
        with multiprocessing.get_context("fork").Pool() as pool:
            chunks = pool.map(make_chunk, tasks, chunksize=1)
    return list(dict.fromkeys(pair for chunk in chunks for pair in chunk))


def stdlib_texts(folder: Path | None = None, files: int | None = None) -> tuple[list[str], list[str]]:
    """The standard library's sources, split by file into those to train on and those (1 in 20) to validate with."""
    folder = Path(folder or sysconfig.get_paths()["stdlib"])
    train, validation = [], []
    for path in sorted(folder.rglob("*.py"))[:: 1 if files is None else 7]:
        parts = path.relative_to(folder).parts
        if SKIPPED & set(parts) or parts[-1].startswith("_sysconfigdata") or path.stat().st_size > LARGEST_FILE:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").strip("\n") + "\n"
        if len(text) > 200:
            digest = hashlib.blake2b("/".join(parts).encode(), digest_size=4).digest()
            (validation if digest[0] % 20 == 0 else train).append(text)
        if files is not None and len(train) >= files:
            break
    if len(train) < 10:
        raise FileNotFoundError(
            f"{folder} holds {len(train)} usable Python files: the standard library's sources are not installed there; "
            "give a folder that has them (Lib/ of a CPython source tree) with --stdlib"
        )
    return train, validation or train[-1:]


def exercise_stream(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> Stream:
    """Prompt and completion are tokenised apart, as they are when a model completes the prompt."""
    encode = functools.partial(encode_all, tokenizer)
    prompts, completions = encode([p for p, _ in pairs]), encode([c for _, c in pairs])
    tokens, graded, starts = [], [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        starts.append(len(tokens))
        tokens += prompt + completion + [tokenizer.eos_token_id]
        graded += [False] * len(prompt) + [True] * (len(completion) + 1)
    return Stream(torch.tensor(tokens, dtype=torch.int32), torch.tensor(graded), torch.tensor(starts))


def stdlib_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Stream:
    """Whole files. A row may begin wherever a line that is not indented does."""
    newline = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("\n")[0])
    tokens: list[int] = []
    for file in encode_all(tokenizer, texts):
        tokens += [*file, tokenizer.eos_token_id]
    flat = torch.tensor(tokens, dtype=torch.int32)
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    opens_line = torch.tensor([token[0] not in "ĠĉĊč#)" for token in vocabulary])
    starts = 1 + torch.nonzero((flat[:-1] == newline) & opens_line[flat[1:].long()]).flatten()
    return Stream(flat, torch.ones(len(flat), dtype=torch.bool), torch.cat([torch.zeros(1, dtype=torch.int64), starts]))


def encode_all(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[list[int]]:
    backend = tokenizer.backend_tokenizer
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
