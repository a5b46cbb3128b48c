"""Confidence of accuracies, comparison with an expected one, and the files that show them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from movinet_convert.errors import EvaluationError
from movinet_convert.video.accuracy import Accuracy, Comparison, Proportion, measure, ranked
from movinet_convert.video.accuracy_files import (
    CONFUSION_NAME,
    FILE_NAMES,
    MAX_CLASSES,
    PER_CLASS_NAME,
    PICTURE_NAME,
    write_accuracy_files,
)
from tests.helpers.odd_videos import largest_file

# From R. G. Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
PUBLISHED_INTERVALS = [
    (81, 263, 25.53, 36.62),
    (15, 148, 6.24, 16.05),
    (0, 20, 0.0, 16.11),
    (1, 29, 0.61, 17.18),
]
# class, rank, predicted
PREDICTIONS = [
    (0, 0, 0),
    (0, 0, 0),
    (0, 1, 2),
    (0, 6, 3),
    (0, 2, 2),
    (4, 0, 4),
    (5, 5, 0),
    (5, 0, 5),
]
NAMES = ("a", "b", "c, d", "$d", "e_e", "跳舞")


def accuracy(predictions: list[tuple[int, int, int]]) -> Accuracy:
    return measure(*([p[i] for p in predictions] for i in range(3)))


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(("correct", "total", "low", "high"), PUBLISHED_INTERVALS)
def test_intervals_equal_published_ones(correct: int, total: int, low: float, high: float) -> None:
    assert Proportion(correct, total).interval == pytest.approx((low, high), abs=0.005)


def test_no_predictions_have_no_accuracy_and_say_nothing() -> None:
    empty = measure([], [], [])
    assert empty.top1.percent is None
    assert empty.top1.interval == (0, 100)
    assert empty.classes == ()


@pytest.mark.parametrize("total", [1, 7, 40, 1000])
@pytest.mark.parametrize("expected", [0.17, 50.0, 72.05, 90.63])
def test_an_accuracy_is_consistent_with_those_in_its_interval(total: int, expected: float) -> None:
    for correct in range(total + 1):
        measured = Proportion(correct, total)
        low, high = measured.interval
        assert Comparison(measured, expected).consistent == (low <= expected <= high)


@pytest.mark.parametrize(
    ("correct", "expected", "consistent"),
    [(20, 100, True), (19, 100, False), (0, 0, True), (1, 0, False)],
)
def test_certain_expectations_have_no_tolerance(
    correct: int, expected: float, consistent: bool
) -> None:
    assert Comparison(Proportion(correct, 20), expected).consistent == consistent


def found_consistent(expected: float, total: int) -> np.ndarray:
    """For each number of correct videos, whether it is consistent."""
    counts = range(total + 1)
    return np.array([Comparison(Proportion(k, total), expected).consistent for k in counts])


def probabilities(share: float, total: int) -> np.ndarray:
    """The binomial distribution."""
    return np.array(
        [math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
    )


@pytest.mark.parametrize("total", [50, 200, 900])
@pytest.mark.parametrize("expected", [50.0, 72.05, 84.27, 90.63])
def test_a_true_expectation_is_rejected_once_in_twenty(total: int, expected: float) -> None:
    rejected = 1 - probabilities(expected / 100, total) @ found_consistent(expected, total)
    assert 0.025 < rejected < 0.07


def test_simulated_verdicts_are_right() -> None:
    rng = np.random.default_rng(0)
    consistent = found_consistent(72.05, 1000)
    share = {true: consistent[rng.binomial(1000, true, 4000)].mean() for true in (0.7205, 0.66)}
    assert 0.94 < share[0.7205] < 0.96
    assert share[0.66] < 0.02


@pytest.mark.parametrize("total", [50, 200, 900])
@pytest.mark.parametrize("expected", [20.0, 72.05, 90.63])
def test_a_detectable_accuracy_is_detected_four_times_in_five(total: int, expected: float) -> None:
    consistent = found_consistent(expected, total)
    for accuracy in Comparison(Proportion(0, total), expected).detectable:
        if accuracy is not None:
            detected = 1 - probabilities(accuracy / 100, total) @ consistent
            assert 0.7 < detected < 0.9


def test_a_single_video_detects_nothing() -> None:
    assert Comparison(Proportion(0, 1), 72.05).detectable == (None, None)


@pytest.mark.parametrize(
    ("logits", "rank", "predicted"),
    [([3.0, 1, 2], 0, 0), ([1.0, 3, 2], 2, 1), ([2.0, 2, 1], 1, 1), ([1.0] * 3, 2, 1)],
)
def test_a_tie_counts_against_the_model(logits: list[float], rank: int, predicted: int) -> None:
    ranks, classes = ranked(torch.tensor([logits]), torch.tensor([0]))
    assert (ranks.tolist(), classes.tolist()) == ([rank], [predicted])


def test_classes_are_counted_alone_and_the_worst_come_first() -> None:
    figures = accuracy(PREDICTIONS)
    assert (figures.top1, figures.top5) == (Proportion(4, 8), Proportion(6, 8))
    assert [(c.index, c.top1, c.top5) for c in figures.worst_first] == [
        (0, Proportion(2, 5), Proportion(4, 5)),
        (5, Proportion(1, 2), Proportion(1, 2)),
        (4, Proportion(1, 1), Proportion(1, 1)),
    ]
    confused = {c.index: (c.confused_with, c.confused) for c in figures.classes}
    assert confused == {0: (2, 2), 4: (None, 0), 5: (0, 1)}


@pytest.mark.filterwarnings("error")
def test_the_files_have_the_counted_values(tmp_path: Path) -> None:
    write_accuracy_files(tmp_path, accuracy(PREDICTIONS), NAMES, "six classes")
    assert rows(tmp_path / CONFUSION_NAME) == [
        ["class \\ predicted", "a", "c, d", "$d", "e_e", "跳舞"],
        ["a", "2", "2", "1", "0", "0"],
        ["c, d", "0", "0", "0", "0", "0"],
        ["$d", "0", "0", "0", "0", "0"],
        ["e_e", "0", "0", "0", "1", "0"],
        ["跳舞", "1", "0", "0", "0", "1"],
    ]
    header, worst, *others = rows(tmp_path / PER_CLASS_NAME)
    assert dict(zip(header, worst, strict=True)) == {
        "class": "a",
        "class_index": "0",
        "videos": "5",
        "top1_correct": "2",
        "top1_percent": "40.00",
        "top1_low": "11.76",
        "top1_high": "76.93",
        "top5_correct": "4",
        "top5_percent": "80.00",
        "top5_low": "37.55",
        "top5_high": "96.38",
        "confused_with": "c, d",
        "confused": "2",
    }
    assert [row[0] for row in others] == ["跳舞", "e_e"]


def test_the_picture_has_a_cell_for_each_pair_of_classes(tmp_path: Path) -> None:
    from PIL import Image

    for count in (6, 70):
        labels = list(range(count))
        wrong = [(i, 1, (i + 1) % count) for i in labels]
        write_accuracy_files(tmp_path, accuracy(wrong), [f"${i}" for i in labels], "$_")
        with Image.open(tmp_path / PICTURE_NAME) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0] > 60).sum()  # the cells, at a share of one
        assert blue > count * 10


def test_more_classes_than_a_picture_shows_have_only_their_table(tmp_path: Path) -> None:
    count = MAX_CLASSES + 1
    names = [str(i) for i in range(count)]
    write_accuracy_files(tmp_path, accuracy([(i, 0, i) for i in range(count)]), names, "many")
    assert [path.name for path in tmp_path.iterdir()] == [PER_CLASS_NAME]


def test_a_full_disk_keeps_the_earlier_files(tmp_path: Path) -> None:
    write_accuracy_files(tmp_path, accuracy(PREDICTIONS), NAMES, "before")
    before = {name: (tmp_path / name).read_bytes() for name in FILE_NAMES}
    with largest_file(100), pytest.raises(EvaluationError, match="cannot be written .*unchanged"):
        write_accuracy_files(tmp_path, accuracy(PREDICTIONS[:3]), NAMES, "after")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
