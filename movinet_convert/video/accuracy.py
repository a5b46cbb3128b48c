"""Accuracies with their confidence: overall, per class, and against an expected figure.

The share of correct predictions is a binomial proportion. Its confidence interval is the score
interval of E. B. Wilson, "Probable inference, the law of succession, and statistical inference"
(Journal of the American Statistical Association 22, 1927), which also holds for few videos and for
shares near 0 and 1. An expected share is compared by the score test that this interval inverts, so
the two agree: a share is consistent if it is inside the interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONFIDENCE = 0.95
POWER = 0.8  # the probability with which a detectable difference is detected
TOP = 5

_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)  # 1.96


def wilson_interval(share: float, total: int, z: float = _Z) -> tuple[float, float]:
    """The interval around a share (0 to 1) of ``total``; ``z`` standard errors, 1.96 for 95 %."""
    scale = 1 + z**2 / total
    center = (share + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Proportion:
    """How many predictions are correct, of how many."""

    correct: int
    total: int

    @property
    def percent(self) -> float | None:
        """None if there are no predictions."""
        return 100 * self.correct / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, in percent; 0 to 100 if there are no predictions."""
        if not self.total:
            return 0.0, 100.0
        low, high = wilson_interval(self.correct / self.total, self.total)
        return 100 * low, 100 * high


@dataclass(frozen=True)
class ClassAccuracy:
    """The accuracy over the videos of one class.

    ``confused_with`` is the wrong class that is predicted most often for them, None if there is
    none, and ``confused`` how often.
    """

    index: int
    top1: Proportion
    top5: Proportion
    confused_with: int | None
    confused: int


@dataclass(frozen=True)
class Accuracy:
    """Accuracies over all videos and over those of each class that has any, by index.

    ``confusion`` counts (class, predicted class); it has no entry for pairs that do not occur.
    """

    top1: Proportion
    top5: Proportion
    classes: tuple[ClassAccuracy, ...]
    confusion: Counter[tuple[int, int]]

    @property
    def worst_first(self) -> list[ClassAccuracy]:
        """The classes by top-1, of equal ones those with more videos first."""
        return sorted(self.classes, key=lambda c: (c.top1.correct / c.top1.total, -c.top1.total))

    def matrix(self) -> tuple[list[int], NDArray[np.int64]]:
        """The classes that have videos or are predicted, and their confusion matrix.

        Row: class; column: predicted class; value: number of videos.
        """
        classes = sorted({index for pair in self.confusion for index in pair})
        places = {index: place for place, index in enumerate(classes)}
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        for (label, predicted), count in self.confusion.items():
            matrix[places[label], places[predicted]] = count
        return classes, matrix


def ranked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of the correct class, 0 the best, and the predicted class, both (N,).

    From logits (N, classes) and class indices (N,). The rank is how many other classes score at
    least as high: ties count against the model, since equal logits do not distinguish classes. The
    correct class is predicted if its rank is 0, else the best of the others.
    """
    own = logits.gather(1, labels[:, None])
    ranks = (logits >= own).sum(1) - 1
    others = logits.scatter(1, labels[:, None], -math.inf).argmax(1)
    return ranks, torch.where(ranks == 0, labels, others)


def measure(labels: Sequence[int], ranks: Sequence[int], predicted: Sequence[int]) -> Accuracy:
    """The accuracy of predictions: the class, its rank and the predicted class of each video.

    ``ranked`` computes the latter two from logits.
    """
    videos, right, right_in_5 = Counter(labels), Counter[int](), Counter[int]()
    for label, rank in zip(labels, ranks, strict=True):
        right[label] += rank == 0
        right_in_5[label] += rank < TOP
    confusion = Counter(zip(labels, predicted, strict=True))
    mistakes: dict[int, tuple[int, int]] = {}  # class -> (videos, the class predicted for them)
    for (label, other), count in sorted(confusion.items()):
        if other != label and count > mistakes.get(label, (0, 0))[0]:
            mistakes[label] = (count, other)
    classes = []
    for index, total in sorted(videos.items()):
        confused, other_class = mistakes.get(index, (0, None))
        top1, top5 = Proportion(right[index], total), Proportion(right_in_5[index], total)
        classes.append(ClassAccuracy(index, top1, top5, other_class, confused))
    return Accuracy(
        Proportion(right.total(), videos.total()),
        Proportion(right_in_5.total(), videos.total()),
        tuple(classes),
        confusion,
    )


@dataclass(frozen=True)
class Comparison:
    """An accuracy and the one expected, in percent: the score test of equality, at 95 %.

    It assumes that the videos are a random sample. Few videos prove little: ``detectable`` says
    what they could have shown.
    """

    measured: Proportion
    expected: float

    @property
    def p_value(self) -> float:
        """How probable a difference at least as large is if the expected accuracy is true."""
        difference = abs(self.measured.correct / self.measured.total - self._share)
        if difference == 0:
            return 1.0
        return 2 * (1 - _NORMAL.cdf(difference / self._error)) if self._error else 0.0

    @property
    def consistent(self) -> bool:
        return self.p_value >= 1 - CONFIDENCE

    @property
    def detectable(self) -> tuple[float | None, float | None]:
        """The accuracies from which on, downwards and upwards, so many videos detect a difference.

        In percent, with a probability of 80 %; None if no accuracy is far enough. The test rejects
        shares beyond 1.96 standard errors from the expected one; the true share of which 80 % are
        beyond that limit is a one-sided Wilson bound of the limit.
        """
        low, high = self._share - _Z * self._error, self._share + _Z * self._error
        z, total = _NORMAL.inv_cdf(POWER), self.measured.total
        return (
            100 * wilson_interval(low, total, z)[0] if low > 0 else None,
            100 * wilson_interval(high, total, z)[1] if high < 1 else None,
        )

    @property
    def _share(self) -> float:
        return self.expected / 100

    @property
    def _error(self) -> float:
        """The standard error of a share, if the expected one is true."""
        return math.sqrt(self._share * (1 - self._share) / self.measured.total)
