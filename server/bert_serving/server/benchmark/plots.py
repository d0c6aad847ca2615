"""A picture of each sweep: sentences per second, and below it how long a request takes. Matplotlib is here only."""
from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from .load import BenchmarkError
from .report import BenchmarkResult, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#1f2933", "#d9dee3"
SPEED, MEDIAN, SLOWEST = "#2563eb", "#2563eb", "#d97706"


def check() -> None:
    """
    Raises:
        BenchmarkError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise BenchmarkError("-plot needs matplotlib; install it, or './server[plot]'")


def draw(result: BenchmarkResult, about: str, path: Path) -> None:
    """Write the picture of a sweep, as the name's ending says: .png, .svg, .pdf.

    Args:
        about: one line on what was measured.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import FuncFormatter, NullFormatter

    points = result.measured
    values = [point.setting.value for point in points]
    places = range(len(points))  # evenly spaced, whatever the values: mostly they double, or count down
    picture = Figure(figsize=(7, 6), layout="constrained")
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    medians = [point.speed.median for point in points]
    above.fill_between(places, [point.speed.min for point in points], [point.speed.max for point in points],
                       color=SPEED, alpha=0.18, linewidth=0, label="least to most of the runs")
    above.plot(places, medians, color=SPEED, marker="o", label="median")
    _label(above, medians, 8)
    above.set_ylim(0, max(point.speed.max for point in points) * 1.3)  # room for the legend
    above.set_ylabel("sentences/s")
    halves, slowest = ([point.latency(percent) for point in points] for percent in (50, 99))
    below.plot(places, slowest, color=SLOWEST, marker="s", label="99 % of the requests")
    below.plot(places, halves, color=MEDIAN, marker="o", label="half of the requests")
    _label(below, slowest, 8)
    _label(below, halves, -15)
    below.set_yscale("log")
    below.set_ylim(min(halves) / 2.5, max(slowest) * 6)
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_ylabel("answered within ms")
    below.set_xlabel(result.name)
    below.set_xticks(places, [str(value) for value in values])
    for axes in (above, below):
        axes.grid(axis="y", color=GRID)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    picture.suptitle("\n".join(wrap(about, 100)), fontsize=9, color=INK)
    picture.savefig(path, dpi=120)


def _label(axes: Axes, heights: Sequence[float], above: int) -> None:
    """Write each height so many points above its marker."""
    for place, height in enumerate(heights):
        axes.annotate(figure(height), (place, height), xytext=(0, above), textcoords="offset points", ha="center",
                      color=INK, fontsize=8)
