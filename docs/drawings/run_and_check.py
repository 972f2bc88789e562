"""Answers to one exercise, run and checked: a single one, several that are alike, several that differ."""

from drawing import MARGIN, SMALL, WIDTH, Drawing

#: Each way of choosing: its answers, where the same letter is the same text, and whether each passes the check.
WAYS = {"greedy": ("A", "+"), "low temperature": ("AABA", "++-+"), "high temperature": ("CDAE", "--+-")}
KINDS = {"+": "kept", "-": "wrong"}
SIDE, STEP = 40, 62


def draw() -> Drawing:
    d = Drawing("An exercise, answers to it by three ways of choosing tokens, and which of them pass its check", 390)
    d.box(MARGIN, 20, 366, 58, kind="read")
    prompt = 'def solve(n):\n  """Return the divisors of n."""'
    d.text(MARGIN + 12, 49, prompt, anchor="start", mono=True, size=SMALL)
    d.arrow((390, 49), (420, 49))
    d.model(422, 20, WIDTH - MARGIN - 422, 58)
    d.arrow((521, 80), (521, 112))
    for row, (way, (texts, checks)) in enumerate(WAYS.items()):
        y = 118 + row * STEP
        d.text(MARGIN, y + SIDE / 2, way, anchor="start", bold=True)
        d.tokens(438, y, texts, [KINDS[check] for check in checks], width=SIDE, height=SIDE)
        right, different = checks.count("+"), len(set(texts))
        d.remark(232, y + SIDE / 2, f"{right} right, {different} different")
    d.text(MARGIN, 322, "check:  solve(6) == [1, 2, 3, 6]", anchor="start", mono=True, size=SMALL)
    d.legend(358, {"kept": "passes the check", "wrong": "does not"}, step=220)
    return d
