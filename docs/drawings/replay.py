"""A decode step as kernels that are launched one by one, and as a CUDA graph that is replayed."""

from drawing import KINDS, MARGIN, SMALL, Drawing

KERNELS, LENGTH, LAUNCH, LEFT = 6, 40, 74, 84


def draw() -> Drawing:
    d = Drawing("Kernels launched one by one, with gaps, against a replayed CUDA graph", 400)
    for y, title in ((22, "one by one: the GPU waits for launches"), (192, "replayed: one launch for all kernels")):
        d.text(MARGIN, y, title, anchor="start", bold=True)
        for lane, name in ((y + 24, "CPU"), (y + 82, "GPU")):
            d.text(MARGIN, lane + 15, name, anchor="start", size=SMALL)
            d.line((LEFT, lane + 32), (620, lane + 32), color=KINDS["plain"][1], width=1)
    for n in range(KERNELS):
        x = LEFT + n * LAUNCH
        d.box(x, 46, LAUNCH - 4, 30, "launch", "model", size=SMALL, radius=3)
        d.box(x + LAUNCH, 104, LENGTH, 30, f"k{n + 1}", "kept", size=SMALL, radius=3)
        d.arrow((x + LAUNCH - 4, 78), (x + LAUNCH + 8, 102), width=2)
        if n:
            d.box(x + LENGTH, 104, LAUNCH - LENGTH, 30, kind="empty", radius=3)
    d.bracket(LEFT, LEFT + KERNELS * LAUNCH + LENGTH, 146)
    d.box(LEFT, 216, LAUNCH - 4, 30, "replay", "model", size=SMALL, radius=3)
    d.arrow((LEFT + LAUNCH - 4, 248), (LEFT + LAUNCH + 8, 272), width=2)
    for n in range(KERNELS):
        d.box(LEFT + LAUNCH + n * LENGTH, 274, LENGTH, 30, f"k{n + 1}", "kept", size=SMALL, radius=3)
    end = LEFT + LAUNCH + KERNELS * LENGTH
    d.bracket(LEFT, end, 316, "a step")
    d.remark(end + 22, 289, "free for the next step")
    d.remark(MARGIN, 366, "Recorded once: the same kernels, shapes and addresses in each step.")
    return d
