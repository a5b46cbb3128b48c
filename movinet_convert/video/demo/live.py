"""Predictions of a webcam, picture by picture.

The pictures arrive when the browser sends them, and are sampled by their times as the frames of a
video file are: frame k is the picture shown at k / fps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from movinet_convert.video.frames import Frame
from movinet_convert.video.pixels import Image, fitted
from movinet_convert.video.predict import Moment, Position, Predictor

SOURCE = "the webcam"
SECONDS_KEPT = 60.0  # of the timeline
LONGEST_GAP = 3.0  # seconds without a picture, after which a new stream starts
START = Position()
MOST_LATE = 1.0  # seconds of frames to catch up with; a network that is slower skips the others


@dataclass(frozen=True)
class Live:
    """A webcam's stream so far, as a value: ``push`` returns the next one.

    ``last`` is the time of the last picture, or until when it was computed, and ``shown`` that
    picture, scaled and cropped; ``waiting`` are frames of a clip or call that is incomplete,
    ``history`` the moments of the last SECONDS_KEPT, ``skipped`` the number of frames for which the
    network was too slow.
    """

    predictor: Predictor
    started: float
    last: float
    shown: Image
    due: int = 0
    waiting: tuple[Frame, ...] = ()
    position: Position = START
    history: tuple[Moment, ...] = ()
    skipped: int = 0

    @classmethod
    def start(cls, predictor: Predictor, image: Image, time: float) -> Live:
        """The stream that begins with a picture (H, W, 3), RGB, at a time in seconds."""
        return cls(predictor, time, time, _fitted(image, predictor))

    def push(self, image: Image, time: float) -> Live:
        """The stream after the next picture, with predictions for the frames before it.

        Raises VideoError for a picture that cannot be scaled, WeightsError for meaningless logits.
        """
        if not 0 <= time - self.last <= LONGEST_GAP:
            return Live.start(self.predictor, image, time)
        shown = _fitted(image, self.predictor)
        fps = self.predictor.fps
        due = range(self.due, max(self.due, math.ceil((time - self.started) * fps)))
        most = max(1, int(MOST_LATE * fps))
        after = self._computed([Frame(number / fps, self.shown) for number in due[-most:]])
        skipped = self.skipped + max(0, len(due) - most)
        return replace(after, last=time, shown=shown, due=due.stop, skipped=skipped)

    def _computed(self, frames: list[Frame]) -> Live:
        waiting, position, history = self.waiting, self.position, self.history
        for frame in frames:
            waiting = (*waiting, frame)
            if len(waiting) == self.predictor.step_frames:
                moments, position = self.predictor.step(waiting, position, SOURCE)
                waiting, history = (), (*history, *moments)
        if history:
            oldest = history[-1].end - SECONDS_KEPT
            history = tuple(moment for moment in history if moment.end > oldest)
        return replace(self, waiting=waiting, position=position, history=history)


def _fitted(image: Image, predictor: Predictor) -> Image:
    sampling = predictor.sampling
    return fitted(image, sampling.resize, sampling.size, "The picture")


def advance(live: Live | None, predictor: Predictor, image: Image, time: float) -> Live:
    """The stream after the next picture; a new one if there was none, or another predictor."""
    if live is None or live.predictor != predictor:
        return Live.start(predictor, image, time)
    return live.push(image, time)


def live_predictor(predictor: Predictor) -> Predictor:
    """The predictor with windows: by default, a stream is reset after the variant's clip length.

    The logits of a stream are of its mean over time, which after minutes hardly changes any more.
    """
    if predictor.window is not None or not predictor.model.settings.causal:
        return predictor
    clip = predictor.model.variant.input
    frames = round(clip.frames / clip.fps * predictor.fps)
    whole = max(frames // predictor.call_frames, 1) * predictor.call_frames
    return replace(predictor, window=whole / predictor.fps)
