"""Tokens as they come: a character in two tokens is held back until it is whole; what a reader waits for."""

from drawing import CELL, KINDS, MARGIN, SMALL, Drawing

WORD, CUTS = "naïve".encode(), (2, 3, 4, 6)  # where a tokenizer of bytes may cut it
FIRST, STEP = 254, 104  # where the first token comes, and the time of a decode step


def readable(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def draw() -> Drawing:
    d = Drawing("Four tokens of bytes, the text that can be shown after each, and when they come", 330)
    for y, name in {40: "token", 92: "its bytes", 136: "held back", 180: "text shown"}.items():
        d.text(MARGIN, y, name, anchor="start", size=SMALL)
    for n, (begin, end) in enumerate(zip((0, *CUTS[:-1]), CUTS, strict=True)):
        x, piece = FIRST + n * STEP, WORD[begin:end]
        whole = next(stop for stop in range(end, 0, -1) if readable(WORD[:stop]) is not None)
        d.line((x, 58), (x, 80), width=1.5)
        d.tokens(x - 32, 23, [readable(piece) or f"<{piece.hex().upper()}>"], "new", width=64)
        d.text(x, 92, piece.hex(" ").upper(), mono=True, size=SMALL)
        held = WORD[whole:end]
        if held:
            d.box(x - 24, 121, 48, 30, held.hex().upper(), "guess", mono=True, size=SMALL)
        else:
            d.remark(x, 136, "–", "middle")
        d.text(x, 180, WORD[:whole].decode(), mono=True)
        d.arrow((x, 236), (x, 198), dashed=True, width=1.8)
    d.box(MARGIN, 238, FIRST - MARGIN, CELL, "prefill", "read", radius=3)
    for n in range(len(CUTS) - 1):
        d.box(FIRST + n * STEP, 238, STEP, CELL, "step", "new", radius=3)
    d.bracket(MARGIN, FIRST - 2, 288, "time to first token")
    d.bracket(FIRST + 2, FIRST + STEP - 2, 288, "time per token")
    d.arrow((FIRST + 200, 308), (FIRST + 300, 308), color=KINDS["plain"][1])
    d.remark(FIRST + 310, 308, "time")
    return d
