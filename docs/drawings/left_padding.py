"""A batch of three rows: padding on the left, the attention mask, the position ids."""

from drawing import CELL, MARGIN, SMALL, SOFT, Drawing

ROWS = (("def", "sq", "(x", "):"), ("if", "x"), ("for", "i", "in"))
CHOSEN = ("ret", ">", "x")
WIDE, LEFT = 64, 152


def draw() -> Drawing:
    longest = max(map(len, ROWS))
    d = Drawing("Three prompts, left-padded, with their attention mask and position ids", 420)
    for index, (row, chosen) in enumerate(zip(ROWS, CHOSEN, strict=True)):
        padding, y = longest - len(row), 46 + 112 * index
        mask = [0] * padding + [1] * len(row) + [1]
        positions = [max(column - padding, 0) for column in range(longest + 1)]
        d.text(MARGIN, y + CELL / 2, f"row {index}", anchor="start", bold=True)
        d.remark(MARGIN, y + 50, "mask")
        d.remark(MARGIN, y + 74, "position ids")
        labels = ["pad"] * padding + list(row)
        end = d.tokens(LEFT, y, labels, ["empty"] * padding + ["read"] * len(row), width=WIDE)
        d.tokens(end + 24, y, [chosen], "new", width=WIDE)
        for column in range(longest + 1):
            x = LEFT + column * (WIDE + 4) + WIDE / 2 + (24 if column == longest else 0)
            soft = {"color": SOFT} if column < padding else {"bold": True}
            d.text(x, y + 50, str(mask[column]), mono=True, size=SMALL, **soft)
            d.text(x, y + 74, str(positions[column]), mono=True, size=SMALL, **soft)
    x = LEFT + longest * (WIDE + 4) + 12
    d.line((x, 14), (x, 376), dashed=True, width=1.8)
    d.text(x - 12, 22, "prompt", anchor="end", size=SMALL)
    d.text(x + 12, 22, "each row goes on", anchor="start", size=SMALL)
    d.remark(MARGIN, 398, "Padding is masked, and positions count a row's own tokens from 0.")
    return d
