"""A plot of the top classes' probabilities over a video."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.files.extras import missing_extra
from movinet_convert.files.writing import replacing
from movinet_convert.video.fonts import families, font_file
from movinet_convert.video.predict import Moment, Probabilities, Verdict

# Okabe and Ito's palette, distinguishable with most kinds of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
STYLES = ("solid", "dashed", "dotted", "dashdot")  # for more classes than colours
CLASSES_SHOWN = 5
MOMENTARY = 2  # classes that are not among these, but have more than half at some moment
ROW_INCHES = (10.0, 3.4)
DOTS_PER_INCH = 120
LEGEND_CHARACTERS = 28  # of a line
MAX_ROWS = 100  # matplotlib's images have fewer than 65,536 pixels per side
MAX_POINTS = 4096  # per video, more than a row has pixels
PLOT_SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")


class Timeline:
    """The probabilities over one video, thinned out evenly to at most MAX_POINTS moments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.verdict = Verdict()
        self.points: list[Moment] = []
        self.window_starts: list[float] = []
        self.peak: Probabilities = np.zeros(0, np.float32)
        self._every = 1
        self._seen = 0

    def add(self, moment: Moment) -> None:
        """Add the next moment."""
        if self.verdict.add(moment) is not None and len(self.window_starts) < MAX_POINTS:
            self.window_starts.append(moment.start)
        seen_before = self.peak if self._seen else moment.probabilities
        self.peak = np.maximum(seen_before, moment.probabilities)
        if self._seen % self._every == 0:
            # A copy, since it is a view of a larger array.
            self.points.append(replace(moment, probabilities=moment.probabilities.copy()))
        if len(self.points) > MAX_POINTS:
            del self.points[1::2]
            self._every *= 2
        self._seen += 1

    def leaders(self) -> list[int]:
        """The top classes of the whole video, and those with more than half at some moment."""
        top = leaders(self.verdict.probabilities)
        momentary = [i for i in leaders(self.peak) if i not in top and self.peak[i] > 0.5]
        return top + momentary[:MOMENTARY]


def leaders(probabilities: Probabilities) -> list[int]:
    """The CLASSES_SHOWN classes with the highest values (classes,), the highest first."""
    return [int(i) for i in np.argsort(-probabilities, kind="stable")[:CLASSES_SHOWN]]


def check_plotting(path: Path, videos: int) -> None:
    """Raise MissingExtraError without matplotlib, UsageError for too many videos."""
    figure_type()
    if videos > MAX_ROWS:
        raise UsageError(
            f"{path} would have {videos} rows, more than {MAX_ROWS}; plot fewer videos at a time."
        )


def plot_timelines(
    path: Path, timelines: Sequence[Timeline], labels: Sequence[str], title: str
) -> None:
    """Write an image (in the format of the suffix of ``path``) with one row per video.

    Raises VideoError if it cannot be written, MissingExtraError without matplotlib; ``path`` is
    then unchanged.
    """
    width, height = ROW_INCHES
    figure = figure_type()(figsize=(width, height * len(timelines) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    names = distinct_names([timeline.name for timeline in timelines])
    axes = figure.subplots(len(timelines), 1, squeeze=False)[:, 0]
    shown = dict.fromkeys(i for timeline in timelines for i in timeline.leaders())
    # One look for each class, the same in every row.
    looks = dict(zip(shown, cycle(product(STYLES, COLOURS)), strict=False))
    for ax, name, timeline in zip(axes, names, timelines, strict=True):
        _draw(ax, name, timeline, labels, looks)
    for i in shown:
        font_file(labels[i])  # warns of characters that no font has
    try:
        with replacing(path, VideoError) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(temporary, dpi=DOTS_PER_INCH)
    except ValueError as error:
        raise VideoError(f"{path} cannot be written ({error}); name a .png or .svg file.") from None


def distinct_names(sources: Sequence[str]) -> list[str]:
    """The file names, with as many parent folders as needed to distinguish them."""
    parts = [Path(source).parts or (source,) for source in sources]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = [str(Path(*part[-depth:])) for part in parts]
        if len(set(names)) == len(set(sources)):
            break
    return names if sources else []


def figure_type() -> Any:
    """matplotlib's Figure; MissingExtraError where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("Plotting", "video") from None
    return Figure


def _draw(
    ax: Any,
    name: str,
    timeline: Timeline,
    labels: Sequence[str],
    looks: Mapping[int, tuple[str, str]],
) -> None:
    """Draw the leaders of a video, which the legend lists with those of the whole video first."""
    last, final = timeline.verdict.last, timeline.verdict.probabilities
    assert last is not None
    edges = [*(point.start for point in timeline.points), last.end]
    curves = np.stack([*(point.probabilities for point in timeline.points), last.probabilities])
    for i in timeline.leaders():
        label = f"{textwrap.fill(labels[i], LEGEND_CHARACTERS, max_lines=3)}  {final[i]:.0%}"
        style, colour = looks[i]
        ax.step(
            *(edges, curves[:, i]),
            where="post",
            linewidth=2,
            label=label,
            linestyle=style,
            color=colour,
        )
    for start in timeline.window_starts:
        ax.axvline(start, color="0.8", linewidth=1, zorder=0)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.02), xlabel="seconds", ylabel="probability")
    ax.set_title(name, loc="left", fontsize=10)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.grid(axis="y", color="0.92")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        title="whole video",
        prop={"family": families()},
    )
