"""Who starts the operators of a decode step: Python, a runtime, or the device itself."""

from drawing import KINDS, MARGIN, SMALL, Drawing

OPERATORS, KERNEL, LEFT, END = 6, 26, 118, 620
PYTHON, NATIVE = 80, 44  # to start an operator from Python, from C++; in proportion, not measured


def lane(d: Drawing, y: float, name: str) -> None:
    d.text(MARGIN, y + 13, name, anchor="start", size=SMALL)
    d.line((LEFT, y + 28), (END, y + 28), color=KINDS["plain"][1], width=1)


def draw() -> Drawing:
    d = Drawing("A decode step run by Python, by ONNX Runtime, and as a CUDA graph: who starts what", 414)
    for index, name in enumerate(
        (
            "PyTorch: Python starts each operator",
            "ONNX Runtime: one call, C++ starts each",
            "CUDA graph: one call, one launch",
        )
    ):
        y = 18 + index * 122
        d.text(MARGIN, y + 8, name, anchor="start", bold=True)
        lane(d, y + 28, "starts")
        lane(d, y + 66, "computes")
        at = LEFT
        if index:
            d.box(at, y + 28, PYTHON if index == 1 else 56, KERNEL, "call", "model", size=SMALL, radius=3)
            at += PYTHON if index == 1 else 56
        for n in range(OPERATORS):
            if index == 2:
                d.box(at + n * KERNEL, y + 66, KERNEL, KERNEL, kind="kept", radius=3)
                continue
            cost, kind = (PYTHON, "model") if index == 0 else (NATIVE, "read")
            d.box(at, y + 28, cost, KERNEL, kind=kind, radius=3)
            at += cost
            d.box(at - 6, y + 66, KERNEL, KERNEL, kind="kept", radius=3)
    d.legend(390, {"model": "Python", "read": "C++", "kept": "device"}, step=130)
    d.arrow((480, 390), (556, 390), color=KINDS["plain"][1])
    d.remark(564, 390, "time")
    return d
