"""Predictions over a video: probabilities per frame, clip or window, and for the whole video."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.conversion.loading import load_converted
from movinet_convert.errors import MovinetWarning, UsageError, VideoError, WeightsError
from movinet_convert.model.state import StreamState
from movinet_convert.video.decode import is_live
from movinet_convert.video.frames import (
    MAX_CLIP_FRAMES,
    Frame,
    Sampling,
    chunked,
    read_frames,
    to_tensor,
)
from movinet_convert.video.models import ExportedFile, Model
from movinet_convert.weights.labels import Labels, class_names, given_names, unnamed

Probabilities = NDArray[np.float32]

STREAM_FRAMES = 5  # frames of a file in one call: fewer calls, the same logits


@dataclass(frozen=True)
class Guess:
    """A class and its probability, from 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Moment:
    """The prediction from ``start`` to ``end``, in seconds.

    ``probabilities`` (classes,) are computed from the ``frames`` frames so far of window number
    ``window`` (from 0): a clip for base models, a stream for stream models. The call took
    ``seconds_per_frame`` for each of its frames.
    """

    start: float
    end: float
    window: int
    frames: int
    probabilities: Probabilities
    seconds_per_frame: float = field(default=0.0, compare=False)  # differs from run to run


@dataclass(frozen=True)
class Position:
    """Where a prediction is in a video: ``frames`` frames into window number ``window``.

    ``state`` is that of a stream after them.
    """

    state: StreamState | None = None
    window: int = 0
    frames: int = 0


@dataclass(frozen=True)
class Predictor:
    """A model in eval mode with its labels and how to sample videos for it.

    Every ``window`` seconds of a video are one clip, or one stream, after which the state is reset.
    None: the variant's own clip length for base models, the whole video for stream models.
    ``threads`` are for decoding, 0 to let FFmpeg choose. A last clip of less than ``shortest``
    frames, which the model does not take, is left out. ``call_frames``, if not 1: how many frames a
    call takes, a whole clip of a base model; a stream has logits after the last, and a last call of
    fewer is left out. Raises UsageError for a window that is not a positive finite number, too long
    for one clip, or not of such calls.
    """

    model: Model
    labels: tuple[str, ...]
    sampling: Sampling
    window: float | None = None
    threads: int = 0
    shortest: int = 1
    call_frames: int = 1

    def __post_init__(self) -> None:
        if self.window is None:
            return
        if not 0 < self.window < math.inf:
            raise UsageError(f"A window must be a positive number of seconds, got {self.window}.")
        if not self.model.settings.causal and self.window * self.fps > MAX_CLIP_FRAMES:
            raise UsageError(
                f"A window of {self.window} s is a clip of more than {MAX_CLIP_FRAMES} frames; "
                "give a shorter one, or use a stream model."
            )
        frames = self.window_frames or 0
        whole = self.model.settings.causal and frames % self.call_frames == 0
        if self.call_frames > 1 and not (whole or frames == self.call_frames):
            raise UsageError(
                f"A window of {self.window} s is {frames} frames, and this file takes "
                f"{self.call_frames} at a time; give a window of so many."
            )

    @property
    def fps(self) -> float:
        return self.sampling.fps or self.model.variant.input.fps

    @property
    def window_frames(self) -> int | None:
        if self.window is not None:
            return max(1, round(self.window * self.fps))
        if self.model.settings.causal:
            return None
        return self.call_frames if self.call_frames > 1 else self.model.variant.input.frames

    def moments(self, source: str | os.PathLike[str]) -> Iterator[Moment]:
        """Predictions as the video is read: after every frame, or every clip for base models.

        Raises VideoError if it cannot be read or is cut off (after yielding the moments so far),
        and WeightsError for meaningless logits.
        """
        frames = read_frames(source, self.sampling, threads=self.threads)
        per_frame = self.model.settings.causal and self.call_frames == 1
        at_once = STREAM_FRAMES if per_frame and not is_live(source) else self.step_frames
        position = Position()
        for chunk in chunked(frames, at_once, self.window_frames):
            if position.frames and len(chunk) < self.shortest:
                return
            moments, position = self.step(chunk, position, source)
            yield from moments

    @property
    def step_frames(self) -> int:
        """The fewest frames after which there is a prediction."""
        if self.model.settings.causal:
            return self.call_frames
        assert self.window_frames is not None
        return self.window_frames

    def step(
        self, frames: Sequence[Frame], position: Position, source: str | os.PathLike[str]
    ) -> tuple[list[Moment], Position]:
        """Predictions for the next frames of a video, and the position after them.

        The frames are a clip of a base model, or a multiple of ``call_frames`` of a stream, and of
        one window: the first after ``window_frames`` starts the next. ``source`` is named in
        WeightsError, which is raised for meaningless logits.
        """
        if position.frames and position.frames == self.window_frames:
            position = Position(window=position.window + 1)
        started = perf_counter()
        state, per_frame = None, self.model.settings.causal and self.call_frames == 1
        with torch.inference_mode():
            if self.model.settings.causal:
                batch = self.batch(frames)
                logits, state = self.model.stream(batch, position.state, per_frame=per_frame)
            else:
                logits = self.model(self.batch(frames))
        rows = _softmax(logits.flatten(0, -2), source)
        cost = (perf_counter() - started) / len(frames)
        groups = [[frame] for frame in frames] if per_frame else [frames]
        moments, seen = [], position.frames
        for group, row in zip(groups, rows, strict=True):
            seen += len(group)
            end = group[-1].time + 1 / self.fps
            moments.append(Moment(group[0].time, end, position.window, seen, row, cost))
        return moments, Position(state, position.window, seen)

    def top(self, probabilities: Probabilities, count: int = 5) -> list[Guess]:
        """The most likely classes, the best first."""
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [Guess(self.labels[i], int(i), float(probabilities[i])) for i in best]

    def batch(self, frames: Sequence[Frame]) -> Tensor:
        """Frames as (1, 3, T, H, W), on the model's device."""
        return to_tensor(frames).to(self.model.device)[None]


