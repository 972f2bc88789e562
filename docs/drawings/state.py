"""A cache that gets longer with each token, against a state of fixed size that each token changes."""

from drawing import CELL, KINDS, MARGIN, SMALL, Drawing

TOKENS, LEFT, STEP, WIDE, HIGH = 6, 128, 84, 60, 18


def draw() -> Drawing:
    d = Drawing("What attention keeps of six tokens, and what a recurrent layer keeps", 388)
    base = 172  # of the stacks
    d.text(MARGIN, 24, "attention keeps keys and values of every token", anchor="start", bold=True)
    for n in range(TOKENS):
        x = LEFT + n * STEP
        middle = x + WIDE / 2
        for m in range(n + 1):
            d.box(x, base - (m + 1) * (HIGH + 3), WIDE, HIGH, kind="new" if m == n else "kept", radius=3)
        d.tokens(middle - CELL / 2, 196, [str(n + 1)], "read")
        d.arrow((middle, 194), (middle, 175), width=2)
        d.arrow((middle, 232), (middle, 258), width=2)
        d.model(x, 260, WIDE, 60, f"h{n + 1}", size=SMALL)
        if n < TOKENS - 1:
            d.arrow((x + WIDE + 2, 290), (x + STEP - 2, 290), color=KINDS["model"][1])
    for y, name in {base - 12: "cache", 213: "token", 290: "state"}.items():
        d.text(MARGIN, y, name, anchor="start", size=SMALL)
    d.text(MARGIN, 350, "a recurrent layer keeps one state of fixed size", anchor="start", bold=True)
    d.remark(MARGIN, 374, "Each token replaces it, so no token can be taken out again.")
    return d
