"""The text around a recorded page's code: it may change without another run, since only the code made the outputs."""

import itertools
import re
from pathlib import Path

#: What Sphinx-Gallery writes before each block but the first.
BEGINS = re.compile(r"^\.\. GENERATED FROM PYTHON SOURCE LINES \d+-\d+\n", flags=re.MULTILINE)


def with_prose_of(script: Path, recorded: Path) -> str | None:
    """The recorded rst beside the script ``recorded``, with the text of ``script``; None if their code differs."""
    rst = recorded.with_suffix(".rst").read_text(encoding="utf-8")
    if script.read_bytes() == recorded.read_bytes():
        return rst
    from sphinx.errors import ExtensionError  # not needed where nothing has changed
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    try:
        (_, new), (_, old) = (split_code_and_text_blocks(path) for path in (script, recorded))
    except ExtensionError:  # it does not begin with text
        return None
    if len(new) != len(old) or not all(map(same, new, old)):
        return None
    starts = [0, *(found.start() for found in BEGINS.finditer(rst)), len(rst)]
    parts = [rst[start:end] for start, end in itertools.pairwise(starts)]
    if len(parts) != len(old) or any(b.type == "text" and b.content not in p for b, p in zip(old, parts, strict=True)):
        return None
    return "".join(map(renewed, parts, old, new))


def same(new, old) -> bool:
    """Whether a block is of the same kind, and the same code."""
    return new.type == old.type and (new.type == "text" or new.content.strip("\n") == old.content.strip("\n"))


def renewed(part: str, old, new) -> str:
    """A block's rst with its new text, at its new place in the script."""
    last = new.lineno + new.content.count("\n")
    part = BEGINS.sub(f".. GENERATED FROM PYTHON SOURCE LINES {new.lineno}-{last}\n", part)
    return part.replace(old.content, new.content, 1) if new.type == "text" else part
