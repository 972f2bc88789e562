"""Requests of different lengths on four rows: a batch that waits for its longest, and rows that are refilled."""

from drawing import KINDS, MARGIN, SMALL, Drawing

LENGTHS, ROWS = (6, 3, 8, 2, 4, 7, 3, 5), 4  # steps of each request, in the order in which they came
WIDE, HIGH, LEFT = 30, 28, 92
Span = tuple[int, int, int, int]  # request, row, first step, steps


def static() -> list[Span]:
    """The next requests begin when all of those before them are done."""
    spans, begin = [], 0
    for first in range(0, len(LENGTHS), ROWS):
        group = range(first, first + ROWS)
        spans += [(request, request - first, begin, LENGTHS[request]) for request in group]
        begin += max(LENGTHS[request] for request in group)
    return spans


def continuous() -> list[Span]:
    """A row takes the next request as soon as it is free."""
    spans, free = [], [0] * ROWS
    for request, length in enumerate(LENGTHS):
        row = free.index(min(free))
        spans.append((request, row, free[row], length))
        free[row] += length
    return spans


def draw() -> Drawing:
    d = Drawing("Eight requests on four rows: static batches, and continuous batching", 392)
    for top, title, spans in ((20, "static batches", static()), (196, "continuous batching", continuous())):
        steps = max(begin + length for _, _, begin, length in spans)
        idle = steps * ROWS - sum(LENGTHS)
        d.text(MARGIN, top + 4, title, anchor="start", bold=True)
        d.remark(620, top + 4, f"{steps} steps, {idle} row-steps idle", "end")
        for row in range(ROWS):
            y = top + 24 + row * (HIGH + 4)
            d.text(MARGIN, y + HIGH / 2, f"row {row}", anchor="start", size=SMALL)
            busy = set()
            for request, at, begin, length in spans:
                if at == row:
                    busy |= set(range(begin, begin + length))
                    kind = "read" if request < ROWS else "new"
                    d.box(LEFT + begin * WIDE, y, length * WIDE - 3, HIGH, "ABCDEFGH"[request], kind, size=SMALL)
            for step in set(range(steps)) - busy:
                d.box(LEFT + step * WIDE, y, WIDE - 3, HIGH, kind="empty", radius=3)
    d.legend(370, {"read": "first four", "new": "next four", "empty": "idle"}, x=LEFT, step=130)
    d.arrow((500, 370), (560, 370), color=KINDS["plain"][1])
    d.remark(568, 370, "time")
    return d
