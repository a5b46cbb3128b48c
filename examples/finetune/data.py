"""Labelled clips for training and for evaluation, and the loader of their batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from examples.finetune.augmentation import Augmentation
from examples.finetune.sampling import Key
from examples.finetune.splits import Video
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.video.dataset import LabelledVideo
from movinet_convert.video.frames import (
    Frame,
    Sampling,
    check_length,
    count_frames,
    read_frames,
    read_middle,
    to_tensor,
)

MAX_SUBSTITUTES = 64  # tried for a video that cannot be read
CROPS = (1, 3)


@dataclass(frozen=True)
class ClipSpec:
    """``frames`` frames at ``fps`` per second (None: the video's own), ``size`` pixels square.

    The shorter side of a frame is scaled to ``resize`` pixels (None: ``size``) before a crop.
    Raises UsageError for sizes that no clip can have.
    """

    frames: int
    size: int
    fps: float | None = None
    resize: int | None = None

    def __post_init__(self) -> None:
        check_length(self.frames)
        if self.size < 1 or (self.resize or self.size) < self.size:
            raise UsageError(
                f"Frames are scaled to {self.resize} pixels and cropped to {self.size}; expected "
                "at least one, and no more than they are scaled to."
            )


class Sample(NamedTuple):
    """Clips (V, 3, T, size, size), or None if they cannot be read; errors by the name of the video.

    The target is the index of the class (), or 0 or 1 for every class (classes,); ``index`` is that
    of the video.
    """

    clips: Tensor | None
    target: Tensor
    index: int
    unreadable: dict[str, str]


class Batch(NamedTuple):
    """Clips (B, V, 3, T, size, size), None if none could be read; targets (B,) or (B, classes).

    ``indices`` are those of the videos, and ``unreadable`` has errors by the name of the video.
    """

    clips: Tensor | None
    targets: Tensor
    indices: list[int]
    unreadable: dict[str, str]


def target_of(video: Video, classes: int) -> Tensor:
    """The class () of a video, or for several labels 0 or 1 for every class (classes,), float."""
    if isinstance(video, LabelledVideo):
        return torch.tensor(video.label)
    target = torch.zeros(classes)
    target[list(video.labels)] = 1.0
    return target


class Clips(Dataset[Sample]):
    """One random clip of a video for training, by the key that a TrainingSampler yields.

    It depends only on the seed and the key, so that a resumed run gets the same data as an
    uninterrupted one. A video that cannot be read is replaced by another, drawn in the same way, so
    that all processes take the same number of steps; one that is shorter than the clip is repeated.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        classes: int,
        spec: ClipSpec,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._videos, self._classes, self._spec = videos, classes, spec
        self._augmentation, self._seed = augmentation, seed

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, repeat = key
        unreadable: dict[str, str] = {}
        for candidate in self._candidates(key):
            video = self._videos[candidate]
            try:
                clip = self._read(video.path, [epoch, candidate, repeat])
            except VideoError as error:
                unreadable[video.name] = str(error)
            else:
                target = target_of(video, self._classes)
                return Sample(clip[None], target, candidate, unreadable)
        return Sample(None, torch.tensor(0), index, unreadable)

    def _candidates(self, key: Key) -> Iterator[int]:
        """The video itself, then others in a random order, drawn only when they are needed."""
        yield key[1]
        random = np.random.default_rng([self._seed, *key])
        yield from random.permutation(len(self._videos))[:MAX_SUBSTITUTES].tolist()

    def _read(self, path: Path, key: list[int]) -> Tensor:
        spec = self._spec
        random = np.random.default_rng([self._seed, *key])
        side = spec.size if self._augmentation.area is None else spec.resize or spec.size
        frames = read_frames(path, Sampling(spec.fps, side), threads=1)
        clip = to_tensor(random_window(frames, spec.frames, random))
        return self._augmentation(clip, spec.size, random)


class Views(Dataset[Sample]):
    """Clips for evaluation by the index of the video: ``clips`` x ``crops`` of each.

    One clip is the middle of the video; more start at equal distances from its beginning to its
    end. One crop is the center; three are both ends and the middle of the longer side. A video that
    is shorter than the clip is repeated; one that cannot be read is not replaced.
    """

    def __init__(
        self, videos: Sequence[Video], classes: int, spec: ClipSpec, clips: int = 1, crops: int = 1
    ) -> None:
        if clips < 1 or crops not in CROPS:
            raise UsageError(f"Expected one clip or more, and 1 or 3 crops, got {clips}, {crops}.")
        self._videos, self._classes, self._spec = videos, classes, spec
        self._clips, self._crops = clips, crops

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> Sample:
        video = self._videos[index]
        target = target_of(video, self._classes)
        try:
            return Sample(self._read(video.path), target, index, {})
        except VideoError as error:
            return Sample(None, target, index, {video.name: str(error)})

    def _read(self, path: Path) -> Tensor:
        spec = self._spec
        size = spec.size if self._crops == 1 else None
        sampling = Sampling(spec.fps, spec.resize or spec.size, size)
        if self._clips == 1:
            windows = [read_middle(path, sampling, spec.frames, threads=1)]
        else:
            windows = read_windows(path, sampling, spec.frames, self._clips)
        clips = torch.stack([to_tensor(window) for window in windows])
        return clips if self._crops == 1 else three_crops(clips, spec.size)


def read_windows(path: Path, sampling: Sampling, length: int, count: int) -> list[list[Frame]]:
    """``count`` clips of ``length`` frames, evenly spaced; all of a shorter video, repeated.

    As ``sample_linspace_sequence`` in official/vision/ops/preprocess_ops_3d.py. The video is
    decoded twice, so that only the clips are kept in memory.
    """
    total = count_frames(path, sampling, threads=1)
    starts = np.linspace(0, max(0, total - length), count).astype(int).tolist()
    windows: list[list[Frame]] = [[] for _ in starts]
    for number, frame in enumerate(read_frames(path, sampling, threads=1)):
        for start, window in zip(starts, windows, strict=True):
            if start <= number < start + length:
                window.append(frame)
    return [[window[i % len(window)] for i in range(length)] for window in windows]


def three_crops(clips: Tensor, size: int) -> Tensor:
    """(N, 3, T, H, W) -> (3 x N, 3, T, size, size): both ends and the middle of the longer side."""
    height, width = clips.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    if height > width:
        corners = [(0, left), (top, left), (height - size, left)]
    else:
        corners = [(top, 0), (top, left), (top, width - size)]
    return torch.cat([clips[..., y : y + size, x : x + size] for y, x in corners])


def random_window(frames: Iterable[Frame], length: int, random: np.random.Generator) -> list[Frame]:
    """``length`` consecutive frames, all positions equally likely.

    Reservoir sampling: the video is read once, with at most 2 x ``length`` frames in memory.
    """
    latest: deque[Frame] = deque(maxlen=length)
    window: list[Frame] = []
    for count, frame in enumerate(frames, 1):
        latest.append(frame)
        if count <= length or random.integers(count - length + 1) == 0:
            window = list(latest)
    return [window[i % len(window)] for i in range(length)]


def collate(samples: Sequence[Sample]) -> Batch:
    read = [sample for sample in samples if sample.clips is not None]
    unreadable = {name: why for sample in samples for name, why in sample.unreadable.items()}
    if not read:
        return Batch(None, torch.empty(0), [], unreadable)
    clips = torch.stack([sample.clips for sample in read])  # type: ignore[misc]
    targets = torch.stack([sample.target for sample in read])
    return Batch(clips, targets, [sample.index for sample in read], unreadable)


def loader(clips: Dataset[Sample], batches: Sampler[Any], workers: int) -> DataLoader[Any]:
    """Batches decoded by ``workers`` processes."""
    return DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        # The default uses the global generator, which would change the state of a resumed run.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
