"""Speculative decoding: four guesses, one pass over all, the right ones and one token of the model's own."""

from drawing import MARGIN, SMALL, Drawing

TEXT, GUESSES, RIGHT = ("ret", "n", "*"), ("fact", "(n", "-", "2"), ("fact", "(n", "-", "1")
WIDE, STEP, LEFT = 62, 66, 96


def place(column: int) -> float:
    return LEFT + column * STEP


def draw() -> Drawing:
    d = Drawing("A draft guesses four tokens, the model checks them in one pass", 386)
    accepted = next(n for n, (guess, own) in enumerate(zip(GUESSES, RIGHT, strict=True)) if guess != own)
    last = len(TEXT) - 1
    d.text(place(0), 24, "text so far", anchor="start", size=SMALL)
    d.text(place(last + 1), 24, f"{len(GUESSES)} guesses of the draft", anchor="start", size=SMALL)
    end = d.tokens(place(0), 42, TEXT, "kept", width=WIDE)
    d.tokens(end, 42, GUESSES, "guess", width=WIDE)
    d.model(place(last) - 6, 106, 5 * STEP + 8, 48, "model: one pass over 5 tokens", size=SMALL)
    for n in range(5):
        middle = place(last + n) + WIDE / 2
        d.arrow((middle, 78), (middle, 104))
        d.arrow((middle, 156), (middle + STEP - 6, 190))
    d.text(MARGIN, 209, "model:", anchor="start", size=SMALL)
    own = [*RIGHT[: accepted + 1], *[""] * (len(GUESSES) - accepted)]
    kinds = ["kept"] * accepted + ["new"] + ["empty"] * (len(GUESSES) - accepted)
    d.tokens(place(last + 1), 192, own, kinds, width=WIDE)
    for n in range(accepted):
        d.text(place(last + 1 + n) + WIDE / 2, 246, "same", size=SMALL)
    d.text(place(last + 1 + accepted) + WIDE / 2, 246, "differs", size=SMALL)
    d.remark(place(last + 2 + accepted) + WIDE / 2, 246, "dropped", "middle")
    d.text(MARGIN, 293, "after:", anchor="start", size=SMALL)
    end = d.tokens(place(0), 276, TEXT, "kept", width=WIDE)
    end = d.tokens(end, 276, RIGHT[:accepted], "kept", width=WIDE)
    end = d.tokens(end, 276, RIGHT[accepted : accepted + 1], "new", width=WIDE)
    d.bracket(place(last + 1), end - 6, 322, f"{accepted + 1} tokens from one pass")
    d.remark(MARGIN, 364, f"{accepted} accepted, and 1 of its own in place of the wrong guess")
    return d
