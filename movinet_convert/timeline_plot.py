"""A picture of how likely the top classes are over a video."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.errors import MissingExtraError, VideoError
from movinet_convert.predict import overall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from movinet_convert.predict import Moment

# Okabe and Ito's colours, which most colour-blind people can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
CLASSES_SHOWN = 5
ROW_INCHES = (10.0, 3.4)
DOTS_PER_INCH = 120


def plot_timelines(
    path: Path, videos: Mapping[str, Sequence[Moment]], labels: Sequence[str], title: str
) -> None:
    """Write a picture (its type by ``path``'s ending) with one row for each video.

    Shows the classes that lead at any moment first, then the likeliest overall. Raises VideoError
    where the file cannot be written, MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Plotting", "video") from None
    width, height = ROW_INCHES
    figure = Figure(figsize=(width, height * len(videos) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    rows = figure.subplots(len(videos), 1, squeeze=False)[:, 0]
    for axes, (name, moments) in zip(rows, videos.items(), strict=True):
        _draw(axes, name, moments, labels)
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        raise VideoError(f"{path} cannot be written ({error}); name a .png or .svg file.") from None


def classes_to_show(moments: Sequence[Moment], count: int = CLASSES_SHOWN) -> list[int]:
    """The classes worth a line, the likeliest overall first."""
    probabilities = np.stack([moment.probabilities for moment in moments])
    best = np.maximum(probabilities.max(axis=0), overall(moments))
    chosen = np.argsort(-best, kind="stable")[:count]
    final = overall(moments)
    return sorted((int(i) for i in chosen), key=lambda i: -final[i])


def _draw(axes: Any, name: str, moments: Sequence[Moment], labels: Sequence[str]) -> None:
    probabilities = np.stack([moment.probabilities for moment in moments])
    edges = [moment.start for moment in moments] + [moments[-1].end]
    final = overall(moments)
    for i, colour in zip(classes_to_show(moments), COLOURS, strict=False):
        values = np.append(probabilities[:, i], probabilities[-1, i])
        label = f"{labels[i]}  {final[i]:.0%}"
        axes.step(edges, values, where="post", color=colour, linewidth=2, label=label)
    for before, after in pairwise(moments):
        if after.window != before.window:
            axes.axvline(after.start, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.02), ylabel="probability")
    axes.set_xlabel("seconds")
    axes.set_title(name, loc="left", fontsize=10)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="whole video")
