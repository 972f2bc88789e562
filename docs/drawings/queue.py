"""Users who come when they like: answered in turn, or all together, each step a little longer."""

from drawing import KINDS, MARGIN, SMALL, Drawing

ARRIVALS, STEPS = (0.0, 1.0, 2.0, 3.0), 5  # in steps of a single row; steps that each answer takes
EXTRA = 0.12  # what each further row adds to a step; an example, not measured
UNIT, LEFT, HIGH = 24, 100, 26


def in_turn() -> list[tuple[float, float]]:
    """When each user's answer begins and ends."""
    free, spans = 0.0, []
    for arrival in ARRIVALS:
        begin = max(free, arrival)
        free = begin + STEPS
        spans.append((begin, free))
    return spans


def together() -> list[tuple[float, float]]:
    """A step serves all who are there when it begins."""
    now, begins, left = 0.0, {}, dict.fromkeys(range(len(ARRIVALS)), STEPS)
    ends = {}
    while left:
        rows = [user for user in left if ARRIVALS[user] <= now]
        begins |= {user: now for user in rows if user not in begins}
        now += 1 + EXTRA * (len(rows) - 1)
        for user in rows:
            left[user] -= 1
            if not left[user]:
                del left[user]
                ends[user] = now
    return [(begins[user], ends[user]) for user in range(len(ARRIVALS))]


def draw() -> Drawing:
    d = Drawing("Four users who come one after another, answered in turn and together", 380)
    for top, title, spans in ((20, "in turn", in_turn()), (190, "together, in one batch", together())):
        d.text(MARGIN, top + 4, title, anchor="start", bold=True)
        for user, (begin, end) in enumerate(spans):
            y, x = top + 24 + user * (HIGH + 6), LEFT + ARRIVALS[user] * UNIT
            d.text(MARGIN, y + HIGH / 2, f"user {'ABCD'[user]}", anchor="start", size=SMALL)
            if begin > ARRIVALS[user]:
                d.box(x, y, (begin - ARRIVALS[user]) * UNIT - 2, HIGH, kind="empty", radius=3)
            d.box(LEFT + begin * UNIT, y, (end - begin) * UNIT - 2, HIGH, kind="new", radius=3)
            d.line((x, y - 2), (x, y + HIGH + 2), width=4, color=KINDS["read"][1])
    d.line((LEFT, 349), (LEFT, 367), width=4, color=KINDS["read"][1])
    d.remark(LEFT + 10, 358, "comes")
    d.legend(358, {"empty": "waits", "new": "is answered"}, x=LEFT + 94, step=106)
    d.arrow((490, 358), (556, 358), color=KINDS["plain"][1])
    d.remark(564, 358, "time")
    return d
