"""Fine-tuning on folders of videos: data, steps, kills, several processes, the whole script."""

from __future__ import annotations

import collections
import copy
import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.finetune.augmentation import Augmentation
from examples.finetune.checkpoint import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    EpochMetrics,
    rng_state,
    set_rng_state,
)
from examples.finetune.data import Clips, ClipSpec, Views, random_window
from examples.finetune.evaluation import EvaluationConfig, Evaluator
from examples.finetune.optimizer import OptimizerConfig
from examples.finetune.sampling import EvaluationSampler, TrainingSampler
from examples.finetune.shapes import SHAPES, write_shapes
from examples.finetune.splits import Split, Video, read_split
from examples.finetune.step import StepConfig, TrainingModel, accumulate_gradients
from examples.finetune.train import BEST_NAME, TrainConfig, Trainer
from movinet_convert import create_model, load_converted
from movinet_convert.errors import UsageError, VideoError, WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.video.accuracy_files import FILE_NAMES
from movinet_convert.video.frames import Frame
from movinet_convert.video.processes import Group
from movinet_convert.weights.file import read_header

pytest.importorskip("av")

ROOT = Path(__file__).parents[2]
CLIP = ClipSpec(frames=4, size=32, fps=10.0)
SMALL = ["--model", "t0-stream", "--random", "--frames", "4", "--size", "32", "--chunk", "2"]
SMALL += ["--batch", "4", "--epochs", "2", "--workers", "0", "--save-every", "1"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), videos=4)


@pytest.fixture(scope="module")
def split(videos: Path) -> Split:
    return read_split(videos, held_out=0.25)


def random_model(name: str, classes: int = len(SHAPES)) -> MoViNet:
    torch.manual_seed(0)
    model = create_model(name, num_classes=classes)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("scale"):
                parameter.fill_(0.5)
    return model


class Listener:
    """Counts the steps, and interrupts the run after ``until`` of them."""

    def __init__(self, until: int | None = None) -> None:
        self.steps = 0
        self._until = until

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self.steps += 1
        if self.steps == self._until:
            raise KeyboardInterrupt

    def epoch(self, metrics: EpochMetrics) -> None:
        pass


def config(**changes: object) -> TrainConfig:
    options = {"batch": 4, "epochs": 2, "workers": 0, "save_every": 2}
    options |= {"clip": CLIP, "step": StepConfig(chunk=2), **changes}  # type: ignore[dict-item]
    return TrainConfig(**options)  # type: ignore[arg-type]


def training_clips(videos: Sequence[Video], spec: ClipSpec = CLIP, seed: int = 0) -> Clips:
    return Clips(videos, len(SHAPES), spec, Augmentation(), seed)


def trainer(split: Split, folder: Path, **changes: object) -> Trainer:
    return Trainer(random_model("t0-stream"), split, config(**changes), folder, Group())


def test_write_shapes_writes_one_folder_of_videos_per_class(videos: Path, split: Split) -> None:
    assert split.classes == tuple(sorted(SHAPES))
    assert len(list(videos.glob("*/*.mp4"))) == 4 * len(SHAPES)
    clip, label, _, _ = Views(split.held_out, len(SHAPES), CLIP)[0]
    assert clip is not None
    assert clip.shape == (1, 3, 4, 32, 32)
    assert clip.dtype == torch.float32
    assert 0 <= clip.min() < clip.max() <= 1
    assert split.classes[label] == split.held_out[0].path.parent.name


def test_the_split_is_disjoint_and_stable(videos: Path, split: Split) -> None:
    training = {video.name for video in split.training}
    held_out = {video.name for video in split.held_out}
    assert not training & held_out
    assert len(training) == 12
    assert len(held_out) == 4
    assert read_split(videos, held_out=0.25) == split


def test_train_and_val_folders_decide_the_split(videos: Path, tmp_path: Path) -> None:
    for side in ("train", "val"):
        (tmp_path / side).symlink_to(videos)
    found = read_split(tmp_path)
    assert len(found.training) == len(found.held_out) == 16


