"""How the site looks: its HTML is mended, plots are described and readable in both themes, and the browser tells."""

from pathlib import Path

import alt_text
import browser
import finish
import pytest
from links import broken_links
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
BACKGROUNDS = {"light": "ffffff", "dark": "14181e"}  # of the theme, pydata-sphinx-theme


def page(text: str, at: Path = Path("page.html")) -> str:
    return finish.finish(text, at)


def test_there_is_one_viewport():
    first = '<meta name="viewport" content="a" />'
    assert page(f'<head>{first}<meta name="viewport" content="b"/></head>') == f"<head>{first}</head>"


def test_a_thumbnail_says_where_it_leads():
    link = '<p><a class="reference internal" href="x.html"><span class="doc">Where is <code>"x"</code>?</span></a></p>'
    assert 'aria-label="Where is &quot;x&quot;?" href' in page(f'<div class="sphx-glr-thumbcontainer">{link}</div>')


def test_an_empty_header_is_a_plain_cell():
    assert page('<tr><th></th><th class="head"><p></p></th><th>a</th></tr>') == (
        '<tr><td></td><td class="head"></td><th>a</th></tr>'
    )


def test_a_signature_is_a_list_of_parameters():
    given = "<dl>\n<dd><em>a</em>,</dd>\n<dd><em>b</em></dd>\n</dl>"
    assert page(given) == '<ul class="signature"><li><em>a</em>,</li>\n<li><em>b</em></li>\n</ul>'
    definitions = "<dl>\n<dt>a</dt><dd>b</dd>\n</dl>"
    assert page(definitions) == definitions


def test_a_plot_has_its_size_and_a_box(tmp_path):
    Image.new("RGB", (640, 320)).save(tmp_path / "measured_on_plot_x.png", dpi=(160, 160))
    shown = page('<img alt="a" src="./measured_on_plot_x.png" style="width: 75%;" />', tmp_path / "page.html")
    assert shown.startswith('<span class="plot"><img alt="a"')
    assert 'width="400" height="200"' in shown
    assert 'style="--width: 400px; width: 75%;"' in shown
    photo = '<img src="./photo.png" />'
    assert page(photo, tmp_path / "page.html") == photo


def test_a_plot_is_described():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2, 3], [3, 5.5, float("nan")], label="fused")  # a line that ends early
    left.axhline(1)  # of which the legend says nothing
    left.set(title='Time of\na "step"', xlabel="rows", ylabel="ms")
    right.barh(["x", "y"], [3, 4])
    right.plot([5, 6], ["x", "y"], "|", label="limit")
    assert alt_text.describe(figure) == (
        'Time of a "step". Axes, horizontal: rows, vertical: ms. Lines, from left to right: fused: 3 to 5.5. '
        "Marks, limit: x: 5; y: 6. Bars: x: 3; y: 4."
    )
    figure.set_label("What the page says.")
    assert alt_text.describe(figure) == "What the page says."
    plt.close(figure)


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def in_the_dark(rgb: list[float]) -> list[float]:
    """What ``filter: invert(1) hue-rotate(180deg)`` makes of a colour, by the matrices of CSS's filter effects."""
    turned = [[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]]
    inverted = [1 - value for value in rgb]
    mixed = [sum(a * b for a, b in zip(row, inverted, strict=True)) for row in turned]
    return [min(max(value, 0), 1) for value in mixed]


def luminance(rgb: list[float]) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[float], other: list[float]) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_and_lines_of_plots_stand_out_in_both_themes():
    assert "invert(1) hue-rotate(180deg)" in (DOCS / "_static" / "book.css").read_text()
    matplotlib = pytest.importorskip("matplotlib")
    style = matplotlib.rc_params_from_file(DOCS / "figures.mplstyle")
    keys = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    colours = [style[key] for key in keys] + style["axes.prop_cycle"].by_key()["color"]
    for colour in (channels(colour.lstrip("#")) for colour in colours):
        assert contrast(colour, channels(BACKGROUNDS["light"])) >= 4.5
        assert contrast(in_the_dark(colour), channels(BACKGROUNDS["dark"])) >= 4.5


def test_links_are_followed_to_files_and_places(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text('<a href="sub/b.html#here">b</a><a href="#top">top</a><p id="top">')
    (tmp_path / "sub" / "b.html").write_text(
        '<p id="here"><a href="../a.html#gone"></a><img src="none.png" srcset="none.png, ../a.html 2x">'
        '<a href="https://example.org/x">elsewhere</a><a href="/a.html"></a>'
    )
    assert broken_links(tmp_path) == [
        "sub/b.html: ../a.html#gone: no such place in the page",
        "sub/b.html: none.png: no such file",
    ]


def test_the_report_counts_by_rule_and_names_places():
    wrong = [("sideways scroll", f"{name}.html (phone, light)", "table") for name in "ab"]
    assert browser.report([*wrong, ("console", "a.html (desk, dark)", "no such file")]).splitlines() == [
        "sideways scroll: 2 on 2 pages",
        "    2 x table    first on a.html (phone, light)",
        "console: 1 on 1 pages",
        "    1 x no such file    first on a.html (desk, dark)",
    ]


def test_without_a_browser_nothing_is_checked_and_that_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / "index.html").write_text("")
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    assert browser.main([str(tmp_path)]) == 0
    assert "Skipped: none of chromium" in capsys.readouterr().out


BAD = """<!DOCTYPE html><html lang="en"><head><title>bad</title>
<meta name="viewport" content="width=device-width" /></head><body><main class="bd-article-container">
<h1>Bad</h1><img src="nothing.png"><table style="width: 1000px"><tr><td>wide</td></tr></table>
<img alt="" src="http://192.0.2.1/x.png"></main></body></html>"""


@pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium is installed")
def test_a_bad_page_is_told_from_a_good_one(tmp_path, capsys):
    pytest.importorskip("playwright")
    pytest.importorskip("axe_playwright_python")
    (tmp_path / "index.html").write_text(BAD)
    assert browser.main([str(tmp_path)]) == 1
    report = capsys.readouterr().out
    for rule in ("axe: image-alt (critical)", "sideways scroll: 2", "external request: 4", "console", "broken link: 1"):
        assert rule in report
    (tmp_path / "index.html").write_text(
        '<!DOCTYPE html><html lang="en"><head><title>good</title><link rel="icon" href="data:,"></head>'
        "<body><main><h1>Good</h1></main></body></html>"
    )
    assert browser.main([str(tmp_path)]) == 0
