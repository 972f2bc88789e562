"""Exercises: a family, a name, a wording and parameter names; how they are split and how they are written down.

The split is by hash within a family, so it needs no list and does not move when families are added:

- ``train``: what the corpus holds;
- ``validation`` and ``test``: combinations of (name, wording template, parameter names) that never stand together in
  the corpus, though each part does;
- ``validation_wording`` and ``test_wording``: whole templates that never occur in it;
- ``page``: the combination of the pages' own prompt.
"""

import copy
import functools
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

from .families import FAMILIES
from .family import Family, fill
from .wordings import draw, every_sentence

PAGE_PROMPT = 'def print_prime(n):\n   """\n   Print all primes between 1 and n\n   """'
PAGE_FAMILY, PAGE_NAME, PAGE_PARAMS = "print_primes", "print_prime", ("n",)
PAGE_WORDING = "print all primes between 1 and n"
# Names that say nothing: with them only the wording tells what is asked.
BLANK_NAMES = ("solve", "func", "f", "foo", "my_function", "task", "solution", "helper")
SPLITS = ("train", "validation", "test", "validation_wording", "test_wording", "page")


@dataclass(frozen=True)
class Exercise:
    family: Family
    name: str
    template: str
    params: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """What a model is given (`prompt`, up to the docstring's end) and what it has to write (`completion`)."""

    exercise: Exercise
    prompt: str
    completion: str


@functools.cache
def combinations_of(family: Family) -> dict[tuple, str]:
    """The split of each (name, template, params) of a family: in hash order, some validation, some test, else train."""

    def digest(combination) -> bytes:
        return hashlib.blake2b(repr((family.key, *combination)).encode(), digest_size=8).digest()

    every = sorted(itertools.product(family.names, family.wordings, family.params), key=digest)
    validation, test = max(2, len(every) * 3 // 100), max(4, len(every) * 8 // 100)
    splits = ["validation"] * validation + ["test"] * test
    found = dict(zip(every, splits + ["train"] * (len(every) - len(splits)), strict=True))
    for name, template, params in every:
        of_page = (family.key, name, params) == (PAGE_FAMILY, PAGE_NAME, PAGE_PARAMS)
        if of_page and PAGE_WORDING in every_sentence(fill(template, name, params)):
            found[name, template, params] = "page"
    return found


def split_of(exercise: Exercise) -> str:
    family = exercise.family
    if exercise.template in family.held_out:
        return "validation_wording" if exercise.template == family.held_out[0] else "test_wording"
    if exercise.name in BLANK_NAMES:
        return "train"
    return combinations_of(family)[exercise.name, exercise.template, exercise.params]


def random_exercise(family: Family, split: str, rng: random.Random, blank: float = 0.0) -> Exercise:
    """An exercise of a split. `blank` is the share of functions whose name says nothing."""
    if split == "validation_wording":
        templates = family.held_out[:1]
    elif split == "test_wording":
        templates = family.held_out[1:]
    else:
        templates = family.wordings
    for _ in range(100_000):
        nameless = family.kind != "class" and rng.random() < blank
        name = rng.choice(BLANK_NAMES if nameless else family.names)
        exercise = Exercise(family, name, rng.choice(templates), rng.choice(family.params))
        if name not in exercise.params and split_of(exercise) == split:
            return exercise
    raise LookupError(f"family {family.key!r} has no exercise in split {split!r}: give it more names or wordings")


STYLES = {"block": 36, "line": 27, "args": 9, "example": 8, "comment": 7, "above": 6, "bare": 7}
DOCSTRING_STYLES = {style: STYLES[style] for style in ("block", "line", "args", "example")}


def write(exercise: Exercise, rng: random.Random, styles: dict[str, int] = STYLES) -> Document:
    """Write an exercise down in a random style: indentation, docstring, annotations, spaces at the end."""
    family, name, params = exercise.family, exercise.name, exercise.params
    style = rng.choices(list(styles), list(styles.values()))[0]
    if style == "bare" and name in BLANK_NAMES:
        style = "line"
    unit = " " * rng.choices((4, 3, 2), (55, 22, 23))[0]
    text = sentence(exercise, rng)
    head = annotated(family, name, params) if rng.random() < 0.1 else family.head(name, params)
    quotes = "'''" if rng.random() < 0.04 else '"""'
    if style == "bare":
        prompt = head
    elif style == "comment":
        prompt = f"{head}\n{unit}# {text}"
    elif style == "above":
        prompt = f"# {text}\n{head}"
    elif style == "line":
        prompt = f"{head}\n{unit}{quotes}{text}{quotes}"
    else:
        more = {"block": "", "args": arguments(family, params, rng), "example": example(family, name, rng)}[style]
        opening = f"{quotes}{text}" if more and rng.random() < 0.6 else f"{quotes}\n{text}"
        prompt = f"{head}\n" + indent(f"{opening}\n{more}{quotes}", unit)
    body = family.reference(name, params).replace("    ", unit)
    return Document(exercise, prompt, "\n" + indent(body, unit) + "\n")


def with_other_endings(document: Document, rng: random.Random) -> Document:
    """Sometimes let the prompt end in spaces, an empty line or half an indentation, as people's prompts do."""
    prompt, completion = document.prompt, document.completion
    luck = rng.random()
    if luck < 0.06:
        prompt += rng.choice((" ", " ", "  ", "   ", "    "))
    elif luck < 0.12:
        completion = "\n" + completion
    elif luck < 0.17:
        width = len(completion) - len(completion.lstrip())  # the newline and the indentation
        cut = rng.randrange(2, width) if width > 2 else width
        prompt, completion = prompt + completion[:cut], completion[cut:]
    return Document(document.exercise, prompt, completion)


def sentence(exercise: Exercise, rng: random.Random) -> str:
    text = fill(draw(exercise.template, rng), exercise.name, exercise.params)
    if rng.random() < 0.8:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.5 and not text.endswith("?") else "")


