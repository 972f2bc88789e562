"""A small language for the book's drawings, written as SVG: tokens, cells of a cache, boxes, arrows and few words.

A drawing is 640 units wide and as wide as a phone or a column allows, so its smallest text, 17 units, is 9 px high on a
phone. It brings its own background, since an image does not know the theme of its page. Everything is a plain element
with its colours beside it: tests read contrast and overlaps from it, and any viewer of notebooks shows it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

DRAWINGS = Path(__file__).parents[1] / "drawings"
WIDTH, MARGIN = 640, 20
SMALL, NORMAL = 17, 18  # sizes of text
CELL = 34  # the side of a token, and of what a cache keeps of it
INK, SOFT, PANEL = "#1d2833", "#465362", "#f4f7fa"  # text, remarks, and what they stand on
SANS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

#: What a shape stands for: its fill and its line, in the colours of docs/figures.mplstyle.
KINDS = {
    "read": ("#d0e4f6", "#3b8ed0"),  # a token of the prompt
    "new": ("#fbdcc1", "#e5843c"),  # a token that was chosen, and what a step computes for it
    "kept": ("#c6ebda", "#2fa678"),  # the cache
    "model": ("#ecdaf3", "#b264c4"),
    "guess": ("#f4e5b2", "#c79a1b"),  # a guess, a scale: what comes from elsewhere
    "plain": ("#e4e9ee", "#7f8a96"),
    "empty": (PANEL, "#93a0ac"),  # room that nothing fills: dashed
    "wrong": ("#f6d3d8", "#c2455a"),
    "panel": ("#ffffff", "#93a0ac"),  # around others
}


class Drawing:
    """Shapes on a panel of ``height`` units; all positions are in these units, from the top left."""

    def __init__(self, title: str, height: float) -> None:
        self.title, self.height = title, height
        self.parts: list[str] = []
        self._rect(0, 0, WIDTH, height, PANEL, "none", radius=10)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = NORMAL,
        anchor: str = "middle",
        color: str = INK,
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """Lines of text around the height ``y``, which begin, end or have their middle at ``x``."""
        lines = text.split("\n")
        for index, line in enumerate(lines):
            base = y + (index - (len(lines) - 1) / 2) * 1.25 * size + 0.35 * size
            weight = ' font-weight="600"' if bold else ""
            place = f'x="{x:g}" y="{base:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{color}"'
            family = f" font-family={quoteattr(MONO)}" if mono else ""
            self.parts.append(f'<text {place}{family}{weight} xml:space="preserve">{escape(line)}</text>')

    def remark(self, x: float, y: float, text: str, anchor: str = "start", **how) -> None:
        self.text(x, y, text, **{"size": SMALL, "anchor": anchor, "color": SOFT} | how)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str = "",
        kind: str = "plain",
        *,
        radius: float = 5,
        **how,
    ) -> None:
        """A box with a label in its middle."""
        fill, line = KINDS[kind]
        self._rect(x, y, width, height, fill, line, radius=radius, dashed=kind == "empty")
        if label:
            self.text(x + width / 2, y + height / 2, label, **how)

    def model(self, x: float, y: float, width: float, height: float, label: str = "model", **how) -> None:
        self.box(x, y, width, height, label, "model", radius=14, **how)

    def tokens(
        self,
        x: float,
        y: float,
        labels: Iterable[str] | int,
        kind: str | Sequence[str] = "read",
        *,
        width: float = CELL,
        height: float = CELL,
        gap: float = 4,
        **how,
    ) -> float:
        """Squares side by side, of one kind or of one each; returns where the next one would stand."""
        labels = [""] * labels if isinstance(labels, int) else list(labels)
        kinds = [kind] * len(labels) if isinstance(kind, str) else kind
        for label, of in zip(labels, kinds, strict=True):
            self.box(x, y, width, height, label, of, radius=4, **{"mono": True, "size": SMALL} | how)
            x += width + gap
        return x

    def arrow(
        self,
        *points: tuple[float, float],
        color: str = SOFT,
        width: float = 2.5,
        dashed: bool = False,
        head: bool = True,
    ) -> None:
        """A line through points, with a head at the last one."""
        (x0, y0), (x, y) = points[-2:]
        angle, shaft = math.atan2(y - y0, x - x0), 9 if head else 0
        ends = [*points[:-1], (x - shaft * math.cos(angle), y - shaft * math.sin(angle))]
        path = " ".join(f"{px:g},{py:g}" for px, py in ends)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dash} '
            'stroke-linejoin="round"/>'
        )
        if head:
            corners = [(x, y)]
            corners += [(x - 11 * math.cos(angle + turn), y - 11 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
            path = " ".join(f"{px:.4g},{py:.4g}" for px, py in corners)
            self.parts.append(f'<polygon points="{path}" fill="{color}"/>')

    def line(self, *points: tuple[float, float], **how) -> None:
        self.arrow(*points, head=False, **how)

    def bracket(self, x1: float, x2: float, y: float, label: str = "", *, below: bool = True, **how) -> None:
        """A bracket under (or above) what lies between two places, and what that is."""
        out = 7 if below else -7
        self.line((x1, y - out), (x1, y), (x2, y), (x2, y - out), width=1.8)
        if label:
            self.remark((x1 + x2) / 2, y + 2.2 * out, label, "middle", **how)

    def legend(self, y: float, kinds: dict[str, str], x: float = MARGIN, step: float | None = None) -> None:
        """What the colours mean: a label for each kind, ``step`` apart."""
        for index, (kind, label) in enumerate(kinds.items()):
            left = x + index * (step or (WIDTH - 2 * MARGIN) / len(kinds))
            self.box(left, y - 9, 18, 18, kind=kind, radius=3)
            self.remark(left + 26, y, label)

    def _rect(self, x, y, width, height, fill, line, radius=5.0, dashed=False) -> None:
        edge = "" if line == "none" else f' stroke="{line}" stroke-width="2"'
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
        self.parts.append(f'<rect {place} fill="{fill}"{edge}{dash}/>')

    def svg(self) -> str:
        """The drawing as a file of its own."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height:g}" '
        head += f'viewBox="0 0 {WIDTH} {self.height:g}" role="img" font-family={quoteattr(SANS)}>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", *self.parts, "</svg>", ""])


def load_drawings(folder: Path = DRAWINGS) -> dict[str, Drawing]:
    """Every drawing by its name: ``growing_cache.py`` has a function ``draw``, which draws ``growing-cache``."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"drawings_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[path.stem.replace("_", "-")] = module.draw()
    return found


def write_drawings(source: Path, folder: Path = DRAWINGS) -> None:
    """Write drawings/NAME.svg to a build's sources, where pages find them as ``/drawings/NAME.svg``."""
    (source / "drawings").mkdir(parents=True, exist_ok=True)
    for name, drawing in load_drawings(folder).items():
        (source / "drawings" / f"{name}.svg").write_text(drawing.svg(), encoding="utf-8")
