"""Which videos make up the batches of each process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from examples.finetune.splits import Video, labels_of
from movinet_convert.errors import UsageError
from movinet_convert.video.processes import Group

# The epoch, the index of the video, and how often it was drawn before in this epoch.
Key = tuple[int, int, int]


def frequencies(videos: Sequence[Video], balance: float) -> NDArray[np.float64]:
    """How often each video is drawn in an epoch of as many videos, on average.

    A video counts in inverse proportion to the number of videos of its class to the power of
    ``balance``: 0 draws all videos equally often, 1 all classes, 0.5 is in between. One with
    several labels counts as the mean over them, one without labels as the mean over all videos.
    Raises UsageError for a ``balance`` that is not from 0 to 1.
    """
    if not 0 <= balance <= 1:
        raise UsageError(f"--balance is from 0 (videos) to 1 (classes), got {balance}.")
    counts = Counter(label for video in videos for label in labels_of(video))
    weights = np.array(
        [
            np.mean([counts[label] ** -balance for label in labels_of(video)] or [np.nan])
            for video in videos
        ]
    )
    weights = np.where(np.isnan(weights), np.nanmean(weights), weights)
    return weights / weights.mean()


class TrainingSampler(Sampler[list[Key]]):
    """The batches of one process in the epoch ``epoch``, from batch ``start`` on.

    ``frequencies`` say how often each video is drawn, rounded up or down at random, so that an
    epoch has as many draws as there are videos. Every process gets the same number of batches, one
    at least, for which few videos are repeated; draws that do not fill a last batch for every
    process are skipped in this epoch. The videos of a step are the same for any number of processes
    with the same batch size in total.
    """

    def __init__(
        self, frequencies: NDArray[np.float64], batch: int, group: Group, seed: int
    ) -> None:
        self._frequencies, self._batch, self._group, self._seed = frequencies, batch, group, seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return max(1, len(self._frequencies) // (self._batch * self._group.size))

    def __iter__(self) -> Iterator[list[Key]]:
        random = np.random.default_rng([self._seed, self.epoch])
        drawn = self._drawn(random)
        total = len(self) * self._batch * self._group.size
        mine: list[Key] = []
        for i in range(self._group.rank, total, self._group.size):
            (index, before), again = drawn[i % len(drawn)], i // len(drawn)
            mine.append((self.epoch, index, before + again))
        for i in range(self.start * self._batch, len(mine), self._batch):
            yield mine[i : i + self._batch]

    def _drawn(self, random: np.random.Generator) -> list[tuple[int, int]]:
        """Indices in random order, each with the number of its draws before."""
        order = random.permutation(len(self._frequencies))
        if not np.ptp(self._frequencies):
            return [(int(index), 0) for index in order]
        # Systematic sampling: one point in every interval of length 1 of the cumulative sum.
        ends = np.cumsum(self._frequencies[order])
        counts = np.diff(np.floor(ends + random.random()), prepend=0).astype(int)
        draws = [(int(i), k) for i, n in zip(order, counts, strict=True) for k in range(n)]
        return [draws[i] for i in random.permutation(len(draws))]


class EvaluationSampler(Sampler[list[int]]):
    """Every video once, distributed over the processes."""

    def __init__(self, videos: int, batch: int, group: Group) -> None:
        self._mine = range(group.rank, videos, group.size)
        self._batch = batch

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(0, len(self._mine), self._batch):
            yield list(self._mine[i : i + self._batch])
