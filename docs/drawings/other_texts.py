"""A trap of two ranks: without a seed each draws another number, and they go on with different texts."""

from drawing import MARGIN, SMALL, Drawing

PROMPT, CHANCES = ("def", "sq", "(x"), {"):": 0.7, ",": 0.3}
DRAWN = {"wrong": (0.62, 0.81), "right": (0.62, 0.62)}  # by each rank
WIDE, LEFT = 56, 104


def draw() -> Drawing:
    d = Drawing("Two ranks that draw with different numbers, and with the same one", 384)
    first, second = CHANCES
    for top, (name, numbers) in zip((14, 176), DRAWN.items(), strict=True):
        d.box(10, top, 620, 150, kind="wrong" if name == "wrong" else "kept", radius=8)
        title = "wrong: no seed" if name == "wrong" else "right: a seed, the same on all ranks"
        d.text(MARGIN, top + 22, title, anchor="start", bold=True)
        chosen = [first if number < CHANCES[first] else second for number in numbers]
        for rank, (number, token) in enumerate(zip(numbers, chosen, strict=True)):
            y = top + 44 + rank * 52
            d.text(MARGIN, y + 17, f"rank {rank}", anchor="start", size=SMALL)
            end = d.tokens(LEFT, y, PROMPT, "read", width=WIDE)
            d.text(end + 72, y + 17, f"draws {number}", size=SMALL)
            d.arrow((end + 138, y + 17), (end + 164, y + 17), width=2)
            d.tokens(end + 168, y, [token], "new", width=WIDE)
    d.remark(MARGIN, 352, f"a number below {CHANCES[first]} picks {first} and one above it {second}")
    return d
