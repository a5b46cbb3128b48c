"""What a model sees in a video, moment by moment."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.model import MoViNet
from movinet_convert.video.frames import (
    MAX_CLIP_FRAMES,
    Frame,
    Sampling,
    is_live,
    read_frames,
    to_tensor,
)
from movinet_convert.video.logits import check_logits
from movinet_convert.weights.file import read_header
from movinet_convert.weights.labels import class_names, read_labels
from movinet_convert.weights.load import find_file, load_converted

Probabilities = NDArray[np.float32]

STREAM_FRAMES = 5  # frames of a file in one call: fewer calls, the same logits


@dataclass(frozen=True)
class Guess:
    """A class and how likely the model finds it, from 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Moment:
    """What the model makes of a video from ``start`` to ``end``, in seconds.

    ``probabilities`` (classes,) judge the ``frames`` frames seen so far of the present ``window``:
    a clip of a base model, a stream of a stream model, counted from 0.
    """

    start: float
    end: float
    window: int
    frames: int
    probabilities: Probabilities


@dataclass(frozen=True)
class Predictor:
    """A model in eval mode with what it takes to run it on videos.

    ``window`` seconds of a video make one clip, or one stream; then a new one begins. None is the
    variant's own clip for base models, and the whole video for stream models. ``threads`` are for
    decoding, 0 for as many as FFmpeg likes. Raises UsageError for a window that is no length, or
    too long for one clip.
    """

    model: MoViNet
    labels: tuple[str, ...]
    sampling: Sampling
    window: float | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if self.window is None:
            return
        if not 0 < self.window < math.inf:
            raise UsageError(f"A window is above 0 seconds and finite, got {self.window}.")
        if not self.model.settings.causal and self.window * self.fps > MAX_CLIP_FRAMES:
            raise UsageError(
                f"A window of {self.window} s is a clip of more than {MAX_CLIP_FRAMES} frames; "
                "give a shorter one, or use a stream model."
            )

    @property
    def fps(self) -> float:
        return self.sampling.fps or self.model.variant.input.fps

    @property
    def window_frames(self) -> int | None:
        if self.window is not None:
            return max(1, round(self.window * self.fps))
        return None if self.model.settings.causal else self.model.variant.input.frames

    def moments(self, source: str | os.PathLike[str]) -> Iterator[Moment]:
        """Moments as the video is read: after every frame, or of every clip for base models.

        Raises VideoError where it cannot be read, or breaks off, after the moments until there, and
        WeightsError for logits that judge nothing.
        """
        frames = read_frames(source, self.sampling, threads=self.threads)
        if not self.model.settings.causal:
            return self._clips(source, frames)
        return self._stream(source, frames, 1 if is_live(source) else STREAM_FRAMES)

    def top(self, probabilities: Probabilities, count: int = 5) -> list[Guess]:
        """The likeliest classes, the best first."""
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [Guess(self.labels[i], int(i), float(probabilities[i])) for i in best]

    def _clips(self, source: str | os.PathLike[str], frames: Iterable[Frame]) -> Iterator[Moment]:
        length = self.window_frames
        assert length is not None
        for window, chunk in enumerate(_chunks(frames, length)):
            with torch.inference_mode():
                logits = self.model(self._batch(chunk))
            check_logits(logits, source)
            start, end = chunk[0].time, chunk[-1].time + 1 / self.fps
            yield Moment(start, end, window, len(chunk), _softmax(logits)[0])

    def _stream(
        self, source: str | os.PathLike[str], frames: Iterable[Frame], at_once: int
    ) -> Iterator[Moment]:
        length = self.window_frames
        state, window, seen = None, 0, 0
        for chunk in _chunks(frames, at_once, length):
            if seen == length:
                state, window, seen = None, window + 1, 0
            with torch.inference_mode():
                logits, state = self.model.stream(self._batch(chunk), state, per_frame=True)
            check_logits(logits, source)
            for frame, probabilities in zip(chunk, _softmax(logits[0]), strict=True):
                seen += 1
                yield Moment(frame.time, frame.time + 1 / self.fps, window, seen, probabilities)

    def _batch(self, frames: Sequence[Frame]) -> torch.Tensor:
        weight = self.model.classifier.output.weight
        return to_tensor(frames).to(weight.device, weight.dtype)[None]


class Verdict:
    """What a model makes of a whole video: the last moment of each window, averaged by frames.

    Moments are added in their order, and none is kept but the last: a camera may run for days.
    """

    def __init__(self) -> None:
        self.start: float | None = None
        self.last: Moment | None = None
        self._sum: NDArray[np.float64] = np.zeros(0)  # over the windows that are over, by frames
        self._frames = 0

    def add(self, moment: Moment) -> Moment | None:
        """Take in the next moment; returns the last one of a window that has just ended."""
        ended, self.last = self.last, moment
        if self.start is None or ended is None:
            self.start = moment.start
            self._sum = np.zeros(len(moment.probabilities))
            return None
        if moment.window == ended.window:
            return None
        self._sum += ended.frames * ended.probabilities.astype(np.float64)
        self._frames += ended.frames
        return ended

    @property
    def seconds(self) -> float:
        """How much of the video was seen."""
        return self.last.end - self.start if self.last and self.start is not None else 0.0

    @property
    def probabilities(self) -> Probabilities:
        """(classes,); VideoError before the first moment."""
        if self.last is None:
            raise VideoError("There is no verdict before the first frame.")
        total = self._sum + self.last.frames * self.last.probabilities.astype(np.float64)
        return (total / (self._frames + self.last.frames)).astype(np.float32)


def load_predictor(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    labels: Path | None = None,
    fps: float | None = None,
    window: float | None = None,
    threads: int = 0,
    device: torch.device | str | None = None,
) -> Predictor:
    """A predictor of a converted variant or file, with the labels that the file carries.

    ``labels`` is a text file that names the classes instead; see ``read_labels``. Raises as
    ``load_converted`` does, UsageError for what a ``Sampling``, window or labels cannot be.
    """
    path = find_file(name, weights_dir=weights_dir)
    model = load_converted(path, device=device, fuse=True)
    if labels is not None:
        names = read_labels(labels, model.num_classes)
    else:
        names = class_names(read_header(path).labels, model.num_classes)
    return Predictor(model, names, Sampling.of(model.variant, fps), window, threads)


def overall(moments: Iterable[Moment]) -> Probabilities:
    """The verdict on a whole video; see ``Verdict``."""
    verdict = Verdict()
    for moment in moments:
        verdict.add(moment)
    return verdict.probabilities


def _chunks(frames: Iterable[Frame], size: int, window: int | None = None) -> Iterator[list[Frame]]:
    """Lists of ``size`` frames; none reaches across the end of a window."""
    chunk: list[Frame] = []
    broken: VideoError | None = None
    try:
        for count, frame in enumerate(frames, 1):
            chunk.append(frame)
            if len(chunk) == size or (window is not None and count % window == 0):
                yield chunk
                chunk = []
    except VideoError as error:  # the frames until there were read all the same
        broken = error
    if chunk:
        yield chunk
    if broken is not None:
        raise broken


def _softmax(logits: torch.Tensor) -> Probabilities:
    probabilities: Probabilities = torch.softmax(logits.float(), dim=-1).cpu().numpy()
    return probabilities
