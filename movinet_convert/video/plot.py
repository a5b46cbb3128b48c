"""A picture of how likely the top classes are over a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.errors import MissingExtraError, UsageError, VideoError
from movinet_convert.files.writing import replacing
from movinet_convert.video.predict import Moment, Probabilities, Verdict

# Okabe and Ito's colours, which most colour-blind people can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
CLASSES_SHOWN = 5
ROW_INCHES = (10.0, 3.4)
DOTS_PER_INCH = 120
MAX_ROWS = 100  # a picture has less than 65,536 pixels a side
MAX_POINTS = 4096  # of one video; a picture has a third as many columns
PLOT_SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")


class Timeline:
    """The probabilities over one video, thinned out evenly beyond MAX_POINTS moments.

    However long the video is, MAX_POINTS x classes numbers are in memory.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.verdict = Verdict()
        self.points: list[Moment] = []
        self.window_starts: list[float] = []
        self.peak: Probabilities = np.zeros(0, np.float32)
        self._every = 1
        self._seen = 0

    def add(self, moment: Moment) -> None:
        """Take in the next moment."""
        if self.verdict.add(moment) is not None and len(self.window_starts) < MAX_POINTS:
            self.window_starts.append(moment.start)
        seen_before = self.peak if self._seen else moment.probabilities
        self.peak = np.maximum(seen_before, moment.probabilities)
        if self._seen % self._every == 0:
            # A copy, as what comes is a part of a larger array.
            self.points.append(replace(moment, probabilities=moment.probabilities.copy()))
        if len(self.points) > MAX_POINTS:
            del self.points[1::2]
            self._every *= 2
        self._seen += 1


def check_plotting(path: Path, videos: int) -> None:
    """Whether a plot can be drawn: MissingExtraError, or UsageError for too many videos."""
    _figure_type()
    if videos > MAX_ROWS:
        raise UsageError(
            f"{path} would have {videos} rows, more than {MAX_ROWS}; plot fewer videos at a time."
        )


def plot_timelines(
    path: Path, timelines: Sequence[Timeline], labels: Sequence[str], title: str
) -> None:
    """Write a picture (its type by ``path``'s ending) with one row for each video.

    Shows the classes that lead at any moment first, then the likeliest overall. Raises VideoError
    where the file cannot be written, MissingExtraError without matplotlib; ``path`` is then as it
    was.
    """
    width, height = ROW_INCHES
    figure = _figure_type()(figsize=(width, height * len(timelines) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    rows = figure.subplots(len(timelines), 1, squeeze=False)[:, 0]
    names = distinct_names([timeline.name for timeline in timelines])
    for axes, name, timeline in zip(rows, names, timelines, strict=True):
        _draw(axes, name, timeline, labels)
    try:
        with replacing(path, VideoError) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH)
    except ValueError as error:
        raise VideoError(f"{path} cannot be written ({error}); name a .png or .svg file.") from None


def distinct_names(sources: Sequence[str]) -> list[str]:
    """The file names, each with as many of its folders as tell it from the others."""
    parts = [Path(source).parts or (source,) for source in sources]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = [str(Path(*part[-depth:])) for part in parts]
        if len(set(names)) == len(set(sources)):
            break
    return names if sources else []


def classes_to_show(timeline: Timeline, count: int = CLASSES_SHOWN) -> list[int]:
    """The classes worth a line, the likeliest overall first."""
    final = timeline.verdict.probabilities
    best = np.maximum(timeline.peak, final)
    chosen = np.argsort(-best, kind="stable")[:count]
    return sorted((int(i) for i in chosen), key=lambda i: -final[i])


def _figure_type() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Plotting", "video") from None
    return Figure


def _draw(axes: Any, name: str, timeline: Timeline, labels: Sequence[str]) -> None:
    last = timeline.verdict.last
    assert last is not None
    points = [point.probabilities for point in timeline.points]
    probabilities = np.stack([*points, last.probabilities])
    edges = [*(point.start for point in timeline.points), last.end]
    final = timeline.verdict.probabilities
    for i, colour in zip(classes_to_show(timeline), COLOURS, strict=False):
        label = f"{labels[i]}  {final[i]:.0%}"
        values = probabilities[:, i]
        axes.step(edges, values, where="post", color=colour, linewidth=2, label=label)
    for start in timeline.window_starts:
        axes.axvline(start, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.02), ylabel="probability")
    axes.set_xlabel("seconds")
    axes.set_title(name, loc="left", fontsize=10)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="whole video")
