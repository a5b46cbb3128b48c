"""Batches of what can be read: a damaged video costs its place, not the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from movinet_convert.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from examples.finetune.data import Clips, Key

# So many videos drawn at random are all damaged only where nearly all of them are.
SUBSTITUTES = 64


class Sample(NamedTuple):
    """A clip (3, T, size, size) and its label; no clip where none of the videos could be read.

    ``unreadable`` says by the names of videos why they could not be.
    """

    clip: Tensor | None
    label: int
    unreadable: dict[str, str]


class Batch(NamedTuple):
    """Clips (B, 3, T, size, size) and labels (B,) of what could be read, None if nothing could."""

    clips: Tensor | None
    labels: Tensor
    unreadable: dict[str, str]


class Readable(Dataset[Sample]):
    """The samples of ``clips`` by (epoch, index), none of which raises VideoError.

    In place of a video that cannot be read comes another, drawn by the seed, the epoch and the
    index, so that every process takes equally many steps and a resumed run the same ones. Without
    a ``seed``, to evaluate, nothing takes its place.
    """

    def __init__(self, clips: Clips, *, seed: int | None) -> None:
        self._clips = clips
        self._seed = seed

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        unreadable: dict[str, str] = {}
        for candidate in self._candidates(epoch, index):
            try:
                clip, label = self._clips[epoch, candidate]
            except VideoError as error:
                unreadable[self._clips.name(candidate)] = str(error)
            else:
                return Sample(clip, label, unreadable)
        return Sample(None, -1, unreadable)

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The video itself, and others in a random order, drawn only where it is needed."""
        yield index
        if self._seed is not None:
            random = np.random.default_rng([self._seed, epoch, index])
            yield from random.permutation(len(self._clips))[:SUBSTITUTES].tolist()


def collate(samples: Sequence[Sample]) -> Batch:
    read = [(sample.clip, sample.label) for sample in samples if sample.clip is not None]
    unreadable: dict[str, str] = {}
    for sample in samples:
        unreadable |= sample.unreadable
    clips = torch.stack([clip for clip, _ in read]) if read else None
    return Batch(clips, torch.tensor([label for _, label in read]), unreadable)


def loader(samples: Readable, batches: Sampler[list[Key]], workers: int) -> Iterable[Batch]:
    """Batches decoded by ``workers`` processes."""
    batched: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        # By default it draws from the global generator, at other steps in a resumed run.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    return batched
