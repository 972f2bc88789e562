"""A chat of three turns: with the cache kept, each turn reads only what is new."""

from drawing import MARGIN, Drawing

#: What each side says, in tokens.
PARTS = (("system", 4), ("user", 4), ("answer", 4), ("user", 3), ("answer", 4), ("user", 3), ("answer", 3))
WIDE, STEP, LEFT = 17, 20, 104


def draw() -> Drawing:
    d = Drawing("Three turns of a chat whose cache is kept between them", 352)
    ends = [sum(size for _, size in PARTS[: n + 1]) for n in range(len(PARTS))]
    in_cache = 0  # the last token of an answer was chosen and not read: the next turn reads it
    for turn, answer in enumerate(n for n, (who, _) in enumerate(PARTS) if who == "answer"):
        asked, end, y = ends[answer - 1], ends[answer], 24 + 76 * turn
        kinds = ["kept"] * in_cache + ["read"] * (asked - in_cache) + ["new"] * (end - asked)
        d.text(MARGIN, y + 15, f"turn {turn + 1}", anchor="start", bold=True)
        d.tokens(LEFT, y, end, kinds, width=WIDE, height=30, gap=STEP - WIDE)
        text = f"reads {asked - in_cache} tokens"
        d.remark(LEFT, y + 47, text + (f"; all {asked} without the kept cache" if in_cache else ""))
        in_cache = end - 1
    begin = 0
    for who, size in PARTS:
        x1, x2 = LEFT + begin * STEP, LEFT + (begin + size) * STEP - 4
        d.bracket(x1, x2, 252)
        d.remark((x1 + x2) / 2, 270, who, "middle")
        begin += size
    d.legend(302, {"kept": "kept from the turns before"}, x=LEFT)
    d.legend(330, {"read": "read at once", "new": "written, token by token"}, x=LEFT, step=180)
    return d