@pytest.mark.parametrize("missing", ["classes", "validation"])
def test_an_incomplete_dataset_folder_is_rejected(missing: str, tmp_path: Path) -> None:
    if missing == "validation":
        (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match="class folders" if missing == "classes" else "none of"):
        read_split(tmp_path)


def test_a_clip_depends_only_on_seed_epoch_and_video(split: Split) -> None:
    clips = training_clips(split.training, seed=1)
    keys = [(0, 3, 0), (0, 3, 0), (1, 3, 0), (2, 3, 0), (0, 3, 1)]
    first, again, *later = (clips[key].clips for key in keys)
    assert isinstance(first, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    assert torch.equal(first, again)
    assert any(not torch.equal(first, clip) for clip in later if clip is not None)


def test_a_short_video_is_repeated(split: Split) -> None:
    long = ClipSpec(frames=11, size=32, fps=10.0)  # the videos have 8 frames
    several = Views(split.training, len(SHAPES), long, clips=2)
    for dataset, key in ((training_clips(split.training, long), (0, 0, 0)), (several, 0)):
        clip = dataset[key].clips  # type: ignore[index]
        assert clip is not None
        assert torch.equal(clip[:, :, 8:], clip[:, :, :3])


def test_every_part_of_a_video_is_equally_likely() -> None:
    frames = [Frame(float(i), np.zeros((1, 1, 3), np.uint8)) for i in range(7)]
    random = np.random.default_rng(0)
    starts = collections.Counter()
    for _ in range(4000):
        window = random_window(frames, 4, random)
        assert window == frames[int(window[0].time) :][:4]
        starts[window[0].time] += 1
    assert sorted(starts) == [0, 1, 2, 3]
    assert all(900 < count < 1100 for count in starts.values())


def test_processes_share_the_videos_of_an_epoch() -> None:
    samplers = [TrainingSampler(np.ones(23), 3, Group(rank, 2), seed=0) for rank in range(2)]
    seen = [index for sampler in samplers for batch in sampler for _, index, _ in batch]
    assert len(seen) == len(set(seen)) == 18
    evaluated = [
        i for rank in range(2) for b in EvaluationSampler(23, 3, Group(rank, 2)) for i in b
    ]
    assert sorted(evaluated) == list(range(23))


def test_the_sampler_resumes_in_the_middle_of_an_epoch() -> None:
    sampler = TrainingSampler(np.ones(23), 3, Group(), seed=0)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    sampler.epoch = 1
    assert list(sampler) != whole[4:]


def test_gradients_through_time_equal_those_of_the_whole_clip() -> None:
    clip = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    whole = random_model("t0-stream").eval()
    parts = copy.deepcopy(whole)
    per_frame, _ = whole.stream(clip, per_frame=True)
    loss = sum(F.cross_entropy(per_frame[:, i], labels) / 2 for i in (1, 3))
    loss.backward()  # type: ignore[union-attr]
    config = StepConfig(chunk=2, through_time=True)
    found = accumulate_gradients(TrainingModel(parts, config), config, clip, labels)
    assert found.item() == pytest.approx(loss.item())  # type: ignore[union-attr]
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_truncated_backpropagation_detaches_the_state_between_chunks() -> None:
    clip = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    ours = random_model("t0-stream").eval()
    theirs = copy.deepcopy(ours)
    config = StepConfig(chunk=2)
    accumulate_gradients(TrainingModel(ours, config), config, clip, labels)
    logits, state = theirs.stream(clip[:, :, :2])
    (F.cross_entropy(logits, labels) / 2).backward()
    logits, _ = theirs.stream(clip[:, :, 2:], state.detach())
    (F.cross_entropy(logits, labels) / 2).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_training_a_base_model_in_chunks_is_rejected() -> None:
    with pytest.raises(UsageError, match="t0-stream"):
        TrainingModel(create_model("t0-base"), StepConfig(chunk=2))


@pytest.mark.parametrize(
    ("interrupted_after", "changes"),
    [
        (3, {}),
        (
            5,
            {
                "optimizer": OptimizerConfig("rmsprop", 0.01, clip_tensor_norm=1.0, clip_norm=5.0),
                "augmentation": Augmentation((0.3, 1.0), flip=0.5),
                "ema": 0.9,
                "balance": 0.5,
            },
        ),
    ],
    ids=["plain", "recipe"],
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    interrupted_after: int, changes: dict[str, object], split: Split, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = trainer(split, whole, **changes).train(Listener(), resume=False)
    with pytest.raises(KeyboardInterrupt):
        trainer(split, stopped, **changes).train(Listener(interrupted_after), resume=False)
    found = trainer(split, stopped, **changes).train(Listener(), resume=True)
    columns = ("epoch", "step", "training_loss", "held_out_loss", "held_out_accuracy")
    assert [[getattr(row, c) for c in columns] for row in found] == [
        [getattr(row, c) for c in columns] for row in expected
    ]
    checkpoints = [torch.load(folder / CHECKPOINT_NAME) for folder in (whole, stopped)]
    states = [checkpoint["state_dicts"] for checkpoint in checkpoints]
    weights = [state["model"] for state in states]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    if changes:
        averages = [state["average"]["averages"] for state in states]
        assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
        assert any(not torch.equal(averages[0][name], weights[0][name]) for name in averages[0])


def test_a_run_writes_metrics_and_the_best_weights(split: Split, tmp_path: Path) -> None:
    history = trainer(split, tmp_path).train(Listener(), resume=False)
    with (tmp_path / METRICS_NAME).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[1]["held_out_loss"]) == history[1].held_out_loss
    assert load_converted(tmp_path / BEST_NAME).num_classes == len(SHAPES)
    assert read_header(tmp_path / BEST_NAME).labels == split.classes
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_average_of_the_weights_is_evaluated_and_saved(split: Split, tmp_path: Path) -> None:
    running = trainer(split, tmp_path, epochs=1, ema=0.9)
    (row,) = running.train(Listener(), resume=False)
    states = torch.load(tmp_path / CHECKPOINT_NAME)["state_dicts"]
    saved = load_converted(running.save_weights(tmp_path / "model.safetensors"))
    best = load_converted(tmp_path / BEST_NAME)
    averages = states["average"]["averages"]
    for name, tensor in saved.state_dict().items():
        # Moving statistics are those of the network that trained.
        assert torch.equal(tensor, averages.get(name, states["model"][name]))
        assert torch.equal(best.state_dict()[name], tensor)
    evaluator = Evaluator(split, CLIP, EvaluationConfig(), 4, 0, Group())
    step = config().step
    found = evaluator(TrainingModel(saved, step).eval(), step)
    assert found is not None
    assert found.loss == pytest.approx(row.held_out_loss, rel=1e-5)


def test_a_run_is_not_overwritten_or_resumed_with_other_settings(
    split: Split, tmp_path: Path
) -> None:
    trainer(split, tmp_path, epochs=1).train(Listener(), resume=False)
    with pytest.raises(UsageError, match="--resume"):
        trainer(split, tmp_path, epochs=1).train(Listener(), resume=False)
    with pytest.raises(UsageError, match="learning_rate"):
        trainer(split, tmp_path, epochs=1, optimizer=OptimizerConfig(learning_rate=5.0)).train(
            Listener(), resume=True
        )
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="start over in another folder"):
        trainer(split, tmp_path, epochs=1).train(Listener(), resume=True)


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"settings": 3},
        {"settings": {}, "state_dicts": {}},
        {"state_dicts": {"model": torch.zeros(3)}},
    ],
)
def test_an_invalid_checkpoint_is_rejected(content: object, split: Split, tmp_path: Path) -> None:
    ours = trainer(split, tmp_path)
    settings = ours._folder._settings
    if isinstance(content, dict) and content.get("settings") != 3:
        content = {**content, "settings": settings}
    torch.save(content, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(WeightsError, match="not a checkpoint of this version"):
        ours.train(Listener(), resume=True)


def test_a_checkpoint_of_another_gating_is_rejected(split: Split, tmp_path: Path) -> None:
    trainer(split, tmp_path, epochs=1).train(Listener(), resume=False)
    model = create_model("t0-stream", num_classes=len(SHAPES), gating="model-garden")
    with pytest.raises(WeightsError, match="gating"):
        Trainer(model, split, config(epochs=1), tmp_path, Group()).train(Listener(), resume=True)


def test_the_random_generators_of_all_gpus_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([3], dtype=torch.uint8)]
    put_back: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: gpus)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: put_back.update({device: state})
    )
    torch.manual_seed(3)
    state = rng_state()
    drawn = torch.rand(4)
    set_rng_state(state)
    assert torch.equal(torch.rand(4), drawn)
    assert put_back == dict(enumerate(gpus))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_rng_state(state)  # where there are none any more


