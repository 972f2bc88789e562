"""From logits to a token: temperature and softmax, a cut by top-k and top-p, a draw."""

import math

from drawing import KINDS, MARGIN, SMALL, Drawing

TOKENS, LOGITS = "xn1i(s0-", (3.2, 2.9, 2.1, 1.7, 0.9, 0.2, -0.5, -1.0)
TEMPERATURE, TOP_K, TOP_P, DRAWN = 0.7, 5, 0.9, 0.62
STEP, WIDE, HIGH, RIGHT = 34, 24, 118, 336


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit) for logit in logits]
    return [each / sum(exponentials) for each in exponentials]


def nucleus(chances: list[float]) -> int:
    """How many of the likeliest make up ``TOP_P``."""
    return next(count for count in range(1, len(chances) + 1) if sum(chances[:count]) >= TOP_P)


def bars(d: Drawing, x: float, base: float, heights: list[float], kinds: list[str]) -> None:
    for n, (height, kind) in enumerate(zip(heights, kinds, strict=True)):
        d.box(x + n * STEP, base - max(height, 0), WIDE, abs(height), kind=kind, radius=2)


def names(d: Drawing, x: float, y: float) -> None:
    for n, token in enumerate(TOKENS):
        d.text(x + n * STEP + WIDE / 2, y, token, mono=True, size=SMALL)


def draw() -> Drawing:
    d = Drawing("How the next token is chosen: logits, temperature, top-k and top-p, a draw", 424)
    tempered = softmax([logit / TEMPERATURE for logit in LOGITS])
    after_k = softmax([logit / TEMPERATURE for logit in LOGITS[:TOP_K]])
    kept = nucleus(after_k)
    tall = HIGH / max(tempered)

    d.text(MARGIN, 26, "1  logits", anchor="start", bold=True)
    bars(d, MARGIN, 128, [28 * logit for logit in LOGITS], ["read"] * 8)
    d.line((MARGIN - 4, 128), (MARGIN + 8 * STEP, 128), width=1.5)
    names(d, MARGIN, 178)

    d.text(RIGHT, 26, f"2  ÷ temperature {TEMPERATURE}, softmax", anchor="start", bold=True, size=SMALL)
    bars(d, RIGHT, 160, [tall * chance for chance in tempered], ["read"] * 8)
    for n, chance in enumerate(softmax(list(LOGITS))):
        y, x = 160 - tall * chance, RIGHT + n * STEP
        d.line((x - 3, y), (x + WIDE + 3, y), color=KINDS["new"][1], width=3)
    d.line((RIGHT + 118, 62), (RIGHT + 142, 62), color=KINDS["new"][1], width=3)
    d.remark(RIGHT + 150, 62, "without it")
    names(d, RIGHT, 178)

    d.text(MARGIN, 222, f"3  top-k {TOP_K}, then top-p {TOP_P}", anchor="start", bold=True)
    cut = ["read"] * kept + ["guess"] * (TOP_K - kept) + ["empty"] * (len(LOGITS) - TOP_K)
    bars(d, MARGIN, 374, [tall * chance for chance in tempered], cut)
    names(d, MARGIN, 392)
    d.legend(258, {"guess": "cut by top-p"}, x=150)
    d.legend(286, {"empty": "cut by top-k"}, x=150)

    d.text(RIGHT, 222, "4  draw", anchor="start", bold=True)
    chances, left, wide = [each / sum(after_k[:kept]) for each in after_k[:kept]], RIGHT, 284
    taken = next(n for n in range(kept) if sum(chances[: n + 1]) > DRAWN)
    for n, chance in enumerate(chances):
        d.box(left, 302, wide * chance, 46, TOKENS[n], "new" if n == taken else "read", mono=True, radius=2)
        left += wide * chance
    at = RIGHT + wide * DRAWN
    d.text(at, 258, f"random number {DRAWN}", size=SMALL)
    d.arrow((at, 272), (at, 300))
    d.remark(RIGHT, 366, "0")
    d.remark(RIGHT + wide, 366, "1", "end")
    return d
