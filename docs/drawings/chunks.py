"""A prompt in chunks: what each pass reads and finds in the cache; and which keys a sliding window leaves."""

from drawing import KINDS, MARGIN, SMALL, Drawing

LENGTH, CHUNK, SIDE = 12, 4, 30
TEXT, WINDOW, SQUARE = 8, 3, 20


def draw() -> Drawing:
    d = Drawing("A prompt read in three chunks; the masks of full attention and of a sliding window", 482)
    d.text(MARGIN, 26, f"chunked prefill: {LENGTH} tokens, {CHUNK} at a time", anchor="start", bold=True)
    for number, begin in enumerate(range(0, LENGTH, CHUNK)):
        y = 48 + number * 40
        kinds = ["kept"] * begin + ["read"] * CHUNK + ["empty"] * (LENGTH - begin - CHUNK)
        d.text(MARGIN, y + SIDE / 2, f"pass {number + 1}", anchor="start", size=SMALL)
        d.tokens(96, y, LENGTH, kinds, width=SIDE, height=SIDE)
    d.legend(184, {"read": f"new tokens of a pass: {CHUNK}", "kept": "cache: grows"}, step=300)
    d.line((MARGIN, 208), (620, 208), color=KINDS["plain"][1], width=1)
    for x, title, window in ((96, "full attention", TEXT), (392, f"window of {WINDOW}", WINDOW)):
        d.text(x, 234, title, anchor="start", bold=True)
        for query in range(TEXT):
            for key in range(query + 1):
                kind = "empty" if key <= query - window else "new" if key == query else "kept"
                d.box(x + key * (SQUARE + 3), 256 + query * (SQUARE + 3), SQUARE, SQUARE, kind=kind, radius=3)
    d.text(MARGIN, 266, "query 1", anchor="start", size=SMALL)
    d.text(MARGIN, 266 + (TEXT - 1) * (SQUARE + 3), f"query {TEXT}", anchor="start", size=SMALL)
    d.legend(460, {"kept": "key that is seen", "new": "its own", "empty": "too far back"}, x=96, step=180)
    return d