@functools.cache
def types_of(family: Family) -> tuple[list[str], str]:
    """The types of the arguments and of the result, as seen in the cases; "" where they vary."""
    arity = len(family.params[0])
    return (
        [type_name([case[i] for case in family.cases]) for i in range(arity)],
        type_name([outcome(family, case) for case in family.cases]) if family.kind == "return" else "",
    )


def annotated(family: Family, name: str, params: tuple[str, ...]) -> str:
    """``def f(xs: list[int]) -> int:`` with the types seen in the family's cases; plain where they vary."""
    if family.kind not in ("return", "print"):
        return family.head(name, params)
    types, result = types_of(family)
    result = "None" if family.kind == "print" else result
    inside = ", ".join(f"{p}: {t}" if t else p for p, t in zip(params, types, strict=True))
    return f"def {name}({inside}) -> {result}:" if result else f"def {name}({inside}):"


def type_name(values: list) -> str:
    kinds = {type(value) for value in values}
    if len(kinds) != 1:
        return ""
    kind = kinds.pop()
    if kind is list:
        inner = type_name([item for value in values for item in value])
        return f"list[{inner}]" if inner in ("int", "str", "float") else "list"
    return "" if kind is type(None) else kind.__name__


def outcome(family: Family, case: tuple):
    return family.answer(*copy.deepcopy(case))


DESCRIPTIONS = {
    "int": ("an integer", "the number", "an int"),
    "str": ("a string", "the text", "the string"),
    "list": ("a list", "the list", "a list of values"),
    "list[int]": ("a list of integers", "a list of numbers", "the numbers"),
    "list[str]": ("a list of strings", "the strings"),
    "dict": ("a dictionary", "the dictionary"),
    "": ("the value", "a value"),
}


def arguments(family: Family, params: tuple[str, ...], rng: random.Random) -> str:
    """An ``Args:`` section, or ``:param x:`` fields."""
    if not params:
        return ""
    types, _ = types_of(family)
    told = [(p, rng.choice(DESCRIPTIONS.get(t, DESCRIPTIONS[""]))) for p, t in zip(params, types, strict=True)]
    if rng.random() < 0.25:
        return "\n" + "".join(f":param {p}: {about}\n" for p, about in told)
    return "\nArgs:\n" + "".join(f"    {p}: {about}\n" for p, about in told)


def example(family: Family, name: str, rng: random.Random) -> str:
    """A doctest taken from one of the family's cases."""
    if family.kind != "return":
        return ""
    short = [case for case in family.cases if len(repr(case)) < 40]
    if not short:
        return ""
    case = rng.choice(short)
    call = f">>> {name}({', '.join(map(repr, case))})"
    result = outcome(family, case)
    return f"\n{call}\n" + (f"{result!r}\n" if result is not None else "")


def documents(split: str, count: int, seed: int, *, blank: float = 0.0, keys=None) -> Iterator[Document]:
    """`count` documents of a split, families in turn, the same for the same seed."""
    rng = random.Random(f"{split}/{seed}")
    families = [FAMILIES[key] for key in keys or FAMILIES]
    order = []
    for _ in range(count):
        order = order or rng.sample(families, len(families))
        exercise = random_exercise(order.pop(), split, rng, blank)
        if split == "train":
            yield with_other_endings(write(exercise, rng), rng)
        else:
            yield write(exercise, rng, DOCSTRING_STYLES)
