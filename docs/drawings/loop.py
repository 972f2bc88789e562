"""The decode loop: the prompt is read in one pass, then each chosen token goes in to give the next."""

from drawing import CELL, KINDS, MARGIN, SMALL, Drawing

PROMPT, ANSWER = ("def", "sq", "(x", "):"), ("ret", "x", "*", "x")
WIDE = 52  # a token with letters


def draw() -> Drawing:
    d = Drawing("The decode loop: prefill, then one decode step for each further token", 396)
    d.text(130, 26, "prefill", bold=True)
    d.text(463, 26, "decode steps", bold=True)
    columns = [(MARGIN, 4 * WIDE + 12, PROMPT, "read")]
    columns += [(299 + 115 * n, 92, ANSWER[n : n + 1], "new") for n in range(3)]
    for index, (x, wide, inputs, kind) in enumerate(columns):
        middle = x + wide / 2
        d.tokens(middle - (len(inputs) * (WIDE + 4) - 4) / 2, 48, inputs, kind, width=WIDE)
        d.arrow((middle, 50 + CELL), (middle, 108))
        d.model(x, 110, wide, 56)
        d.arrow((middle, 168), (middle, 192))
        d.text(middle, 207, "logits", size=SMALL)
        d.arrow((middle, 222), (middle, 246))
        d.tokens(middle - WIDE / 2, 248, ANSWER[index : index + 1], "new", width=WIDE)
        if index < 3:  # what was chosen is what the next step reads
            end = columns[index + 1][0] + 46 - WIDE / 2 - 2
            turn = columns[index + 1][0] - 12
            d.arrow((middle + WIDE / 2 + 2, 265), (turn, 265), (turn, 65), (end, 65), color=KINDS["new"][1])
    d.line((MARGIN, 302), (620, 302), color=KINDS["plain"][1], width=1)
    d.text(MARGIN, 335, "the text", anchor="start", size=SMALL)
    after = d.tokens(116, 318, PROMPT, "read", width=WIDE)
    d.bracket(116, after - 4, 362, "prompt")
    end = d.tokens(after, 318, ANSWER, "new", width=WIDE)
    d.bracket(after, end - 4, 362, "one more token each pass")
    return d
