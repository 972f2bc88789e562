"""A grammar's automaton allows some tokens; the others get minus infinity before one is chosen."""

from drawing import KINDS, MARGIN, SMALL, Drawing

TOKENS = {"Sure": 4.1, "The": 3.0, "yes": 2.6, "no": 1.9, "s": 1.2, "ye": 0.3}
STATES = {"start": {"yes": "end", "no": "end", "ye": "after ye"}, "after ye": {"s": "end"}}
LEFT, STEP, WIDE = 132, 82, 72


def draw() -> Drawing:
    d = Drawing("An automaton that accepts yes or no, and the logits in its first state, masked", 398)
    allowed = STATES["start"]
    chosen = max(allowed, key=TOKENS.get)
    d.text(MARGIN, 26, "allowed: yes|no", anchor="start", bold=True)
    d.box(40, 56, 100, 44, "start", "new", radius=22)
    d.box(270, 118, 120, 44, "after ye", "plain", radius=22)
    d.box(510, 56, 90, 44, "end", "kept", radius=22)
    d.arrow((142, 70), (508, 70))
    d.text(325, 54, "yes   or   no", mono=True, size=SMALL)
    d.arrow((120, 102), (160, 140), (268, 140))
    d.text(212, 124, "ye", mono=True, size=SMALL)
    d.arrow((392, 140), (530, 140), (550, 102))
    d.text(460, 124, "s", mono=True, size=SMALL)
    d.line((MARGIN, 186), (620, 186), color=KINDS["plain"][1], width=1)
    d.text(MARGIN, 212, "in the state start:", anchor="start", bold=True)
    for y, name in {254: "token", 296: "logit", 336: "masked"}.items():
        d.text(MARGIN, y, name, anchor="start", size=SMALL)
    for n, (token, logit) in enumerate(TOKENS.items()):
        x, ok = LEFT + n * STEP, token in allowed
        d.tokens(x, 237, [token], "read" if ok else "empty", width=WIDE)
        d.text(x + WIDE / 2, 296, f"{logit}", mono=True, size=SMALL)
        d.box(
            x,
            319,
            WIDE,
            34,
            f"{logit}" if ok else "−∞",
            "new" if token == chosen else "read" if ok else "empty",
            mono=True,
        )
        if token == chosen:
            d.text(x + WIDE / 2, 376, "chosen", size=SMALL, bold=True)
    d.remark(620, 376, f"without the mask: {max(TOKENS, key=TOKENS.get)}", "end")
    return d