@pytest.fixture
def damaged(videos: Path, tmp_path: Path) -> Split:
    """One damaged video among those of training, and one among the others."""
    shutil.copytree(videos, tmp_path / "videos")
    split = read_split(tmp_path / "videos", held_out=0.25)
    for side in (split.training, split.held_out):
        side[0].path.write_bytes(b"no video")
    return split


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_video_is_skipped_and_reported(
    workers: int, damaged: Split, tmp_path: Path
) -> None:
    running = trainer(damaged, tmp_path / "run", workers=workers, epochs=1)
    history = running.train(Listener(), resume=False)
    bad = [damaged.training[0], damaged.held_out[0]]
    assert sorted(running.unreadable) == sorted(video.name for video in bad)
    assert all(str(video.path) in running.unreadable[video.name] for video in bad)
    assert (history[0].held_out_accuracy * 3) % 1 == pytest.approx(0)  # of the three others
    resumed = trainer(damaged, tmp_path / "run", workers=workers, epochs=1)
    resumed.train(Listener(), resume=True)
    assert resumed.unreadable == running.unreadable


def test_a_damaged_video_is_replaced_by_another(damaged: Split) -> None:
    samples = training_clips(damaged.training, seed=5)
    first, again = samples[0, 0, 0], samples[0, 0, 0]
    assert first.clips is not None
    assert again.clips is not None
    assert torch.equal(first.clips, again.clips)
    assert list(first.unreadable) == [damaged.training[0].name]
    assert Views(damaged.held_out, len(SHAPES), CLIP)[0].clips is None


