"""What each pass computes with a cache and without one: the same text, position by position."""

from drawing import MARGIN, SMALL, Drawing

PROMPT, STEPS, SIDE = 4, 3, 30  # tokens, passes, units


def draw() -> Drawing:
    d = Drawing("Positions computed in prefill and three decode steps, with a KV cache and without one", 340)
    grids = {True: 118, False: 386}  # with a cache, and without: where they begin
    for cached, left in grids.items():
        d.text(left, 26, "with a KV cache" if cached else "without", anchor="start", bold=True)
        computed = 0
        for step in range(STEPS + 1):
            length, top = PROMPT + step, 50 + step * 42
            fresh = PROMPT if step == 0 else 1 if cached else length
            kinds = ["kept"] * (length - fresh) + ["read"] * fresh
            for position in range(length):
                if position >= PROMPT and kinds[position] == "read":
                    kinds[position] = "new"
            end = d.tokens(left, top, length, kinds, width=SIDE, height=SIDE)
            d.tokens(end, top, PROMPT + STEPS - length, "empty", width=SIDE, height=SIDE)
            computed += fresh
            if cached:
                d.text(MARGIN, top + SIDE / 2, f"step {step}" if step else "prefill", anchor="start", size=SMALL)
        d.bracket(left, left + (PROMPT + STEPS) * (SIDE + 4) - 4, 228, f"{computed} tokens computed")
    d.legend(282, {"read": "read now: prompt", "new": "read now: new token"}, step=218)
    d.legend(314, {"kept": "key and value are in the cache", "empty": "not yet written"}, step=318)
    return d
