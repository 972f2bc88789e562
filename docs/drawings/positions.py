"""A trap: position ids that are given in some steps only, so that padding counts in the prompt and not after it."""

from drawing import MARGIN, SMALL, Drawing

PADDING, ROW, CHOSEN = 2, ("if", "x"), (">", "0")
WIDE, LEFT = 64, 152


def draw() -> Drawing:
    d = Drawing("A padded row whose position ids jump after the prompt, and the same row with the right ones", 330)
    length = PADDING + len(ROW)
    labels = ["pad"] * PADDING + [*ROW, *CHOSEN]
    kinds = ["empty"] * PADDING + ["read"] * len(ROW) + ["new"] * len(CHOSEN)
    right = [max(n - PADDING, 0) for n in range(length + len(CHOSEN))]
    places = [LEFT + n * (WIDE + 4) + (24 if n >= length else 0) for n in range(len(right))]
    d.text(MARGIN, 51, "one row", anchor="start", size=SMALL)
    for x, label, kind in zip(places, labels, kinds, strict=True):
        d.tokens(x, 34, [label], kind, width=WIDE)
    ids = {"wrong": list(range(length)) + right[length:], "right": right}
    for y, (name, row) in zip((98, 182), ids.items(), strict=True):
        kind = "wrong" if name == "wrong" else "kept"
        d.box(12, y, 616, 68, kind=kind, radius=8)
        d.text(24, y + 20, name, anchor="start", bold=True)
        d.text(24, y + 48, "position ids", anchor="start", size=SMALL)
        for n, (x, number) in enumerate(zip(places, row, strict=True)):
            twice = name == "wrong" and n >= PADDING and row[PADDING:].count(number) > 1
            d.text(x + WIDE / 2, y + 34, str(number), mono=True, bold=twice, size=22 if twice else SMALL)
    x = places[length] - 14
    d.line((x, 26), (x, 262), dashed=True, width=1.8)
    d.text(x - 10, 18, "prompt", anchor="end", size=SMALL)
    d.text(x + 10, 18, "decode steps", anchor="start", size=SMALL)
    d.remark(MARGIN, 278, "wrong: padding counts in the prompt and not after it,")
    d.remark(MARGIN, 302, "so two tokens stand at one place.")
    return d
