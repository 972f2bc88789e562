"""Three kinds of cache before and after a decode step."""

from drawing import CELL, MARGIN, Drawing

FILLED, ROOM, WINDOW = 4, 7, 4


def draw() -> Drawing:
    d = Drawing("A cache that grows, one of fixed room, and a window, before and after a decode step", 382)
    after = 350
    d.remark(MARGIN, 24, "before the step")
    d.remark(after, 24, "after it")
    rows = {
        "dynamic": ("all is copied to a longer tensor", ["kept"] * FILLED, ["kept"] * FILLED + ["new"]),
        "static": (
            "fixed room, the next place is filled",
            ["kept"] * FILLED + ["empty"] * (ROOM - FILLED),
            ["kept"] * FILLED + ["new"] + ["empty"] * (ROOM - FILLED - 1),
        ),
        "sliding window": (
            f"the last {WINDOW}: the oldest goes",
            ["kept"] * WINDOW,
            ["kept"] * (WINDOW - 1) + ["new"],
        ),
    }
    for index, (name, (what, old, new)) in enumerate(rows.items()):
        y = 58 + 100 * index
        first_old = 5 if name == "sliding window" else 1  # the text is longer than the window
        first_new = first_old + (name == "sliding window")
        d.text(MARGIN, y, name, anchor="start", bold=True)
        d.remark(MARGIN + 158, y, what)
        for x, kinds, first in ((MARGIN, old, first_old), (after, new, first_new)):
            labels = ["" if kind == "empty" else str(first + n) for n, kind in enumerate(kinds)]
            end = d.tokens(x, y + 20, labels, kinds)
            if x == MARGIN:
                d.arrow((end + 6, y + 20 + CELL / 2), (after - 12, y + 20 + CELL / 2))
    d.legend(356, {"kept": "key and value of a token", "new": "of the new one", "empty": "free"}, step=250)
    return d
