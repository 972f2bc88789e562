"""Past and present as two tensors, copied in each step, or as one buffer that a step writes one position of."""

from drawing import CELL, KINDS, MARGIN, SMALL, Drawing

FILLED, CAPACITY = 5, 8
GREEN = KINDS["kept"][1]


def draw() -> Drawing:
    d = Drawing("Two tensors, past and present, against one buffer of fixed capacity", 406)
    d.text(MARGIN, 26, "two tensors", anchor="start", bold=True)
    d.remark(164, 26, f"a step writes {FILLED + 1} positions, {FILLED} of them again")
    d.text(MARGIN, 66, "past", anchor="start", size=SMALL)
    d.tokens(116, 49, FILLED, "kept")
    d.model(400, 82, 120, 52, "graph")
    d.arrow((116 + FILLED * 38 + 2, 66), (460, 66), (460, 80), color=GREEN)
    d.text(MARGIN, 150, "present", anchor="start", size=SMALL)
    d.tokens(116, 133, FILLED + 1, ["wrong"] * FILLED + ["new"])
    d.arrow((460, 136), (460, 150), (116 + (FILLED + 1) * 38 + 4, 150), color=KINDS["wrong"][1])
    d.line((MARGIN, 192), (620, 192), color=KINDS["plain"][1], width=1)
    d.text(MARGIN, 218, "one buffer", anchor="start", bold=True)
    d.remark(164, 218, "a step writes 1 position, in place")
    d.text(MARGIN, 275, "past and\npresent", anchor="start", size=SMALL)
    d.tokens(116, 258, CAPACITY, ["kept"] * FILLED + ["new"] + ["empty"] * (CAPACITY - FILLED - 1))
    d.model(500, 250, 120, 52, "graph")
    middle = 116 + FILLED * 38 + CELL / 2
    d.arrow((116 + 2.5 * 38, 256), (116 + 2.5 * 38, 238), (560, 238), (560, 248), color=GREEN)
    d.arrow((560, 304), (560, 320), (middle, 320), (middle, 294), color=KINDS["new"][1])
    d.bracket(116, 116 + CAPACITY * 38 - 4, 340, f"capacity: {CAPACITY}")
    d.legend(382, {"kept": "read", "new": "written", "wrong": "written again", "empty": "free"}, step=150)
    return d
