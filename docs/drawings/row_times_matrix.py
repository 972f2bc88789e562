"""One row times three matrices: three products, or one with the matrices on top of one another."""

from drawing import KINDS, MARGIN, SMALL, Drawing

NAMES, WIDE, HIGH = ("q", "k", "v"), 84, 62
READ, START = 118, 40  # to read a matrix and to start a product; in proportion, not measured


def lane(d: Drawing, y: float, title: str, products: list[int]) -> None:
    """Each product is started once, then reads its matrices."""
    d.text(MARGIN, y + 15, title, anchor="start", size=SMALL)
    at, read = 150, 0
    for matrices in products:
        d.box(at, y, START, 30, kind="model", radius=3)
        at += START
        for name in NAMES[read : read + matrices]:
            d.box(at, y, READ, 30, f"read {name}", "read", size=SMALL, radius=3)
            at += READ
        read += matrices


def draw() -> Drawing:
    d = Drawing("Three products of one row, and the same as one product", 398)
    d.text(MARGIN, 24, "three products", anchor="start", bold=True)
    for n, name in enumerate(NAMES):
        x = MARGIN + n * (WIDE + 22)
        d.box(x, 48, WIDE, 14, kind="new", radius=2)
        d.arrow((x + WIDE / 2, 64), (x + WIDE / 2, 84), width=2)
        d.box(x, 86, WIDE, HIGH, name, "read", mono=True)
        d.arrow((x + WIDE / 2, 86 + HIGH + 2), (x + WIDE / 2, 170), width=2)
        d.box(x, 172, WIDE, 14, kind="kept", radius=2)
    left = 396
    d.text(left, 24, "one product", anchor="start", bold=True)
    d.box(left, 48, WIDE, 14, kind="new", radius=2)
    d.arrow((left + WIDE / 2, 64), (left + WIDE / 2, 84), width=2)
    for n, name in enumerate(NAMES):
        d.box(left, 86 + n * HIGH, WIDE, HIGH, name, "read", mono=True, radius=0)
    d.arrow((left + WIDE + 4, 86 + 1.5 * HIGH), (left + WIDE + 38, 86 + 1.5 * HIGH), width=2)
    for n in range(3):
        d.box(left + WIDE + 42, 86 + n * HIGH, 14, HIGH, kind="kept", radius=0)
    d.remark(left + WIDE + 66, 48 + 7, "row")
    d.remark(left + WIDE + 66, 86 + 1.5 * HIGH, "result")
    d.remark(MARGIN, 236, "the same bytes,\nfewer starts")
    lane(d, 286, "three products", [1, 1, 1])
    lane(d, 324, "one product", [3])
    d.legend(378, {"model": "to start it"}, x=150)
    d.arrow((420, 378), (520, 378), color=KINDS["plain"][1])
    d.remark(530, 378, "time")
    return d