class Verdict:
    """The prediction for a whole video: the mean of each window's last, weighted by its frames.

    Moments are added in order; only the last one is kept, since a camera may run for days.
    """

    def __init__(self) -> None:
        self.start: float | None = None
        self.last: Moment | None = None
        self._sum: NDArray[np.float64] | float = 0.0  # of the finished windows, weighted by frames
        self._frames = 0

    def add(self, moment: Moment) -> Moment | None:
        """Add the next moment; if it starts a new window, return the last of the one before."""
        last, self.last = self.last, moment
        if last is None:
            self.start = moment.start
            return None
        if moment.window == last.window:
            return None
        self._sum = self._sum + last.frames * last.probabilities.astype(np.float64)
        self._frames += last.frames
        return last

    @property
    def seconds(self) -> float:
        """Duration of the video so far."""
        return self.last.end - self.start if self.last and self.start is not None else 0.0

    @property
    def probabilities(self) -> Probabilities:
        """(classes,); VideoError before the first moment."""
        if self.last is None:
            raise VideoError("There is no prediction before the first frame.")
        total = self._sum + self.last.frames * self.last.probabilities.astype(np.float64)
        mean: Probabilities = (total / (self._frames + self.last.frames)).astype(np.float32)
        return mean


def load_predictor(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    labels: Labels | None = None,
    fps: float | None = None,
    window: float | None = None,
    threads: int = 0,
    device: torch.device | str | None = None,
    exported: ExportedFile | None = None,
) -> Predictor:
    """A predictor for a converted variant or file, with the labels stored in the file.

    ``exported`` is used instead of ``name``, ``labels`` (class names, or a file with one per line)
    instead of those stored. Warns where the classes have no names. Raises as ``load_converted``
    does, UsageError for an invalid ``Sampling``, window or labels.
    """
    model: Model
    if exported is not None:
        model = exported
        size, shortest, call_frames = exported.size, exported.shortest, exported.call_frames
    else:
        model = load_converted(name, weights_dir=weights_dir, device=device, fuse=True)
        size, shortest, call_frames = None, 1, 1
    names = given_names(labels, model.num_classes) or model.labels
    if names is None:
        warnings.warn(unnamed(str(name), model.num_classes), MovinetWarning, stacklevel=2)
    names = class_names(names, model.num_classes)
    sampling = Sampling.of(model.variant, fps, size)
    return Predictor(model, names, sampling, window, threads, shortest, call_frames)


def check_logits(logits: Tensor, source: str | os.PathLike[str]) -> None:
    """Raise WeightsError if logits (…, classes) are not finite, or equal for all classes.

    ``softmax`` would turn either into plausible probabilities.
    """
    wrong = int((~logits.isfinite()).sum())
    if wrong:
        raise WeightsError(
            f"{wrong} of {logits.numel()} logits for {source} are not finite; the weights are "
            "damaged or their precision is too low: verify them, or convert in float32."
        )
    if logits.shape[-1] > 1 and bool((logits.amax(-1) == logits.amin(-1)).any()):
        raise WeightsError(
            f"All {logits.shape[-1]} logits for {source} are the same; these weights cannot "
            "distinguish classes: verify them, or train the classifier."
        )


def _softmax(logits: Tensor, source: str | os.PathLike[str]) -> Probabilities:
    check_logits(logits, source)
    probabilities: Probabilities = torch.softmax(logits.float(), dim=-1).cpu().numpy()
    return probabilities
