"""What a plot shows, in words, for those who do not see it: written while its data is at hand, when the page runs.

Sphinx-Gallery's own alternative text is the title alone. A page that can say it better gives its figure a label:
``figure.set_label("...")``.
"""

import re

MOST = 8  # lines or bars that are told one by one


def scrape(block, block_vars: dict, gallery_conf: dict) -> str:
    """Sphinx-Gallery's image scraper: matplotlib's, with the plots described."""
    import matplotlib.pyplot as plt
    from sphinx_gallery.scrapers import matplotlib_scraper

    texts = iter([describe(plt.figure(number)) for number in plt.get_fignums()])
    rst = matplotlib_scraper(block, block_vars, gallery_conf)
    return re.sub(r"(:alt:).*", lambda found: f"{found[1]} {next(texts)}", rst)


def describe(figure) -> str:
    """One line: the titles, what the axes are, and where each line or bar begins and ends."""
    if figure.get_label():
        return one_line(figure.get_label())
    parts = [figure.get_suptitle()]
    for axes in figure.axes:
        if axes.get_visible():
            parts += [axes.get_title(loc=place) for place in ("left", "center", "right")]
            parts += _axes(axes)
    return " ".join(f"{text.rstrip('.:')}." for text in map(one_line, parts) if text) or "A plot."


def one_line(text: str) -> str:
    return " ".join(text.split())


def _axes(axes) -> list[str]:
    names = {"horizontal": axes.get_xlabel(), "vertical": axes.get_ylabel()}
    shown = ", ".join(f"{name}: {label}" for name, label in names.items() if label)
    return [f"Axes, {shown}" if shown else "", *_lines(axes), *_bars(axes), *_points(axes)]


def _lines(axes) -> list[str]:
    told, marks = [], []
    for line in axes.get_lines():
        across, up, label = line.get_xdata(), line.get_ydata(), line.get_label()
        if label.startswith("_") or not len(up):
            continue
        if any(isinstance(place, str) for place in up):  # a mark in each row of horizontal bars
            lengths = map(_number, line.get_xdata(orig=False))
            marks += _some(f"Marks, {label}", [f"{at}: {length}" for at, length in zip(up, lengths, strict=True)])
            continue
        heights = [height for height in line.get_ydata(orig=False) if height == height]  # as numbers, without gaps
        if not heights:
            continue
        told.append(f"{label}: {_number(heights[0])} to {_number(heights[-1])}" if len(across) > 1 else label)
    return [*_some("Lines, from left to right", told), *marks]


def _bars(axes) -> list[str]:
    found = []
    for bars in axes.containers:
        patches = [patch for patch in bars if hasattr(patch, "get_height")]
        flat = getattr(bars, "orientation", "vertical") == "horizontal"
        lengths = [patch.get_width() if flat else patch.get_height() for patch in patches]
        places = [patch.get_y() + patch.get_height() / 2 if flat else _middle(patch) for patch in patches]
        names = _names(axes.yaxis if flat else axes.xaxis, places)
        label = bars.get_label() if not bars.get_label().startswith("_") else ""
        told = [f"{name}: {_number(length)}" for name, length in zip(names, lengths, strict=True)]
        found += _some(f"Bars, {label}" if label else "Bars", told)
    return found


def _points(axes) -> list[str]:
    labels = [each.get_label() for each in axes.collections if not each.get_label().startswith("_")]
    return _some("Points", labels)


def _middle(patch) -> float:
    return patch.get_x() + patch.get_width() / 2


def _names(axis, places: list[float]) -> list[str]:
    """What stands at each place of an axis: its tick's text, else its value."""
    ticks = list(zip(axis.get_ticklocs(), (text.get_text() for text in axis.get_ticklabels()), strict=False))
    near = [[text for at, text in ticks if abs(at - place) < 0.5 and text] for place in places]
    return [texts[0] if texts else _number(place) for texts, place in zip(near, places, strict=True)]


def _some(what: str, told: list[str]) -> list[str]:
    if not told:
        return []
    more = f", and {len(told) - MOST} more" if len(told) > MOST else ""
    return [f"{what}: {'; '.join(told[:MOST])}{more}"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
