"""Evaluation on the held-out videos: accuracy, or mean average precision with several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.finetune.data import Batch, ClipSpec, Views, loader
from examples.finetune.sampling import EvaluationSampler
from examples.finetune.splits import Split
from examples.finetune.step import StepConfig, log_probabilities
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.files.extras import missing_extra
from movinet_convert.video.accuracy import CONFIDENCE, Accuracy, measure, ranked
from movinet_convert.video.accuracy_files import (
    FILE_NAMES,
    PER_CLASS_NAME,
    write_accuracy_files,
    write_csv,
)
from movinet_convert.video.processes import Group

WORST = 5  # classes, in a summary
RESAMPLES = 200  # of the videos, for the confidence interval of the mean average precision
SMALLEST = 1e-12  # probability, in a loss


@dataclass(frozen=True)
class EvaluationConfig:
    """``clips`` x ``crops`` views of each video, whose probabilities are averaged."""

    clips: int = 1
    crops: int = 1


@dataclass(frozen=True)
class Precision:
    """Average precision of scores (N, classes) for the labels ``truth``, of the same shape.

    Over the classes that any video has. Raises UsageError if there is none, MissingExtraError
    without scikit-learn.
    """

    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not self.truth.any():
            raise UsageError("None of the held-out videos that could be read has a label.")

    @cached_property
    def by_class(self) -> dict[int, float]:
        """Average precision from 0 to 1 by the index of the class."""
        return _average_precisions(self.scores, self.truth)

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_class.values())))

    @property
    def interval(self) -> tuple[float, float]:
        """Where 95 % of the means over resampled videos are (bootstrap)."""
        random = np.random.default_rng(0)
        means = []
        for _ in range(RESAMPLES):
            some = random.integers(len(self.scores), size=len(self.scores))
            values = _average_precisions(self.scores[some], self.truth[some]).values()
            means += [np.mean(list(values))] if values else []
        tails = [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2]
        low, high = np.percentile(means, tails)
        return float(low), float(high)

    def videos_of(self, index: int) -> int:
        return int(self.truth[:, index].sum())


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over ``videos`` readable videos, and either of the two measures."""

    videos: int
    loss: float
    accuracy: Accuracy | None
    precision: Precision | None
    unreadable: dict[str, str]

    @property
    def score(self) -> float:
        """Top-1 accuracy or mean average precision, from 0 to 1."""
        if self.precision is not None:
            return self.precision.mean
        assert self.accuracy is not None
        return self.accuracy.top1.correct / self.accuracy.top1.total

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy from 0 to 1, None with several labels."""
        return self.accuracy and self.accuracy.top5.correct / self.accuracy.top5.total

    def summary(self, classes: Sequence[str]) -> list[str]:
        """Lines for a person: the measures with their confidence intervals, the worst classes."""
        level = f"{CONFIDENCE:.0%} confidence"
        if self.precision is not None:
            low, high = self.precision.interval
            found = self.precision.by_class
            lines = [
                f"mean average precision {self.score:.1%} ({level}: {low:.1%} to {high:.1%}), "
                f"{len(found)} classes, {self.videos} videos"
            ]
            worst = sorted(found, key=found.__getitem__)[:WORST]
            counts = {index: self.precision.videos_of(index) for index in worst}
            return lines + [f"  {classes[i]}: {found[i]:.1%}, {counts[i]} videos" for i in worst]
        assert self.accuracy is not None
        lines = [
            f"{name} {p.percent:.1f}% ({level}: {p.interval[0]:.1f} to {p.interval[1]:.1f}%), "
            f"{p.correct} of {p.total} videos"
            for name, p in (("top-1", self.accuracy.top1), ("top-5", self.accuracy.top5))
        ]
        for row in self.accuracy.worst_first[:WORST]:
            other = row.confused_with
            confused = "" if other is None else f", {row.confused} as {classes[other]}"
            share = f"{row.top1.correct} of {row.top1.total}"
            lines.append(f"  {classes[row.index]}: {row.top1.percent:.1f}% ({share}){confused}")
        return lines

    def write(self, folder: Path, classes: Sequence[str], title: str) -> list[str]:
        """Write the measures of all classes, and a confusion matrix; returns the file names."""
        if self.accuracy is not None:
            write_accuracy_files(folder, self.accuracy, classes, title)
            return [name for name in FILE_NAMES if (folder / name).exists()]
        assert self.precision is not None
        rows: list[list[Any]] = [["class", "class_index", "videos", "average_precision"]]
        for index, value in sorted(self.precision.by_class.items(), key=lambda item: item[1]):
            videos = self.precision.videos_of(index)
            rows.append([classes[index], index, videos, f"{value:.4f}"])
        write_csv(folder / PER_CLASS_NAME, rows)
        return [PER_CLASS_NAME]


class Evaluator:
    """Evaluates networks on the held-out videos of ``split``, shared by the processes."""

    def __init__(
        self,
        split: Split,
        clip: ClipSpec,
        config: EvaluationConfig,
        batch: int,
        workers: int,
        group: Group,
    ) -> None:
        self._split, self._batch, self._workers, self._group = split, batch, workers, group
        self._views = Views(split.held_out, len(split.classes), clip, config.clips, config.crops)

    def __call__(self, model: nn.Module, step: StepConfig) -> Evaluation | None:
        """Of a TrainingModel in eval mode, the same in all processes; None if nothing is readable.

        With several labels per video, raises MissingExtraError without scikit-learn.
        """
        share = EvaluationSampler(len(self._views), self._batch, self._group)
        device = next(model.parameters()).device
        scores: list[Tensor] = []
        targets: list[Tensor] = []
        unreadable: dict[str, str] = {}
        batch: Batch
        for batch in loader(self._views, share, self._workers):
            unreadable.update(batch.unreadable)
            if batch.clips is not None:
                views, several = batch.clips.to(device), self._split.multi_label
                found = log_probabilities(model, step, views, self._batch, multi_label=several)
                scores.append(found.cpu())
                targets.append(batch.targets)
        everything = self._group.gather((scores, targets, unreadable))
        scores = [part for share_of in everything for part in share_of[0]]
        targets = [part for share_of in everything for part in share_of[1]]
        unreadable = {name: why for share_of in everything for name, why in share_of[2].items()}
        if not scores:
            return None
        return evaluation_of(torch.cat(scores), torch.cat(targets), unreadable)


def evaluation_of(
    scores: Tensor, targets: Tensor, unreadable: dict[str, str] | None = None
) -> Evaluation:
    """From log-probabilities (N, classes) and targets (N,), or (N, classes) of 0 or 1.

    Raises WeightsError if the network computed anything that is not a number.
    """
    if scores.isnan().any():
        raise WeightsError("The network's outputs are not numbers; use a lower learning rate.")
    if not targets.is_floating_point():
        loss = float(F.nll_loss(scores.double(), targets))
        ranks, predicted = ranked(scores, targets)
        accuracy = measure(targets.tolist(), ranks.tolist(), predicted.tolist())
        return Evaluation(len(targets), loss, accuracy, None, unreadable or {})
    shares = scores.double().exp().clamp(SMALLEST, 1 - SMALLEST)
    loss = float(F.binary_cross_entropy(shares, targets.double()))
    precision = Precision(scores.double().numpy(), targets.numpy() > 0)
    return Evaluation(len(targets), loss, None, precision, unreadable or {})


def _average_precisions(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> dict[int, float]:
    try:
        from sklearn.metrics import average_precision_score
    except ImportError:
        raise missing_extra("Mean average precision", "finetune") from None
    return {
        int(index): float(average_precision_score(truth[:, index], scores[:, index]))
        for index in np.flatnonzero(truth.any(axis=0))
    }
