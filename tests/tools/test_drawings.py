"""The drawings of the pages: each page's is there, its text is large and dark enough, and nothing stands on another."""

import itertools
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from book import with_joined_options
from drawing import SMALL, WIDTH, Drawing, load_drawings, write_drawings
from PIL import ImageFont

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")  # DejaVu, as wide as any that a reader may have
NAMES = sorted(load_drawings())
STYLE = (ROOT / "docs" / "_static" / "book.css").read_text()
DARK = re.compile(r'\[data-theme="dark"\] [^{]*img\.drawing \{[^}]*filter: invert\(([\d.]+)\) hue-rotate\(180deg\);')


def elements(name):
    return list(ElementTree.fromstring(load_drawings()[name].svg()))


def luminance(color):
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """As WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def in_dark_theme(color):
    """What docs/_static/book.css makes of a colour there, as the specification of filters defines it."""
    turned = float(DARK.search(STYLE)[1])
    r, g, b = (turned + (1 - 2 * turned) * int(color[n : n + 2], 16) / 255 for n in (1, 3, 5))
    lr, lg, lb = 0.213, 0.715, 0.072
    hues = (
        (lr - (1 - lr)) * r + 2 * lg * g + 2 * lb * b,
        2 * lr * r + (lg - (1 - lg)) * g + 2 * lb * b,
        2 * lr * r + 2 * lg * g + (lb - (1 - lb)) * b,
    )
    return "#" + "".join(f"{round(255 * min(max(part, 0), 1)):02x}" for part in hues)


def box_of(rect):
    x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


@cache
def font(mono, bold):
    return ImageFont.truetype(FONTS / f"DejaVuSans{'Mono' if mono else ''}{'-Bold' if bold else ''}.ttf", 100)


def text_box(text):
    """Where a text's letters are, about."""
    size, x, base = (float(text.get(key)) for key in ("font-size", "x", "y"))
    shown = font("mono" in text.get("font-family", ""), text.get("font-weight") is not None)
    wide = shown.getlength(text.text) * size / 100
    left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
    return left, base - 0.75 * size, left + wide, base + 0.2 * size


def apart(one, other, slack=1.0):
    return any(one[n] >= other[n + 2] - slack or other[n] >= one[n + 2] - slack for n in (0, 1))


def ground(shapes, text):
    """The rectangle that a text stands on: the last one that was drawn under its middle."""
    left, top, right, bottom = text_box(text)
    middle = (left + right) / 2, (top + bottom) / 2
    under = [box for box, rect in shapes if box[0] <= middle[0] <= box[2] and box[1] <= middle[1] <= box[3]]
    fills = [rect.get("fill") for box, rect in shapes if box in under]
    return under[-1], fills[-1]


def test_every_page_shows_a_drawing_that_is_there_and_no_drawing_is_left_over():
    pages = {path.name: path.read_text() for path in (ROOT / "gallery").glob("plot_*.py")}
    shown = {page: re.findall(r"image:: /drawings/([\w-]+)\.svg", text) for page, text in pages.items()}
    assert [page for page, names in shown.items() if not names] == []
    assert sorted({name for names in shown.values() for name in names}) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_text_is_large_enough_on_a_phone(name):
    shapes = elements(name)
    sizes = [float(each.get("font-size")) for each in shapes if each.tag == f"{SVG}text"]
    assert min(sizes) >= SMALL
    assert SMALL * 350 / WIDTH >= 9  # pixels where a phone shows it 350 wide


@pytest.mark.parametrize("name", NAMES)
def test_text_contrasts_with_what_it_stands_on_in_both_themes(name):
    rects = []
    for each in elements(name):
        if each.tag == f"{SVG}rect":
            rects.append((box_of(each), each))
        elif each.tag == f"{SVG}text":
            _, fill = ground(rects, each)
            color = each.get("fill")
            assert contrast(color, fill) >= 4.5, each.text
            assert contrast(in_dark_theme(color), in_dark_theme(fill)) >= 4.5, each.text


@pytest.mark.parametrize("name", NAMES)
def test_text_stays_within_its_box_and_off_other_text(name):
    rects, texts = [], []
    for each in elements(name):
        if each.tag == f"{SVG}rect":
            rects.append((box_of(each), each))
        elif each.tag == f"{SVG}text":
            box, (on, _) = text_box(each), ground(rects, each)
            assert on[0] <= box[0] + 1, each.text
            assert on[1] <= box[1] + 1, each.text
            assert box[2] <= on[2] + 1, each.text
            assert box[3] <= on[3] + 1, each.text
            texts.append((each.text, box))
    for (one, first), (other, second) in itertools.combinations(texts, 2):
        assert apart(first, second), (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_stay_within_the_drawing(name):
    (panel, *rest) = [box_of(each) for each in elements(name) if each.tag == f"{SVG}rect"]
    assert panel[:3] == (0, 0, WIDTH)
    assert all(box[0] >= 4 and box[1] >= 0 and box[2] <= WIDTH - 4 and box[3] <= panel[3] for box in rest)


def test_drawings_are_written_to_a_builds_sources(tmp_path):
    write_drawings(tmp_path)
    assert sorted(path.stem for path in (tmp_path / "drawings").glob("*.svg")) == NAMES
    for path in (tmp_path / "drawings").glob("*.svg"):
        assert ElementTree.parse(path).getroot().find(f"{SVG}title").text


def test_marks_of_xml_in_a_label_are_text():
    drawing = Drawing("a < b & c", 40)
    drawing.text(20, 20, "<eos> & more")
    root = ElementTree.fromstring(drawing.svg())
    assert [each.text for each in root.iter(f"{SVG}text")] == ["<eos> & more"]


def test_an_images_options_come_on_one_line_each_for_notebooks():
    image = [".. image:: /drawings/x.svg", '   :alt: A "loop"', "     of two lines.", "   :class: drawing"]
    joined = [image[0], "   :alt: A &quot;loop&quot; of two lines.", image[3]]
    around = "Words.\n\n{}\n\nMore\n   :x\n"
    assert with_joined_options(around.format("\n".join(image))) == around.format("\n".join(joined))
    assert with_joined_options(around.format("\n".join(joined))) == around.format("\n".join(joined))
