"""What the fuzz test draws from and judges by: junk, arguments that are mostly right, what an error must be."""

import contextlib
import io
import linecache
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import decodeloop

SOURCE = str(Path(decodeloop.__file__).parent)
DOCUMENTED = (ValueError, FileNotFoundError, MemoryError, RuntimeError, OSError)
PYTHON_SAYS = re.compile(r"missing \d+ required|unexpected keyword argument|multiple values for")

#: Made anew for each case: some are changed by what they are given to.
JUNK: dict[str, Callable[[], Any]] = {
    **{
        repr(value): (lambda value=value: value)
        for value in (None, True, -1, 0, 1, 3, 2**40, 2.5, float("nan"), float("inf"), "", "x", b"x", "3", "\0", "cpu")
    },
    "[]": list,
    "[1, 2]": lambda: [1, 2],
    "['x']": lambda: ["x"],
    "(None,)": lambda: (None,),
    "{}": dict,
    "{'x': 1}": lambda: {"x": 1},
    "object()": object,
    "len": lambda: len,
    "path of nothing": lambda: Path("nowhere") / "x.onnx",
    "directory": lambda: Path("folder"),  # of the folder in which each case runs
    "a file": lambda: Path("file"),
    "np.int64(1)": lambda: np.int64(1),
    "np.float32(0.5)": lambda: np.float32(0.5),
    "np.bool_(True)": lambda: np.bool_(True),
    "np int array": lambda: np.ones((1, 3), np.int64),
    "np float array": lambda: np.ones(2, np.float32),
    "np object array": lambda: np.array([None, "x"], dtype=object),
    "floats [1, 3]": lambda: torch.ones(1, 3),
    "complex [1, 3]": lambda: torch.ones(1, 3, dtype=torch.complex64),
    "bools [1, 3]": lambda: torch.ones(1, 3, dtype=torch.bool),
    "bytes [1, 3]": lambda: torch.ones(1, 3, dtype=torch.uint8),
    "ints [3]": lambda: torch.ones(3, dtype=torch.int64),
    "ints []": lambda: torch.tensor(3),
    "ints [0, 3]": lambda: torch.ones(0, 3, dtype=torch.int64),
    "ints [1, 1]": lambda: torch.ones(1, 1, dtype=torch.int64),
    "ints [1, 2, 3]": lambda: torch.ones(1, 2, 3, dtype=torch.int64),
    "ids of no token": lambda: torch.tensor([[-1, 1000]]),
    "meta [1, 3]": lambda: torch.ones(1, 3, dtype=torch.int64, device="meta"),
    "sparse [1, 3]": lambda: torch.ones(1, 3, dtype=torch.int64).to_sparse(),
    "floats [1, 1, 1, 1]": lambda: torch.ones(1, 1, 1, 1),
    "list of tensors": lambda: [torch.ones(1, 2, 3, 4), torch.ones(2)],
    "list of metas": lambda: [torch.ones(1, 2, 3, 4, device="meta")] * 2,
    "torch.int8": lambda: torch.int8,
    "torch.float16": lambda: torch.float16,
    "device meta": lambda: torch.device("meta"),
    "module": lambda: torch.nn.Linear(2, 2),
    "empty module": torch.nn.Module,
}


@dataclass
class Spec:
    """A public function, and from what its arguments are drawn.

    Attributes
    ----------
    call : callable
        Called by keyword.
    needed, options : dict of str to strategy
        The good values of each argument; those in ``needed`` are almost always given, others half the time.
    check : callable, optional
        ``check(result, arguments)`` asserts what holds where all arguments are good.
    typed : bool
        Whether the docstring names TypeError.
    never : tuple of str
        Junk that is right and takes for ever: so many repeats, say.
    raises : bool
        Whether the function may raise at all.
    """

    call: Callable[..., Any]
    needed: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    check: Callable[[Any, dict[str, Any]], None] | None = None
    typed: bool = False
    never: tuple[str, ...] = ()
    raises: bool = True


def arguments(draw: Callable[[Any], Any], spec: Spec) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments of a case, and which of them are junk: none in a third of the cases, else one or two."""
    names = [*spec.needed, *spec.options]
    chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if draw(st.integers(0, 2)) else []
    given, spoiled = {}, {}
    for name, good in (spec.needed | spec.options).items():
        if name in chosen:
            spoiled[name] = draw(st.sampled_from([key for key in JUNK if key not in spec.never]))
            given[name] = JUNK[spoiled[name]]()
        elif name in spec.needed or draw(st.booleans()):
            given[name] = draw(good)
    match draw(st.integers(0, 49)):
        case 48 if spec.needed:
            name = next(iter(spec.needed))
            spoiled[name] = "left out"
            given.pop(name, None)
        case 49:
            given["nonsense"] = spoiled["nonsense"] = 1
    return given, spoiled


def state() -> dict[str, Any]:
    """What a call must leave as it was."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's threads": torch.get_num_threads(),
        "whether gradients are kept": torch.is_grad_enabled(),
        "the environment": dict(os.environ),
        "the folder": os.getcwd(),
        "the loggers": {
            name: (logger.level, list(logger.handlers))
            for name in (None, "torch", "transformers", "onnxruntime", "onnx_ir", "onnxscript", "decodeloop")
            for logger in [logging.getLogger(name)]
        },
    }


def fault(spec: Spec, given: dict[str, Any], spoiled: dict[str, str]) -> str | None:
    """Call a function, and say what is wrong with what it did; None where it did well."""
    before, printed = state(), io.StringIO()
    found, result, raised = None, None, False
    with contextlib.redirect_stderr(printed):
        try:
            result = spec.call(**given)
        except Exception as error:
            found, raised = (wrong_error(spec, error) if spoiled else f"good arguments: {error!r}"), True
            if not spec.raises and not of_the_call(error):
                found = f"never to raise: {error!r}"
    after = state()
    if not raised and not spoiled and spec.check is not None:
        try:
            spec.check(result, given)
        except AssertionError as error:
            found = f"wrong result: {error}"
    if "Traceback (most recent call last)" in printed.getvalue():
        found = f"printed a traceback: {printed.getvalue()}"
    for name, value in before.items():
        if after[name] != value:
            found = f"changed {name}: {value} to {after[name]}"
    return found


def of_the_call(error: Exception) -> bool:
    """Whether Python raised it, since an argument was left out or is none of the function's."""
    return isinstance(error, TypeError) and PYTHON_SAYS.search(str(error)) is not None


def wrong_error(spec: Spec, error: Exception) -> str | None:
    """What an error lacks to be ours: its class, one short line, and a ``raise`` of the package where it began."""
    message, step = str(error), error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    assert step is not None
    file, line = step.tb_frame.f_code.co_filename, step.tb_lineno
    where = f"{Path(file).name}:{line}"
    if of_the_call(error):
        return None
    if not isinstance(error, (*DOCUMENTED, TypeError) if spec.typed else DOCUMENTED):
        return f"undocumented {type(error).__name__} at {where}: {message[:150]!r}"
    if not file.startswith(SOURCE) or not linecache.getline(file, line).strip().startswith("raise"):
        return f"not our error, {type(error).__name__} at {where}: {message[:150]!r}"
    if not message or "\n" in message or len(message) >= 600:
        return f"not one short line, {len(message)} characters at {where}: {message[:150]!r}"
    return None
