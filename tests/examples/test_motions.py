"""The generated motions: no frame tells the class, but the video does."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from examples.finetune.__main__ import MODEL_NAME, main
from examples.finetune.augmentation import Augmentation
from examples.finetune.checkpoint import METRICS_NAME
from examples.finetune.data import Clips, ClipSpec
from examples.finetune.motions import FRAMES, MOTIONS, SIZE, moving, write_pairs
from examples.finetune.splits import read_lists
from movinet_convert import load_converted
from movinet_convert.video.accuracy_files import PER_CLASS_NAME
from movinet_convert.video.frames import Sampling, count_frames

pytest.importorskip("av")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_frame_tells_anything_about_its_motion() -> None:
    """The nearest mean of first, middle or last frames, or of their histograms, guesses.

    The same classifier of correlations between frames does not.
    """
    count, half = 24, 12  # videos per class, and those to learn from
    videos = np.array(
        [
            [list(moving(motion, generator(100 * label + i))) for i in range(count)]
            for label, motion in enumerate(MOTIONS)
        ]
    )  # (classes, videos, T, H, W, 3)
    small = videos[:, :, :, ::4, ::4].mean(axis=-1).reshape(len(MOTIONS), count, FRAMES, -1)

    def accuracy(features: np.ndarray) -> float:
        """Of the nearest class mean, over videos that it was not computed from."""
        means = features[:, :half].mean(axis=1)
        tested = features[:, half:]
        distances = ((tested[:, :, None] - means) ** 2).sum(axis=-1)
        return float((distances.argmin(axis=2) == np.arange(len(MOTIONS))[:, None]).mean())

    chance = 1 / len(MOTIONS)
    for time in (0, FRAMES // 2, FRAMES - 1):
        assert accuracy(small[:, :, time]) < 2 * chance
        assert accuracy(np.sort(small[:, :, time], axis=-1)) < 2 * chance  # of its histogram
    assert accuracy(correlations(videos.mean(axis=-1))) > 4 * chance


def correlations(videos: np.ndarray) -> np.ndarray:
    """How similar each frame is to the one before, shifted by 3 pixels in every direction."""
    before, after = videos[:, :, :-1], videos[:, :, 1:]
    shifts = itertools.product((-3, 0, 3), repeat=2)
    similar = [(np.roll(before, shift, (-2, -1)) * after).mean((-3, -2, -1)) for shift in shifts]
    return np.stack(similar, axis=-1) / np.square(videos).mean((-3, -2, -1))[..., None]


def test_motions_move_as_they_are_called() -> None:
    """A frame of a field that moves left has the pixels that were further right."""
    wide = np.array(list(moving("left", generator(1)))).mean(axis=-1)
    errors = [np.square(wide[1, :, : SIZE - s] - wide[0, :, s:]).mean() for s in range(6)]
    assert int(np.argmin(errors)) in (2, 3, 4)
    turned = np.array(list(moving("clockwise", generator(1)))).mean(axis=-1)
    # In the middle of the right edge the image comes down.
    strips = turned[:, :, -5:]
    errors = [np.square(strips[1, 12:20] - strips[0, 12 - s : 20 - s]).mean() for s in range(-5, 6)]
    assert int(np.argmin(errors)) - 5 in (1, 2, 3, 4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for part, videos in (("train", 40), ("val", 8)):
        write_pairs(folder, part, videos, seed=len(part))
    return folder


def test_pairs_have_two_motions_and_a_table_of_labels(pairs: Path) -> None:
    split = read_lists("multi-label", pairs, pairs)
    assert split.multi_label
    assert len(split.training) == 40
    assert split.classes == MOTIONS
    clips = Clips(split.training, len(split.classes), ClipSpec(16, 32, 10.0), Augmentation(), 0)
    sample = clips[0, 0, 0]
    assert sample.clips is not None
    assert sample.target.shape == (len(split.classes),)
    assert sample.target.sum() == 2
    assert count_frames(split.training[0].path, Sampling()) == 2 * FRAMES


def test_the_command_trains_on_several_labels_per_video(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    command = [str(pairs), "--lists", str(pairs), "--layout", "multi-label", "--random"]
    command += ["--model", "t0-stream", "--out", str(tmp_path), "--size", "32", "--epochs", "1"]
    command += ["--frames", "16", "--eval-clips", "2", "--workers", "0", "--batch", "20"]
    done = CliRunner().invoke(main, [*command, "--flip", "0"])
    assert done.exit_code == 0, done.output
    assert "mean average precision" in done.output
    (row,) = csv.DictReader((tmp_path / METRICS_NAME).read_text().splitlines())
    assert row["held_out_accuracy"] == ""
    assert 0 < float(row["held_out_precision"]) < 1
    rows = list(csv.DictReader((tmp_path / PER_CLASS_NAME).read_text().splitlines()))
    assert sum(int(row["videos"]) for row in rows) == 2 * 8
    assert load_converted(tmp_path / MODEL_NAME).num_classes == len(MOTIONS)
    again = CliRunner().invoke(main, [*command, "--resume", "--label-smoothing", "0.1"])
    assert again.exit_code == 2
    assert "not smoothed" in again.output
