"""What a model sees in a video, moment by moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.errors import UsageError
from movinet_convert.labels import class_names
from movinet_convert.loader import find_file, load_converted
from movinet_convert.video import Sampling, is_live, read_frames, to_tensor
from movinet_convert.weightfile import read_header

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from movinet_convert.model import MoViNet
    from movinet_convert.video import Frame

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
    decoding, 0 for as many as FFmpeg likes.
    """

    model: MoViNet
    labels: tuple[str, ...]
    sampling: Sampling
    window: float | None = None
    threads: int = 0

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

        Raises VideoError where it cannot be read.
        """
        frames = read_frames(source, self.sampling, threads=self.threads)
        if not self.model.settings.causal:
            return self._clips(frames)
        return self._stream(frames, 1 if is_live(source) else STREAM_FRAMES)

    def top(self, probabilities: Probabilities, count: int = 5) -> list[Guess]:
        """The likeliest classes, the best first."""
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [Guess(self.labels[i], int(i), float(probabilities[i])) for i in best]

    def _clips(self, frames: Iterable[Frame]) -> Iterator[Moment]:
        length = self.window_frames
        assert length is not None
        for window, chunk in enumerate(_chunks(frames, length)):
            with torch.inference_mode():
                logits = self.model(self._batch(chunk))
            start, end = chunk[0].time, chunk[-1].time + 1 / self.fps
            yield Moment(start, end, window, len(chunk), _softmax(logits)[0])

    def _stream(self, frames: Iterable[Frame], at_once: int) -> Iterator[Moment]:
        length = self.window_frames
        state, window, seen = None, 0, 0
        for chunk in _chunks(frames, at_once, length):
            if seen == length:
                state, window, seen = None, window + 1, 0
            with torch.inference_mode():
                logits, state = self.model.stream(self._batch(chunk), state, per_frame=True)
            for frame, probabilities in zip(chunk, _softmax(logits[0]), strict=True):
                seen += 1
                yield Moment(frame.time, frame.time + 1 / self.fps, window, seen, probabilities)

    def _batch(self, frames: Sequence[Frame]) -> torch.Tensor:
        weight = self.model.classifier.output.weight
        return to_tensor(frames).to(weight.device, weight.dtype)[None]


def load_predictor(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    fps: float | None = None,
    window: float | None = None,
    threads: int = 0,
    device: torch.device | str | None = None,
) -> Predictor:
    """A predictor of a converted variant or file, with the labels that the file carries.

    Raises as ``load_converted`` does.
    """
    if window is not None and window <= 0:
        raise UsageError(f"A window is above 0 seconds, got {window}.")
    path = find_file(name, weights_dir=weights_dir)
    model = load_converted(path, device=device, fuse=True)
    labels = class_names(read_header(path).labels, model.num_classes)
    return Predictor(model, labels, Sampling.of(model.variant, fps), window, threads)


def overall(moments: Iterable[Moment]) -> Probabilities:
    """The verdict on a whole video: the last of each window, averaged by their frames."""
    last = {moment.window: moment for moment in moments}
    frames = [moment.frames for moment in last.values()]
    stacked = np.stack([moment.probabilities for moment in last.values()])
    return np.average(stacked, axis=0, weights=frames).astype(np.float32)


def _chunks(frames: Iterable[Frame], size: int, window: int | None = None) -> Iterator[list[Frame]]:
    """Lists of ``size`` frames; none reaches across the end of a window."""
    chunk: list[Frame] = []
    for count, frame in enumerate(frames, 1):
        chunk.append(frame)
        if len(chunk) == size or (window is not None and count % window == 0):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _softmax(logits: torch.Tensor) -> Probabilities:
    probabilities: Probabilities = torch.softmax(logits.float(), dim=-1).cpu().numpy()
    return probabilities
