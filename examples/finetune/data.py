"""Labelled clips for training: the split, the dataset, the samplers and the loader."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from movinet_convert.errors import UsageError, VideoError
from movinet_convert.video.dataset import LabelledVideo, read_dataset
from movinet_convert.video.frames import Frame, Sampling, read_frames, read_middle, to_tensor
from movinet_convert.video.processes import Group

HELD_OUT_FOLDERS = ("val", "validation", "test")
MAX_SUBSTITUTES = 64  # tried for a video that cannot be read
Key = tuple[int, int]  # epoch, index of the video


@dataclass(frozen=True)
class ClipSpec:
    """``frames`` frames at ``fps`` per second (None: the video's own), ``size`` pixels square."""

    frames: int
    size: int
    fps: float | None = None


@dataclass(frozen=True)
class Split:
    """The class names, the videos to train on, and those to evaluate on."""

    classes: tuple[str, ...]
    training: tuple[LabelledVideo, ...]
    held_out: tuple[LabelledVideo, ...]


def read_split(root: Path, held_out: float = 0.2) -> Split:
    """``root/train/class/*.mp4`` with ``root/val/class/*.mp4``, or ``root/class/*.mp4``.

    The latter is split by the digest of each video's name, so that a video stays in its split when
    others are added or removed; ``held_out`` is the fraction to evaluate on. Raises UsageError for
    a folder without classes, or without videos in either split.
    """
    if (root / "train").is_dir():
        validation = next((root / n for n in HELD_OUT_FOLDERS if (root / n).is_dir()), None)
        if validation is None:
            raise UsageError(f"{root} has train, but none of {', '.join(HELD_OUT_FOLDERS)}.")
        classes = _classes(root / "train")
        training = read_dataset(root / "train", classes)
        others = read_dataset(validation, classes)
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
        raise UsageError(f"{root} has too few videos to train on some and evaluate on others.")
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


class Sample(NamedTuple):
    """A clip (3, T, size, size), or None if it cannot be read; errors by the name of the video."""

    clip: Tensor | None
    label: int
    unreadable: dict[str, str]


class Batch(NamedTuple):
    """Clips (B, 3, T, size, size), None if none could be read; labels (B,); errors by video."""

    clips: Tensor | None
    labels: Tensor
    unreadable: dict[str, str]


class Clips(Dataset[Sample]):
    """Clips and labels by (epoch, index of the video).

    With a ``seed``, for training: a random clip and crop, which depend only on the seed, the epoch
    and the index, so that a resumed run gets the same data as an uninterrupted one. A video that
    cannot be read is replaced by another, drawn in the same way, so that all processes take the
    same number of steps. Without, for evaluation: the middle of the video, and no replacement.

    A video that is shorter than the clip is repeated.
    """

    def __init__(self, videos: Sequence[LabelledVideo], spec: ClipSpec, *, seed: int | None):
        self._videos, self._spec, self._seed = videos, spec, seed

    def __getitem__(self, key: Key) -> Sample:
        unreadable: dict[str, str] = {}
        for index in self._candidates(*key):
            video = self._videos[index]
            try:
                clip = self._read(video.path, [key[0], index])
            except VideoError as error:
                unreadable[video.name] = str(error)
            else:
                return Sample(clip, video.label, unreadable)
        return Sample(None, -1, unreadable)

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The video itself, then others in a random order, drawn only when they are needed."""
        yield index
        if self._seed is not None:
            random = np.random.default_rng([self._seed, epoch, index])
            yield from random.permutation(len(self._videos))[:MAX_SUBSTITUTES].tolist()

    def _read(self, path: Path, key: list[int]) -> Tensor:
        frames, size, fps = self._spec.frames, self._spec.size, self._spec.fps
        if self._seed is None:
            return to_tensor(read_middle(path, Sampling(fps, size, size), frames, threads=1))
        random = np.random.default_rng([self._seed, *key])
        scaled = read_frames(path, Sampling(fps, size), threads=1)
        clip = to_tensor(random_window(scaled, frames, random))
        height, width = clip.shape[-2:]
        top, left = random.integers([height - size + 1, width - size + 1])
        return clip[..., top : top + size, left : left + size]


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


class TrainingSampler(Sampler[list[Key]]):
    """The batches of one process in the epoch ``epoch``, from batch ``start`` on.

    Every process gets the same number of batches; videos that do not fill a last batch for every
    process are skipped in this epoch.
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


class EvaluationSampler(Sampler[list[Key]]):
    """Every video once, distributed over the processes."""

    def __init__(self, videos: int, batch: int, group: Group) -> None:
        self._mine = range(group.rank, videos, group.size)
        self._batch = batch

    def __iter__(self) -> Iterator[list[Key]]:
        for i in range(0, len(self._mine), self._batch):
            yield [(0, index) for index in self._mine[i : i + self._batch]]


def collate(samples: Sequence[Sample]) -> Batch:
    read = [sample for sample in samples if sample.clip is not None]
    clips = torch.stack([sample.clip for sample in read]) if read else None  # type: ignore[misc]
    unreadable = {name: why for sample in samples for name, why in sample.unreadable.items()}
    return Batch(clips, torch.tensor([sample.label for sample in read]), unreadable)


def loader(clips: Clips, batches: Sampler[list[Key]], workers: int) -> DataLoader[Any]:
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
