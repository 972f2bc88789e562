"""How much there is to read on a page: its lines, how many of its lines of code teach, and how long reading takes.

``python tools/site/reading.py`` prints a table of all pages; with names, of those.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 250
LEAST_TEACHING = 0.6
WORDS_PER_MINUTE = 200  # technical prose
CODE_LINES_PER_MINUTE = 20

#: What a statement speaks of that arranges results and computes none. Setup and imports are told by their place.
ARRANGING = re.compile(
    r"\b(plt|ax|axes|fig|figure|figures|pandas|DataFrame|Series|provenance|FAST)\b|\.(table|plot|rename|rename_axis)\("
)


@dataclass(frozen=True)
class Reading:
    """What one page asks of its reader."""

    lines: int
    code: int
    teaching: int
    words: int

    @property
    def share(self) -> float:
        """The lines of code that teach, of all that are not blank and no comments."""
        return self.teaching / self.code if self.code else 1.0

    @property
    def minutes(self) -> float:
        """Of a reader who reads all of it."""
        return self.words / WORDS_PER_MINUTE + self.code / CODE_LINES_PER_MINUTE


def read_page(script: Path) -> Reading:
    """Count what is on a page. Its first cell of code is setup."""
    source = script.read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    prose, body = [ast.get_docstring(tree) or ""], tree.body[1:]
    marks = [number for number, line in enumerate(lines, 1) if line.startswith("# %%")]
    setup_ends = marks[0] if marks else len(lines)
    in_text = False
    for line in lines:
        in_text = line.startswith("# %%") or (in_text and line.startswith("#"))
        if in_text and not line.startswith("# %%"):
            prose.append(line.lstrip("#"))
    teaching = {n for part in body if part.lineno > setup_ends for n in _teaching(part, lines)}
    code = {n for part in body for n in _own_lines(part, lines)}
    words = re.findall(r"[^\W\d_]{2,}", " ".join(prose))
    return Reading(len(lines), len(code), len(teaching), len(words))


def _teaching(statement: ast.stmt, lines: list[str]) -> Iterator[int]:
    """The lines of a statement that teach; the head of a loop or function does if anything in it does."""
    inner = [part for part in ast.walk(statement) if isinstance(part, ast.stmt) and part is not statement]
    direct = [part for part in inner if not any(part in ast.walk(other) for other in inner if other is not part)]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return
    if not direct:
        if not ARRANGING.search("\n".join(lines[statement.lineno - 1 : statement.end_lineno])):
            yield from _own_lines(statement, lines)
        return
    found = {n for part in direct for n in _teaching(part, lines)}
    if found:
        yield from found
        yield from _own_lines(statement, lines) - {n for part in direct for n in _own_lines(part, lines)}


def _own_lines(statement: ast.stmt, lines: list[str]) -> set[int]:
    """Its lines that are neither blank nor a comment."""
    start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    end = statement.end_lineno or start
    return {n for n in range(start, end + 1) if (text := lines[n - 1].strip()) and not text.startswith("#")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(path.stem for path in ROOT.glob("gallery/plot_*.py"))
    parser.add_argument("pages", nargs="*", default=every, help="such as plot_batch; default: all")
    print(f"{'page':32}{'lines':>6}{'code':>6}{'teaching':>10}{'words':>7}{'minutes':>9}")
    for name in parser.parse_args().pages:
        page = read_page(ROOT / "gallery" / f"{Path(name).stem}.py")
        marks = "!" if page.lines > MOST_LINES or page.share < LEAST_TEACHING else ""
        print(f"{name:32}{page.lines:6}{page.code:6}{page.share:10.0%}{page.words:7}{page.minutes:9.0f} {marks}")


if __name__ == "__main__":
    main()
