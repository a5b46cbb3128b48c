"""Clips for training, from a folder with one folder of videos for each class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset, Sampler

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.video.dataset import LabelledVideo, read_dataset
from movinet_convert.video.frames import Sampling, read_frames, to_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from movinet_convert.video.frames import Frame
    from movinet_convert.video.processes import Group

HELD_OUT_FOLDERS = ("val", "validation", "test")
Key = tuple[int, int]  # epoch, index of the video


@dataclass(frozen=True)
class ClipFormat:
    """``frames`` frames at ``fps`` a second (None: the video's own), ``size`` pixels square."""

    frames: int
    size: int
    fps: float | None = None


@dataclass(frozen=True)
class Split:
    """Videos to learn from and others to judge by, and what the classes are called."""

    classes: tuple[str, ...]
    training: tuple[LabelledVideo, ...]
    held_out: tuple[LabelledVideo, ...]


def read_split(root: Path, held_out: float = 0.2) -> Split:
    """``root/train/class/*.mp4`` with ``root/val/class/*.mp4``, or ``root/class/*.mp4``.

    The latter is divided by the digest of each video's name, so that a video stays on its side
    when others come and go; ``held_out`` is the part to judge by. Raises UsageError for a folder
    without classes, or without videos on either side.
    """
    if (root / "train").is_dir():
        second = next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), None)
        if second is None:
            raise UsageError(f"{root} holds train, but none of {', '.join(HELD_OUT_FOLDERS)}.")
        classes = _classes(root / "train")
        training = read_dataset(root / "train", classes)
        others = read_dataset(second, classes)
    else:
        classes = _classes(root)
        ordered = sorted(read_dataset(root, classes), key=_digest)
        training, others = [], []
        for label in range(len(classes)):
            videos = [video for video in ordered if video.label == label]
            count = max(1, round(held_out * len(videos)))
            others += videos[:count]
            training += videos[count:]
    if not training or not others:
        raise UsageError(f"{root} holds too few videos to learn from some and judge by others.")
    return Split(classes, tuple(training), tuple(others))


def _classes(root: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(names) < 2:
        raise UsageError(
            f"{root} has {len(names)} class folders; expected one folder of videos for each class."
        )
    return tuple(names)


def _digest(video: LabelledVideo) -> str:
    return hashlib.sha256(video.name.encode()).hexdigest()


class Clips(Dataset[tuple["Tensor", int]]):
    """Videos as clips (3, T, size, size) and labels, by (epoch, index).

    For training the clip is cut from the video at a time and place that depend on the seed, the
    epoch and the video alone, so that a run that goes on after a kill sees what it would have
    seen. To judge by (``seed=None``), it is the middle of the video. A video that is too short
    begins anew.

    Raises VideoError for a video that cannot be read.
    """

    def __init__(
        self, videos: Sequence[LabelledVideo], clip: ClipFormat, *, seed: int | None
    ) -> None:
        self._videos = videos
        self._clip = clip
        self._seed = seed

    def __len__(self) -> int:
        return len(self._videos)

    def name(self, index: int) -> str:
        return self._videos[index].name

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index = key
        video = self._videos[index]
        sampling = Sampling(self._clip.fps, self._clip.size, None)
        frames = list(read_frames(video.path, sampling, threads=1))
        if not frames:
            raise VideoError(f"{video.path} has no frames.")
        place = np.full(3, 0.5)
        if self._seed is not None:
            place = np.random.default_rng([self._seed, epoch, index]).uniform(size=3)
        return self._cut(frames, place), video.label

    def _cut(self, frames: list[Frame], place: np.ndarray) -> Tensor:
        count, size = self._clip.frames, self._clip.size
        first = int(place[0] * (max(len(frames) - count, 0) + 1))
        clip = to_tensor([frames[(first + i) % len(frames)] for i in range(count)])
        height, width = clip.shape[-2:]
        top, left = int(place[1] * (height - size + 1)), int(place[2] * (width - size + 1))
        return clip[..., top : top + size, left : left + size]


class Order(Sampler[list[Key]]):
    """The batches of one process in one epoch, from batch ``start`` on.

    Every process gets the same number of batches; the last videos of an epoch that do not fill
    a batch of every process are left for other epochs.
    """

    def __init__(self, videos: int, batch: int, group: Group, seed: int) -> None:
        self._videos, self._batch, self._group, self._seed = videos, batch, group, seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return max(1, self._videos // (self._batch * self._group.size))

    def __iter__(self) -> Iterator[list[Key]]:
        shuffled = np.random.default_rng([self._seed, self.epoch]).permutation(self._videos)
        mine = np.resize(shuffled, len(self) * self._batch * self._group.size)
        mine = mine[self._group.rank :: self._group.size]
        for i in range(self.start * self._batch, len(mine), self._batch):
            yield [(self.epoch, int(index)) for index in mine[i : i + self._batch]]


class Shares(Sampler[list[Key]]):
    """Every video once, dealt out over the processes."""

    def __init__(self, videos: int, batch: int, group: Group) -> None:
        self._mine = range(group.rank, videos, group.size)
        self._batch = batch

    def __len__(self) -> int:
        return -(-len(self._mine) // self._batch)

    def __iter__(self) -> Iterator[list[Key]]:
        for i in range(0, len(self._mine), self._batch):
            yield [(0, index) for index in self._mine[i : i + self._batch]]
