"""Times that were measured together: as a table, and as a plot, beside a limit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from decodeloop.checks import is_real, shown
from decodeloop.optional import load_pandas, load_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from decodeloop.measuring.roofline import Roofline
    from decodeloop.measuring.timing import GenerationTiming, Timing

    Limit: TypeAlias = Roofline | float
    Limits: TypeAlias = Limit | Mapping[Any, Limit]

Name = TypeVar("Name", bound=Hashable)


class Timings(dict[Name, "Timing"]):
    """What :func:`measure_all` returns: a :class:`Timing` for each name, in a dictionary with two methods more.

    Examples
    --------
    >>> import decodeloop
    >>> timings = decodeloop.measure_all({"sum": lambda: sum(range(9)), "max": lambda: max(range(9))}, device="cpu")
    >>> list(timings), [*timings.table().columns]
    (['sum', 'max'], ['median (ms)', 'fastest (ms)', 'slowest (ms)', 'spread'])
    """

    def table(self, limit: Limits | None = None) -> DataFrame:
        """One row for each name, with the units in the column names; nothing is rounded.

        Parameters
        ----------
        limit : Roofline, seconds, or a mapping from names to these, optional
            The least time of a run. A name that a mapping leaves out has no limit.

        Returns
        -------
        pandas.DataFrame
            The median, fastest and slowest time in milliseconds, and the *spread*, which is (slowest - fastest) /
            median. With a limit, that too, and the share of it that was reached: 1 is the limit itself.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            If a limit is not above 0, or of a name that was not timed.
        """
        columns = {
            "median (ms)": [1e3 * timing.median for timing in self.values()],
            "fastest (ms)": [1e3 * timing.min for timing in self.values()],
            "slowest (ms)": [1e3 * timing.max for timing in self.values()],
            "spread": [timing.spread for timing in self.values()],
        }
        if limit is not None:
            least = _limits(self, limit)
            columns["limit (ms)"] = [1e3 * seconds for seconds in least]
            columns["share of the limit"] = _shares(least, self.values())
        return _frame(self, columns)

    def plot(self, limit: Limits | None = None, *, title: str = "Time of a run") -> Axes:
        """A bar for each median, with whiskers from the fastest to the slowest run, in a figure of its own.

        Parameters
        ----------
        limit
            As in :meth:`table`: a line that no bar can be shorter than.
        title
            What was timed, and on what.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError, ValueError
            As :meth:`table`, for matplotlib.
        """
        least = None if limit is None else _limits(self, limit)
        slowest = max((timing.max for timing in self.values()), default=1.0)
        scale, unit = next((each for each in _UNITS if slowest * each[0] >= 1), _UNITS[-1])
        bars = [tuple(scale * t for t in (timing.median, timing.min, timing.max)) for timing in self.values()]
        limits = None if least is None else [scale * seconds for seconds in least]
        return _bars(list(self), bars, limits, unit, title, f"{unit} (median, and fastest to slowest)")


class GenerationTimings(dict[Name, "GenerationTiming"]):
    """What :func:`prefill_and_decode_all` returns: a :class:`GenerationTiming` for each name, with two methods more.

    Both take tokens per second as those of one row: with 16 rows in a batch, all rows together write 16 times as many.
    """

    def table(self, limit: Limits | None = None) -> DataFrame:
        """One row for each loop, with the units in the column names; nothing is rounded.

        Parameters
        ----------
        limit : Roofline, seconds, or a mapping from names to these, optional
            The least time of a decode step. A name that a mapping leaves out has no limit.

        Returns
        -------
        pandas.DataFrame
            The median time to the first token and that of each further one, in milliseconds; the *spread* of the
            latter, which is (slowest - fastest) / median; tokens per second after the first. With a limit, that too,
            and the share of it that was reached: 1 is the limit itself.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            If a limit is not above 0, or of a name that was not timed.
        """
        decodes = [timing.decode for timing in self.values()]
        columns = {
            "first token (ms)": [1e3 * timing.prefill.median for timing in self.values()],
            "next token (ms)": [1e3 * decode.median for decode in decodes],
            "spread": [decode.spread for decode in decodes],
            "tokens/s": [_speed(decode.median) for decode in decodes],
        }
        if limit is not None:
            least = _limits(self, limit)
            columns["limit (tokens/s)"] = [_speed(seconds) for seconds in least]
            columns["share of the limit"] = _shares(least, decodes)
        return _frame(self, columns)

    def plot(self, limit: Limits | None = None, *, title: str = "Tokens per second") -> Axes:
        """A bar for each loop's tokens per second, with whiskers from the slowest to the fastest run.

        Parameters
        ----------
        limit
            As in :meth:`table`: a line that no bar can reach beyond.
        title
            What was timed, and on what.

        Returns
        -------
        matplotlib.axes.Axes
            In a figure of its own.

        Raises
        ------
        ImportError, ValueError
            As :meth:`table`, for matplotlib.
        """
        decodes = [timing.decode for timing in self.values()]
        bars = [(_speed(d.median), _speed(d.max), _speed(d.min)) for d in decodes]
        limits = None if limit is None else [_speed(seconds) for seconds in _limits(self, limit)]
        return _bars(list(self), bars, limits, "tokens/s", title, "tokens/s (median, and slowest to fastest)")


_UNITS = ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))


def _speed(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else math.nan  # noise may be longer than what it hides


def _limits(timings: Mapping[Any, Any], limit: Any) -> list[float]:
    """The least seconds of each; not a number where there is no limit."""
    each = limit if isinstance(limit, Mapping) else dict.fromkeys(timings, limit)
    for name in each:
        if name not in timings:
            raise ValueError(f"limit={{{name!r}: ...}}: expected names that were timed, {shown(list(timings))}.")
    found: dict[Any, Any] = {name: getattr(value, "seconds", value) for name, value in each.items()}
    for name, seconds in found.items():
        if not (is_real(seconds) and seconds > 0):
            raise ValueError(f"limit={shown(each[name])}: expected seconds above 0, a Roofline, or these by name.")
    return [float(found.get(name, math.nan)) for name in timings]


def _shares(least: list[float], timings: Any) -> list[float]:
    return [seconds * _speed(timing.median) for seconds, timing in zip(least, timings, strict=True)]


def _frame(timings: Mapping[Any, Any], columns: dict[str, list[float]]) -> DataFrame:
    pandas = load_pandas()
    paired = timings and all(isinstance(name, tuple) for name in timings)
    index = pandas.MultiIndex.from_tuples(timings) if paired else pandas.Index(list(timings))
    return pandas.DataFrame(columns, index=index)


def _bars(
    names: list[Any],
    bars: list[Any],
    limits: list[float] | None,
    unit: str,
    title: str,
    xlabel: str,
) -> Axes:
    """Horizontal bars, each ``(length, lowest, highest)``; its value stands with its name, where it hides nothing."""
    pyplot = load_pyplot()
    lengths, lowest, highest = zip(*bars, strict=True) if bars else ((), (), ())
    labels = [f"{_label(name)}\n{_number(length)} {unit}" for name, length in zip(names, lengths, strict=True)]
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    figure, ax = pyplot.subplots(figsize=(5.5, 1.6 + 0.22 * lines * len(names)), layout="constrained")
    below = [length - low for length, low in zip(lengths, lowest, strict=True)]
    above = [high - length for length, high in zip(lengths, highest, strict=True)]
    places = range(len(names))
    ax.barh(places, lengths, height=0.6, xerr=(below, above), ecolor="gray", capsize=3)
    if limits:
        ends = [place + half for place in places for half in (-0.5, 0.5)]
        ax.vlines(limits, ends[::2], ends[1::2], linestyle="--", color="C1", label="limit")
        figure.legend(loc="outside lower center", frameon=False)
    ax.set_yticks(places, labels)
    ax.set(xlabel=xlabel)
    ax.set_title(title, wrap=True)  # a model's name is long, and the axes begin behind the labels
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    return ax


def _label(name: Any) -> str:
    text = ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
    return textwrap.fill(text, 24)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
