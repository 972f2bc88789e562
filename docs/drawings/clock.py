"""A trap: a clock that stops when the work is handed to the GPU, and one that waits until it is done."""

from drawing import KINDS, MARGIN, SMALL, Drawing

LAUNCHES, LAUNCH, WORK, LEFT, TOP = 4, 44, 104, 84, 20


def draw() -> Drawing:
    d = Drawing("A clock that stops after the launches, and one that waits for the GPU", 276)
    for y, name in ((TOP + 21, "CPU"), (TOP + 79, "GPU")):
        d.text(MARGIN, y, name, anchor="start", size=SMALL)
        d.line((LEFT, y + 19), (620, y + 19), color=KINDS["plain"][1], width=1)
    begin = LEFT + LAUNCH
    end = begin + LAUNCHES * WORK
    for y, stop, name, kind, color in (
        (146, LEFT + LAUNCHES * LAUNCH, "wrong", "wrong", KINDS["wrong"][1]),
        (204, end, "right: until the GPU is done", "kept", KINDS["kept"][1]),
    ):
        d.box(LEFT, y, stop - LEFT, 34, name, kind, size=SMALL, radius=3)
        d.line((stop, TOP), (stop, y), dashed=True, width=1.5, color=color)
        d.text(MARGIN, y + 17, "clock", anchor="start", size=SMALL)
    d.box(LEFT, TOP + 4, LAUNCHES * LAUNCH, 34, "launches", "model", size=SMALL, radius=3)
    d.box(
        begin + 3 * LAUNCH + 4, TOP + 4, end - begin - 3 * LAUNCH - 4, 34, "synchronize", "empty", size=SMALL, radius=3
    )
    for n in range(LAUNCHES):
        d.box(begin + n * WORK, TOP + 62, WORK, 34, f"kernel {n + 1}", "kept", size=SMALL, radius=3)
    d.arrow((LEFT, 256), (LEFT + 90, 256), color=KINDS["plain"][1])
    d.remark(LEFT + 100, 256, "time")
    return d
