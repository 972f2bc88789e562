"""Thirty-two weights of a matrix in 16, 8 and 4 bits, with the scale that they share, drawn to the byte."""

from drawing import MARGIN, SMALL, Drawing

BLOCK, SCALE = 32, 2  # weights that share a scale; bytes of one in a graph of float16
LARGEST, WEIGHT = 0.16, 0.073  # of a block, and one of its weights
BYTE = 8.75  # units


def draw() -> Drawing:
    d = Drawing("A block of 32 weights in float16, int8 and int4, with its bytes", 424)
    for index, bits in enumerate((16, 8, 4)):
        y, scaled = 20 + 124 * index, bits < 16
        data = BLOCK * bits // 8
        total = data + (SCALE if scaled else 0)
        d.text(MARGIN, y + 12, f"{'int' if scaled else 'float'}{bits}", anchor="start", bold=True)
        d.remark(106, y + 12, f"{total} bytes, {8 * total / BLOCK:g} bits a weight")
        cells, wide = (BLOCK, bits / 8 * BYTE) if bits >= 8 else (data, BYTE)
        for n in range(cells):
            d.box(MARGIN + n * wide, y + 32, wide, 34, kind="read", radius=1)
            if bits == 4:  # two of them in a byte
                d.line(
                    (MARGIN + (n + 0.5) * wide, y + 34), (MARGIN + (n + 0.5) * wide, y + 64), color="#3b8ed0", width=1
                )
        if scaled:
            d.box(MARGIN + data * BYTE + 6, y + 32, SCALE * BYTE, 34, kind="guess", radius=1)
            scale = LARGEST / 2 ** (bits - 1)
            number = round(WEIGHT / scale)
            rule = f"{WEIGHT} → {number} × {scale:g} = {number * scale:g}"
            d.text(MARGIN, y + 86, rule, anchor="start", mono=True, size=SMALL)
        else:
            d.text(MARGIN, y + 86, f"{WEIGHT}", anchor="start", mono=True, size=SMALL)
    d.legend(402, {"read": f"{BLOCK} weights", "guess": "their scale, float16"}, step=190)
    return d
