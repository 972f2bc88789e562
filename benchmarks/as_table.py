"""Rows of measurements as a table for people: one line for each engine, with what follows from its numbers."""

from __future__ import annotations

from measurements import BASE, FIRST, LIMIT, METRICS, NEXT, PLACE

Cells = list[list[str]]


def table(rows: list[dict]) -> Cells:
    """The header, and a line for each engine at each size; columns without a cell are left out."""
    lines: dict[tuple, dict[str, dict]] = {}
    for each in rows:
        lines.setdefault(tuple(each[name] for name in PLACE), {})[each["metric"]] = each
    filled = [_line(place, lines[place], lines) for place in sorted(lines, key=_size)]
    columns = [name for name in _columns() if any(line.get(name) for line in filled)]
    return [columns, *([line.get(name, "") for name in columns] for line in filled)]


def _size(place: tuple) -> list[tuple]:
    """By which lines are sorted, so that engines at one size stand together; those without a size come last."""
    return [(value is None, value if value is not None else 0) for value in place[:-1]]


def _columns() -> list[str]:
    derived = {FIRST: ["prompt tokens/s"], NEXT: ["tokens/s", "x generate", "of the limit"]}
    columns = [*PLACE]
    for metric, (unit, _) in METRICS.items():
        columns += [f"{metric} ({unit})", *derived.get(metric, [])]
    return [*columns, "note"]


def _line(place: tuple, found: dict[str, dict], lines: dict[tuple, dict[str, dict]]) -> dict[str, str]:
    *size, engine = place
    line = {name: "" if value is None else str(value) for name, value in zip(PLACE, place, strict=True)}
    line |= {f"{metric} ({each['unit']})": spread(each) for metric, each in found.items() if each["median"] is not None}
    line["note"] = "; ".join(dict.fromkeys(each["note"] for each in found.values() if each.get("note")))
    batch, context = size[-2:]
    if first := median(found, FIRST):
        line["prompt tokens/s"] = number(1e3 * batch * context / first)
    if step := median(found, NEXT):
        line["tokens/s"] = number(1e3 * batch / step)
        if (base := median(lines.get((*size, BASE), {}), NEXT)) and engine != LIMIT:
            line["x generate"] = number(base / step)
        if (limit := median(lines.get((*size, LIMIT), {}), NEXT)) and engine != LIMIT:
            line["of the limit"] = f"{limit / step:.0%}"
    return line


def median(found: dict[str, dict], metric: str) -> float | None:
    return found[metric]["median"] if metric in found else None


def spread(each: dict) -> str:
    """A median, and how far the runs lay apart: ``12.3 (11.9 to 13.0)``."""
    text = number(each["median"])
    return text if each["min"] == each["max"] else f"{text} ({number(each['min'])} to {number(each['max'])})"


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    whole = abs(value) >= 100 or value == int(value)
    return f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")


def printed(rows: list[dict]) -> str:
    """The table as text, its columns aligned."""
    cells = table(rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in aligned)
