"""A family: one small task, and everything that can be said about it."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True, eq=False)
class Family:
    """One task, the names and wordings it goes by, its reference body and how an answer is judged.

    kind:     "return" (a function's value is judged), "print" (what it prints), "yield" (a generator's items)
              or "class" (the values of expressions).
    names:    names of the function or class; no name belongs to two families.
    params:   alternatives for the parameter list, each a tuple of names.
    wordings: docstring templates that the corpus uses; see `wordings.py` for their syntax.
    held_out: templates that it never uses: the first is for validation, the others for evaluation.
    body:     the reference, indented by four spaces a level; ``$1``, ``$2`` are the parameters, ``$f`` is the name.
    cases:    argument tuples, or for a class ``(statements, expression, expected value)``.
    answer:   what a right function returns, yields or prints (as a list of tokens) for a case's arguments.
    """

    key: str
    kind: str
    names: tuple[str, ...]
    params: tuple[tuple[str, ...], ...]
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]
    body: str
    cases: tuple
    answer: Callable | None = None

    def head(self, name: str, params: tuple[str, ...]) -> str:
        return f"class {name}:" if self.kind == "class" else f"def {name}({', '.join(params)}):"

    def reference(self, name: str, params: tuple[str, ...]) -> str:
        """The reference body for this name and these parameters, at four spaces a level."""
        return fill(self.body, name, params)


def fill(text: str, name: str, params: tuple[str, ...]) -> str:
    """Put the function's name for ``$f`` and its parameters for ``$1``, ``$2``, ..."""
    return re.sub(r"\$(f|\d)", lambda m: name if m[1] == "f" else params[int(m[1]) - 1], text)


def function(key, *, names, params, wordings, held_out, body, cases, answer, kind="return") -> Family:
    """A family of functions. `names` is split on spaces, `params` on ``|`` and commas, wordings on lines."""
    alternatives = tuple(tuple(p.strip() for p in choice.split(",") if p.strip()) for choice in params.split("|"))
    family = Family(
        key, kind, tuple(names.split()), alternatives, lines(wordings), lines(held_out), dedent(body).strip("\n"),
        tuple(cases), answer,
    )  # fmt: skip
    for choice in alternatives:
        clash = set(choice) & assigned_names(family, choice)
        assert not clash, f"{key}: parameter {clash} is also a local variable of the body"
        assert len(set(choice)) == len(choice), f"{key}: a parameter is named twice in {choice}"
    return family


def klass(key, *, names, wordings, held_out, body, cases) -> Family:
    """A family of classes; each case is ``(statements, expression, expected)`` with the class as ``C``."""
    return Family(
        key, "class", tuple(names.split()), ((),), lines(wordings), lines(held_out), dedent(body).strip("\n"),
        tuple(cases),
    )  # fmt: skip


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


def assigned_names(family: Family, params: tuple[str, ...]) -> set[str]:
    """Local variables that the reference binds, other than by assigning to a parameter on purpose (``$1 = ...``)."""
    stand_ins = tuple(f"PARAM{i}" for i in range(len(params)))
    body = family.reference("NAME", stand_ins).replace("\n", "\n    ")
    tree = ast.parse(f"{family.head('NAME', stand_ins)}\n    {body}\n")
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
