"""One graph in two phases: a prompt with an empty past, then one token with the present of the run before."""

from drawing import CELL, KINDS, SMALL, Drawing

PROMPT, SIDE, RIGHT = 5, 28, 344


def draw() -> Drawing:
    d = Drawing("A graph run on a prompt with an empty past, and on one token with the past", 396)
    phases = ((20, "prefill", PROMPT, 0), (RIGHT, "decode step", 1, PROMPT))
    for x, title, fresh, past in phases:
        kind = "new" if past else "read"
        d.text(x, 26, title, anchor="start", bold=True)
        d.text(x, 58, f"input_ids [1, {fresh}]", anchor="start", size=SMALL, mono=True)
        d.tokens(x, 74, fresh, kind, width=SIDE, height=SIDE)
        d.text(x, 126, f"past: {past} positions", anchor="start", size=SMALL, mono=True)
        if past:
            d.tokens(x, 142, past, "kept", width=SIDE, height=SIDE)
        else:
            d.box(x, 142, 10, SIDE, kind="empty", radius=2)
        d.arrow((x + 136, 174), (x + 136, 198))
        d.model(x, 200, 272, 52, "the same graph")
        d.arrow((x + 32, 254), (x + 32, 278))
        d.arrow((x + 230, 254), (x + 230, 322))
        d.text(x, 294, "logits", anchor="start", size=SMALL, mono=True)
        d.arrow((x + 72, 294), (x + 98, 294), width=2)
        d.tokens(x + 104, 277, [""], "new")
        d.text(x, 334, f"present: {past + fresh} positions", anchor="start", size=SMALL, mono=True)
        end = d.tokens(x, 350, past or fresh, "kept", width=SIDE, height=SIDE)
        if past:
            end = d.tokens(end, 350, fresh, "new", width=SIDE, height=SIDE)
        if not past:  # the present becomes the past, and so on
            green = KINDS["kept"][1]
            d.arrow((end + 4, 364), (318, 364), (318, 156), (RIGHT - 6, 156), color=green)
            d.arrow((104 + 20 + CELL + 4, 294), (306, 294), (306, 88), (RIGHT - 6, 88), color=KINDS["new"][1])
        else:
            d.arrow((end + 4, 364), (628, 364), (628, 156), (x + PROMPT * 32 + 4, 156), color=KINDS["kept"][1])
    return d
