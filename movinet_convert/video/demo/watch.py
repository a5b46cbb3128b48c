"""Predictions of a video file, and what the page shows of them meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np

from movinet_convert.errors import VideoError
from movinet_convert.video.demo.live import Live
from movinet_convert.video.plot import Timeline, leaders
from movinet_convert.video.predict import Moment, Predictor, Probabilities

REFRESH_SECONDS = 0.15  # between two views of a video that is being read


@dataclass(frozen=True)
class View:
    """What the page shows: a prediction, and the moments so far.

    ``shown`` are the classes of the timeline, ``starts`` the times at which windows began. Only
    the last view of a video is ``complete``.
    """

    heading: str
    predictor: Predictor
    probabilities: Probabilities
    moments: Sequence[Moment]
    end: float
    shown: Sequence[int]
    starts: Sequence[float]
    note: str | None = None
    complete: bool = False

    @property
    def milliseconds(self) -> float:
        """Of the network, per frame: the median of the moments."""
        return 1000 * median(moment.seconds_per_frame for moment in self.moments)


def watch(predictor: Predictor, path: Path, seconds: float) -> Iterator[View]:
    """Views while the video is read, at most ``seconds`` of it; the last is what ``predict`` says.

    Raises VideoError if it cannot be read at all, WeightsError for meaningless logits.
    """
    timeline, note, refreshed = Timeline(path.name), None, monotonic()
    try:
        for moment in predictor.moments(path):
            if moment.start >= seconds:
                note = f"Only the first {seconds:g} s were read; movinet-convert predict reads all."
                break
            timeline.add(moment)
            if monotonic() - refreshed > REFRESH_SECONDS:
                heading = f"at {moment.end:.1f} s"
                yield _view(timeline, predictor, heading, moment.probabilities)
                refreshed = monotonic()
    except VideoError as error:
        if timeline.verdict.last is None:
            raise
        note = str(error)
    verdict = timeline.verdict
    cut = ", cut short" if note else ""
    heading = f"whole video, {verdict.seconds:.1f} s{cut}"
    yield _view(timeline, predictor, heading, verdict.probabilities, note, complete=True)


def live_view(live: Live) -> View | None:
    """What a webcam shows; None before its first prediction."""
    if not live.history:
        return None
    last = live.history[-1]
    note = None
    if live.skipped:
        note = (
            f"The network is too slow here for {live.predictor.fps:g} frames per second: "
            f"{live.skipped} of {live.due} were skipped."
        )
    starts = [
        after.start
        for before, after in zip(live.history, live.history[1:], strict=False)
        if after.window != before.window
    ]
    peaks = np.max([moment.probabilities for moment in live.history], axis=0)
    return View(
        f"window {last.window + 1}, {last.frames} frames",
        live.predictor,
        last.probabilities,
        live.history,
        last.end,
        leaders(peaks),
        starts,
        note,
    )


def _view(
    timeline: Timeline,
    predictor: Predictor,
    heading: str,
    probabilities: Probabilities,
    note: str | None = None,
    *,
    complete: bool = False,
) -> View:
    last = timeline.verdict.last
    assert last is not None
    return View(
        heading,
        predictor,
        probabilities,
        timeline.points,
        last.end,
        timeline.leaders(),
        timeline.window_starts,
        note,
        complete,
    )