def test_a_run_without_readable_videos_is_an_error(damaged: Split, tmp_path: Path) -> None:
    for video in damaged.training:
        video.path.write_bytes(b"no video")
    with pytest.raises(VideoError, match="None of 12 videos could be read"):
        trainer(damaged, tmp_path / "run").train(Listener(), resume=False)


def script(*arguments: str | Path) -> list[str]:
    return ["-m", "examples.finetune", *map(str, arguments)]


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_script_survives_a_kill(videos: Path, tmp_path: Path) -> None:
    command = [sys.executable, *script(videos, "--out", tmp_path, *SMALL)]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / CHECKPOINT_NAME).exists() and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = [*command, "--resume", "--export", "tf-checkpoint"]
    done = subprocess.run(again, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout
    assert "top-1" in done.stdout
    assert "95% confidence" in done.stdout
    assert load_converted(tmp_path / "model.safetensors").num_classes == len(SHAPES)
    assert (tmp_path / "movinet_t0_stream" / "ckpt-1.index").exists()
    assert all((tmp_path / name).exists() for name in FILE_NAMES)


def test_two_processes_train_one_network(videos: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2"]
    command = [*torchrun, *script(videos, "--out", tmp_path, *SMALL, "--epochs", "1")]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch ") == 1  # only one of them prints
    assert load_converted(tmp_path / "model.safetensors").num_classes == len(SHAPES)
