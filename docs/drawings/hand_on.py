"""From a fine-tuned checkpoint to the folder that is handed on."""

from drawing import SMALL, SOFT, Drawing

STEPS = (
    ("checkpoint", "config, weights,\ntokenizer", "plain"),
    ("try it", "does it write\nwhat it should?", "model"),
    ("graph", "fused, for\nONNX Runtime", "read"),
    ("proof", "beside the model:\nsame logits?", "model"),
    ("8 or 4 bits", "may change tokens:\nmeasure how many", "guess"),
    ("folder", "graph, tokenizer,\nsettings", "kept"),
)
WIDE, HIGH, STEP = 188, 104, 206


def draw() -> Drawing:
    d = Drawing("A checkpoint becomes a graph, is proved, gets fewer bits, and is handed on", 296)
    for n, (name, what, kind) in enumerate(STEPS):
        column, row = n % 3, n // 3
        x, y = 20 + column * STEP, 20 + row * 152
        d.box(x, y, WIDE, HIGH, kind=kind, radius=10)
        d.text(x + WIDE / 2, y + 26, f"{n + 1}  {name}", bold=True)
        d.text(x + WIDE / 2, y + 68, what, size=SMALL)
        if column < 2:
            d.arrow((x + WIDE + 1, y + HIGH / 2), (x + STEP - 2, y + HIGH / 2))
    down = 20 + 2 * STEP + WIDE / 2
    d.arrow((down, 20 + HIGH + 2), (down, 148), (114, 148), (114, 170), color=SOFT)
    return d
