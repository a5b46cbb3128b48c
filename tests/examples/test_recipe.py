"""The parts of the training recipe by themselves: augmentation, sampling, average, views, mAP."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.finetune.augmentation import Augmentation, random_crop
from examples.finetune.data import ClipSpec, Views, read_windows, three_crops
from examples.finetune.ema import WeightAverage
from examples.finetune.evaluation import Precision, evaluation_of
from examples.finetune.optimizer import OPTIMIZERS, OptimizerConfig, Updates
from examples.finetune.sampling import TrainingSampler, frequencies
from examples.finetune.splits import MultiLabelVideo
from examples.finetune.step import StepConfig, log_probabilities
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.video.dataset import LabelledVideo
from movinet_convert.video.encode import write_video
from movinet_convert.video.frames import Sampling, read_frames
from movinet_convert.video.processes import Group

pytest.importorskip("av")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Augmentation.


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (40, 200)])
def test_a_crop_has_an_area_and_an_aspect_ratio_in_the_official_ranges(
    shape: tuple[int, int],
) -> None:
    random = generator()
    for _ in range(500):
        top, left, height, width = random_crop(*shape, (0.08, 1.0), (0.5, 2.0), random)
        assert 0 <= top <= shape[0] - height
        assert 0 <= left <= shape[1] - width
        assert 0.1 <= height * width / (shape[0] * shape[1]) <= 1  # at least a tenth is covered
        assert 0.5 - 1 / height <= width / height <= 2 + 1 / height  # rounded to pixels


def test_an_image_without_such_a_crop_is_taken_whole() -> None:
    assert random_crop(4, 400, (0.9, 1.0), (0.5, 2.0), generator()) == (0, 0, 4, 400)


def test_all_frames_of_a_clip_are_cropped_and_flipped_alike() -> None:
    ramp = torch.arange(40.0).expand(3, 5, 30, 40)  # the value is the column
    flipped = []
    for seed in range(40):
        clip = Augmentation((0.3, 1.0), flip=0.5)(ramp, 16, generator(seed))
        assert clip.shape == (3, 5, 16, 16)
        assert torch.equal(clip, clip[:, :1].expand_as(clip))
        flipped.append(bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]))
    assert 10 < sum(flipped) < 30


def test_a_plain_crop_has_the_pixels_of_the_frame() -> None:
    frame = torch.rand(3, 2, 20, 24)
    clip = Augmentation()(frame, 16, generator())
    windows = frame.unfold(-2, 16, 1).unfold(-2, 16, 1)
    assert any(
        torch.equal(clip, windows[:, :, y, x]) for y, x in itertools.product(range(5), range(9))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": (0.0, 1.0)}, "area"),
        ({"area": (0.01, 0.05)}, "reaches 0.1"),
        ({"area": (0.5, 1.5)}, "area"),
        ({"aspect": (2.0, 0.5)}, "aspect"),
        ({"flip": 1.5}, "flip"),
    ],
)
def test_ranges_that_no_crop_has_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Augmentation(**options)  # type: ignore[arg-type]


# Sampling.


def labelled(*labels: int) -> list[LabelledVideo]:
    return [LabelledVideo(str(i), Path(str(i)), label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("balance", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)], ids=["videos", "root", "classes"]
)
def test_balance_decides_how_often_a_rare_class_is_seen(balance: float, share: float) -> None:
    videos = labelled(*[0] * 90, *[1] * 10)
    often = frequencies(videos, balance)
    assert often.sum() == pytest.approx(100)
    assert often[90:].sum() / 100 == pytest.approx(share)
    sampler = TrainingSampler(often, 5, Group(), seed=0)
    drawn = [key for batch in sampler for key in batch]
    assert len(drawn) == 100
    assert len(set(drawn)) == 100  # a video that is drawn again has another clip
    counts = collections.Counter(index for _, index, _ in drawn)
    assert all(abs(counts[i] - often[i]) < 1 for i in range(100))


def test_a_video_with_several_labels_counts_as_the_mean_over_them() -> None:
    labels = [(0,), (0,), (0,), (0, 1), ()]
    videos = [MultiLabelVideo(str(i), Path(str(i)), value) for i, value in enumerate(labels)]
    often = frequencies(videos, 1.0)
    assert often[3] / often[0] == pytest.approx((1 / 4 + 1) / 2 / (1 / 4))
    assert often[4] == pytest.approx(often[:4].mean())


@pytest.mark.parametrize("often", [np.ones(23), np.linspace(0.5, 1.5, 23)])
def test_a_step_has_the_same_videos_in_any_number_of_processes(often: np.ndarray) -> None:
    one = [set(batch) for batch in TrainingSampler(often, 6, Group(), seed=3)]
    parts = [list(TrainingSampler(often, 2, Group(rank, 3), seed=3)) for rank in range(3)]
    assert [set(itertools.chain(*batches)) for batches in zip(*parts, strict=True)] == one


def test_few_videos_are_repeated_to_fill_a_batch() -> None:
    (batch,) = TrainingSampler(np.ones(3), 8, Group(), seed=0)
    assert len(set(batch)) == 8
    assert {index for _, index, _ in batch} == {0, 1, 2}


# The average of the weights, and the optimizers.


def test_the_average_follows_its_formula_and_leaves_frozen_weights_alone() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    average = WeightAverage(layer, 0.25)
    expected = layer.weight.detach().clone()
    for step in range(1, 5):
        with torch.no_grad():
            layer.weight.fill_(step)
        average.update()
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    own, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    with average.swapped():
        torch.testing.assert_close(layer.weight.detach(), expected)
        assert torch.equal(layer.bias, bias)
    assert torch.equal(layer.weight, own)


def test_the_average_is_restored_from_its_state() -> None:
    layer = nn.Linear(2, 2)
    average, again = WeightAverage(layer, 0.9), WeightAverage(layer, 0.9)
    for value in (1.0, 2.0, 5.0):
        nn.init.constant_(layer.weight, value)
        average.update()
    again.load_state_dict(average.state_dict())
    for one in (average, again):
        nn.init.constant_(layer.weight, 7.0)
        one.update()
    with average.swapped():
        expected = layer.weight.detach().clone()
    with again.swapped():
        assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_average_that_never_moves_is_rejected(decay: float) -> None:
    with pytest.raises(UsageError, match="below 1"):
        WeightAverage(nn.Linear(1, 1), decay)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_clipped_by_their_common_norm(name: str) -> None:
    layer = nn.Linear(3, 2)
    updates = Updates(layer, OptimizerConfig(name, weight_decay=0.0, clip_norm=1.0))
    seen: list[torch.Tensor] = []
    updates.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
    )
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 30.0), torch.full((2,), -40.0)
    updates.step(0.1)
    assert seen[0].norm().item() == pytest.approx(1.0, rel=1e-5)
    assert seen[0][-1] / seen[0][0] == pytest.approx(-4 / 3)
    assert layer.weight.grad is None


def test_the_learning_rate_warms_up_and_then_follows_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup=4)
    rates = [config.learning_rate_at(step, 12) for step in range(13)]
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[8] == pytest.approx(1.0)  # half way
    assert rates[12] == pytest.approx(0.0)


# Evaluation.


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    """Twenty frames, of which number i has the brightness 10 x i, wider than high."""
    path = tmp_path / "long.mp4"
    write_video(path, [np.full((32, 64, 3), 10 * i, np.uint8) for i in range(20)], 10.0)
    return path


def test_clips_of_a_video_start_at_equal_distances(long_video: Path) -> None:
    windows = read_windows(long_video, Sampling(10.0, 32), 4, 3)
    starts = [round(float(window[0].image.mean()) / 10) for window in windows]
    assert starts == [0, 8, 16]
    frames = list(read_frames(long_video, Sampling(10.0, 32)))
    assert all(
        np.array_equal(a.image, b.image) for a, b in zip(windows[1], frames[8:], strict=False)
    )


def test_three_crops_cover_the_longer_side() -> None:
    clips = torch.rand(2, 3, 4, 32, 50)
    crops = three_crops(clips, 32)
    assert crops.shape == (6, 3, 4, 32, 32)
    for crop, left in zip(crops.split(2), (0, 9, 18), strict=True):
        assert torch.equal(crop, clips[..., left : left + 32])
    assert torch.equal(three_crops(clips.transpose(-1, -2), 32), crops.transpose(-1, -2))


def test_views_of_a_video_are_clips_times_crops(long_video: Path) -> None:
    views = Views([LabelledVideo("a", long_video, 1)], 2, ClipSpec(4, 32, 10.0), clips=2, crops=3)
    sample = views[0]
    assert sample.clips is not None
    assert sample.clips.shape == (6, 3, 4, 32, 32)
    with pytest.raises(UsageError, match="1 or 3 crops"):
        Views([], 2, ClipSpec(4, 32), crops=2)


@pytest.mark.parametrize("several", [False, True])
def test_probabilities_of_views_are_averaged(several: bool) -> None:
    def model(clips: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return clips[:, :, 0, 0, 0], None  # the logits are the first pixel

    views = torch.randn(2, 5, 3, 2, 4, 4)
    found = log_probabilities(model, StepConfig(), views, 3, multi_label=several)  # type: ignore[arg-type]
    logits = views[:, :, :, 0, 0, 0]
    expected = (logits.sigmoid() if several else logits.softmax(dim=2)).mean(dim=1)
    torch.testing.assert_close(found.exp(), expected)


def test_average_precision_of_a_case_computed_by_hand() -> None:
    pytest.importorskip("sklearn")
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5], [0.6, 0.4, 0.5]])
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    found = Precision(scores, truth)
    # Hits at ranks 1 and 3; a hit at rank 2; no video of the third class.
    assert found.by_class == pytest.approx({0: (1 / 1 + 2 / 3) / 2, 1: 1 / 2})
    assert found.mean == pytest.approx((5 / 6 + 1 / 2) / 2)
    low, high = found.interval
    assert low < found.mean < high
    with pytest.raises(UsageError, match="has a label"):
        Precision(scores, np.zeros((4, 3), bool))


def test_an_evaluation_says_what_its_figures_are_worth() -> None:
    targets = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 4, 1], [0, 2, 0], [1, 0, 2]])
    found = evaluation_of(logits.log_softmax(1), targets)
    assert found.score == pytest.approx(4 / 5)
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item())
    lines = found.summary(["zero", "one", "two"])
    assert lines[0].startswith("top-1 80.0% (95% confidence: 37.6 to 96.4%), 4 of 5")
    assert lines[2] == "  zero: 50.0% (1 of 2), 1 as one"


def test_a_network_that_computes_no_numbers_is_an_error() -> None:
    with pytest.raises(WeightsError, match="not numbers"):
        evaluation_of(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))
