"""Three ways to use two GPUs: copies of the model, parts of each layer, some layers each."""

from drawing import KINDS, MARGIN, SMALL, Drawing

LAYERS, COLUMN, WIDE, STEP = 4, 206, 88, 54
COLORS = ("read", "kept")  # a GPU each


def draw() -> Drawing:
    d = Drawing("Replicas, tensor parallelism, and layers on different devices, on two GPUs", 408)
    for way, (title, what) in enumerate(
        (
            ("replicas", "a whole model\neach, other users"),
            ("tensor parallel", "half of each layer,\n2 all-reduces each"),
            ("layers spread", "one works while\nthe other waits"),
        )
    ):
        left = MARGIN + way * COLUMN
        right = left + WIDE + 12
        d.text(left + 94, 26, title, bold=True)
        for gpu, x in enumerate((left, right)):
            d.text(x + WIDE / 2, 56, f"GPU {gpu}", size=SMALL)
            d.box(x, 72, WIDE, LAYERS * STEP + 12, kind="panel", radius=8)
            layers = range(LAYERS) if way < 2 else range(gpu * 2, gpu * 2 + 2)
            for layer in layers:
                y = 82 + layer * STEP
                name = f"half {layer + 1}" if way == 1 else f"layer {layer + 1}"
                d.box(x + 8, y, WIDE - 16, 34, name, COLORS[gpu], size=SMALL)
                if way == 1:
                    for at in (y + 12, y + 26):  # after attention, and after the feed-forward block
                        d.arrow((left + WIDE + 6, at), (left + WIDE - 8, at), color=KINDS["new"][1], width=2)
                        d.arrow((right - 6, at), (right + 8, at), color=KINDS["new"][1], width=2)
        end = 72 + LAYERS * STEP + 12
        if way == 0:
            users = ((left, "user A"), (right, "user B"))
        elif way == 1:
            users = ((left + 50, "user A"),)
        else:
            users = ((left, "user A"),)
            d.arrow((left + 44, 172), (left + 44, 207), (right + 6, 207), color=KINDS["new"][1])
        for x, user in users:
            d.box(x + 4, end + 8, WIDE - 8, 30, user, "new", size=SMALL)
        d.text(left + 94, end + 68, what, size=SMALL)
    return d
