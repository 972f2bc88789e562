"""One head of attention in one decode step: a query against all keys, and the values by these weights."""

import math

from drawing import KINDS, MARGIN, SMALL, Drawing

TEXT = ("def", "sq", "(x", "):", "ret")
SCORES = (0.4, 1.6, 2.2, -0.6, 0.9)  # q·k / √d, an example
LEFT, STEP, WIDE = 152, 76, 64


def softmax(scores: tuple[float, ...]) -> list[float]:
    exponentials = [math.exp(score) for score in scores]
    return [each / sum(exponentials) for each in exponentials]


def draw() -> Drawing:
    d = Drawing("Attention in a decode step: query, keys, weights, values", 430)
    for behind in (10, 5, 0):  # the other heads and layers
        d.box(8 + behind, 44 - behind, 614, 342, kind="panel", radius=12)
    names = {68: "token", 128: "keys", 188: "q · k / √d", 258: "softmax:\nweights", 322: "values"}
    for y, name in names.items():
        d.text(MARGIN, y, name, anchor="start", size=SMALL)
    for n, (token, score, weight) in enumerate(zip(TEXT, SCORES, softmax(SCORES), strict=True)):
        x, newest = LEFT + n * STEP, n == len(TEXT) - 1
        middle, kind = x + WIDE / 2, "new" if newest else "kept"
        d.tokens(x, 51, [token], "new" if newest else "read", width=WIDE)
        d.tokens(x, 111, [f"k{n + 1}"], kind, width=WIDE)
        d.arrow((middle, 147), (middle, 173), width=2)
        d.text(middle, 188, f"{score:.1f}", size=SMALL, mono=True)
        d.arrow((middle, 203), (middle, 223), width=2)
        d.text(middle, 288, f"{weight:.2f}", size=SMALL, mono=True)
        high = 90 * weight
        d.box(middle - 15, 275 - high, 30, high, kind="guess", radius=2)
        d.tokens(x, 305, [f"v{n + 1}"], kind, width=WIDE)
    right = LEFT + len(TEXT) * STEP
    d.box(right + 6, 111, 66, 34, "query", "new", size=SMALL)
    d.arrow((right + 4, 128), (right - 10, 128), color=KINDS["new"][1])
    d.box(right + 6, 305, 66, 34, "output", "new", size=SMALL)
    d.arrow((right - 10, 322), (right + 4, 322), color=KINDS["new"][1])
    d.text(LEFT + 2.5 * STEP - 6, 364, "output = sum of weight × value", size=SMALL)
    d.text(MARGIN, 20, "one head of one layer, in a decode step", anchor="start", bold=True)
    d.legend(408, {"kept": "from the cache", "new": "computed in this step"}, step=220)
    return d
