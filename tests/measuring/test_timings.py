"""Tables and plots of what was timed together, from times that are given and not measured."""

import math
import sys

import matplotlib
import pandas
import pytest
from matplotlib import pyplot

from decodeloop import GenerationTimings, Roofline, Timing, Timings, measure_all, prefill_and_decode_all
from decodeloop.measuring.timing import GenerationTiming

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    pyplot.close("all")


def generation(first, *per_token):
    return GenerationTiming(Timing((first,)), Timing(per_token), Timing((first + 10 * per_token[0],)), 11)


TIMES = Timings({"slow": Timing((0.2, 0.3, 0.25)), "fast": Timing((0.1, 0.1, 0.1))})
LOOPS = GenerationTimings({"generate": generation(0.5, 0.04, 0.05, 0.08), "compiled": generation(0.1, 0.01)})


def ends(ax):
    """The x of each piece of the limit's line."""
    return [segment[0][0] for segment in ax.collections[-1].get_segments() if len(segment)]


def test_what_is_measured_together_stays_a_dictionary():
    timings = measure_all({"a": list, "b": dict}, repeats=2)
    assert isinstance(timings, Timings)
    assert timings == dict(timings)
    assert [name for name, timing in timings.items() if timing.median >= 0] == ["a", "b"]
    loops = prefill_and_decode_all({"loop": lambda k: None}, 3, repeats=1)
    assert isinstance(loops, GenerationTimings)
    assert list(loops) == list(loops.table().index) == ["loop"]


def test_a_table_of_times_is_in_milliseconds():
    table = TIMES.table()
    assert list(table.columns) == ["median (ms)", "fastest (ms)", "slowest (ms)", "spread"]
    assert table.loc["slow"].tolist() == pytest.approx([250, 200, 300, 0.4])
    assert TIMES.table(0.05)["share of the limit"].tolist() == pytest.approx([0.2, 0.5])


def test_a_table_of_generations_has_both_phases_and_the_share_of_the_limit():
    table = LOOPS.table(Roofline(weights=500, cache=0, bandwidth=1e5))
    assert list(table.columns) == [
        "first token (ms)",
        "next token (ms)",
        "spread",
        "tokens/s",
        "limit (tokens/s)",
        "share of the limit",
    ]
    assert table.loc["generate"].tolist() == pytest.approx([500, 50, 0.8, 20, 200, 0.1])
    assert table.loc["compiled", "share of the limit"] == pytest.approx(0.5)
    assert list(LOOPS.table().columns) == list(table.columns)[:4]


def test_each_may_have_a_limit_of_its_own():
    table = LOOPS.table({"compiled": 0.005})
    assert table.loc["compiled", "limit (tokens/s)"] == pytest.approx(200)
    assert math.isnan(table.loc["generate", "share of the limit"])


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (0, "limit=0: expected seconds above 0, a Roofline, or these by name"),
        ("1 ms", "limit='1 ms': expected seconds"),
        ({"fast": math.nan}, "limit=nan: expected seconds"),
        ({"fats": 0.1}, r"limit=\{'fats': ...\}: expected names that were timed, \['slow', 'fast'\]"),
    ],
)
def test_what_is_no_limit_is_named(limit, said):
    for show in (TIMES.table, TIMES.plot):
        with pytest.raises(ValueError, match=said):
            show(limit)


def test_names_of_two_parts_can_be_unstacked():
    timings = Timings({(way, n): Timing((n / 10,)) for way in ("with", "without") for n in (1, 2)})
    table = timings.table()["median (ms)"].unstack(0)
    assert table.loc[2, "with"] == pytest.approx(200)
    assert timings.plot().get_yticklabels()[0].get_text() == "with, 1\n100 ms"


def test_a_plot_shows_median_spread_and_limit():
    ax = LOOPS.plot(0.005, title="Loops, CPU")
    assert (ax.get_title(), ax.get_xlabel()) == ("Loops, CPU", "tokens/s (median, and slowest to fastest)")
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([20, 100])
    (whisker,) = (segment for segment in ax.collections[0].get_segments()[:1])
    assert [point[0] for point in whisker] == pytest.approx([1 / 0.08, 1 / 0.04])
    assert ends(ax) == pytest.approx([200, 200])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["generate\n20 tokens/s", "compiled\n100 tokens/s"]


def test_a_plot_of_times_picks_its_unit():
    ax = TIMES.plot({"fast": 0.05})
    assert ax.get_xlabel() == "ms (median, and fastest to slowest)"
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([250, 100])
    assert ends(ax) == pytest.approx([50])  # none at the bar without one
    assert Timings({"a": Timing((2.5,))}).plot().get_xlabel().startswith("s (")


def test_the_legend_is_outside_the_axes():
    ax = LOOPS.plot(0.005)
    ax.figure.canvas.draw()
    assert ax.get_legend() is None
    (legend,) = ax.figure.legends
    assert not legend.get_window_extent().overlaps(ax.get_tightbbox())
    assert not TIMES.plot().figure.legends


@pytest.mark.parametrize("style", [{}, {"font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold"}])
def test_a_long_title_is_not_cut_off(style):
    with pyplot.rc_context(style):
        ax = TIMES.plot(title="Tokens per second, random weights, a model with a long name: Xenova/stories110M")
        ax.figure.canvas.draw()
        title, figure = ax.title.get_window_extent(), ax.figure.bbox
    assert figure.x0 <= title.x0 < title.x1 <= figure.x1
    assert figure.y0 <= title.y0 < title.y1 <= figure.y1


def test_noise_gives_no_speed_and_still_a_plot():
    noisy = GenerationTimings({"noise": generation(0.1, -0.001), "half": generation(0.1, -0.001, 0.01, 0.02)})
    assert noisy.table()["tokens/s"].isna().tolist() == [True, False]
    noisy.plot(0.001).figure.canvas.draw()


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="^pandas is not installed, which a table takes: pip install pandas.$"):
        TIMES.table()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="^matplotlib is not installed, which a plot takes: pip install matplotlib.$"):
        TIMES.plot()


def test_nothing_timed_is_an_empty_table():
    assert isinstance(Timings().table(), pandas.DataFrame)
    assert len(Timings().table()) == 0
