"""Quantization-aware training: what is rounded, what is frozen, and what is saved."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from examples.finetune.__main__ import main
from examples.finetune.checkpoint import CHECKPOINT_NAME
from examples.finetune.quantization import MovingRange, QuantizedTrainingModel
from examples.finetune.shapes import HARD, MOTIONS, SHAPES, write_shapes
from examples.finetune.splits import Split, read_split
from examples.finetune.step import StepConfig, TrainingModel, accumulate_gradients
from examples.finetune.train import BEST_NAME
from movinet_convert import load_converted, save_weights
from movinet_convert.errors import UsageError
from movinet_convert.export.quantization.fake import layers, quantized_weight
from movinet_convert.export.quantization.preparation import keeps_float_input
from movinet_convert.model import MoViNet
from movinet_convert.video.frames import Frame, Sampling, read_frames
from tests.examples.test_finetune import Listener, random_model, trainer

pytest.importorskip("av")

CLIPS = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1])


def quantized(model: MoViNet, **config: object) -> QuantizedTrainingModel:
    return QuantizedTrainingModel(TrainingModel(model, StepConfig(**config)))  # type: ignore[arg-type]


def without_randomness(model: MoViNet) -> MoViNet:
    model.set_stochastic_depth(0.0)
    model.classifier.dropout = 0.0
    return model


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return read_split(write_shapes(tmp_path_factory.mktemp("shapes"), videos=3), held_out=0.34)


def test_layers_compute_with_8_bits() -> None:
    """Weights of all layers, and inputs of all but those that the exporter keeps float."""
    model = random_model("t0-stream")
    found = {layer: path for path, layer in layers(model).items()}
    seen: dict[nn.Module, int] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        channels: torch.Tensor = layer.weight.flatten(1)  # type: ignore[operator, union-attr]
        assert keeps_float_input(found[layer]) or inputs[0].unique().numel() <= 256
        assert all(len(channel.unique()) <= 255 for channel in channels)
        seen[layer] = seen.get(layer, 0) + 1

    training = quantized(model)
    training(CLIPS)
    training.eval()
    hooks = [layer.register_forward_hook(look) for layer in found]  # type: ignore[arg-type]
    training(CLIPS)
    rounded = {path.replace("/", ".").removeprefix("model.") for path in training.ranges}
    assert rounded == {path for path in found.values() if not keeps_float_input(path)}
    assert seen == dict.fromkeys(found, 1)
    for hook in hooks:
        hook.remove()
    assert not torch.equal(training(CLIPS)[0], model(CLIPS))
    assert not any(layer._forward_pre_hooks for layer in found)


def test_chunks_of_a_stream_are_rounded_like_the_whole_clip() -> None:
    """With one range for a stream buffer and for the frames that join it."""
    training = quantized(random_model("t0-stream"), chunk=2)
    training(CLIPS)
    training.eval()
    whole, _ = training(CLIPS)
    _, state = training(CLIPS[:, :, :2])
    in_chunks, _ = training(CLIPS[:, :, 2:], state)
    torch.testing.assert_close(in_chunks, whole, rtol=1e-3, atol=1e-4)


def test_half_of_the_inputs_are_rounded_in_a_training_step() -> None:
    torch.manual_seed(0)
    moving, x = MovingRange(), torch.rand(4, 3, 2, 2)
    rounded = [not torch.equal(moving(x), x) for _ in range(200)]
    assert 70 < sum(rounded) < 130
    assert not torch.equal(moving.eval()(x), x)


def test_the_loss_is_the_distance_from_the_teacher() -> None:
    model, teacher = (random_model("t0-stream").eval() for _ in range(2))
    torch.nn.init.normal_(teacher.classifier.output.weight, std=0.1)
    config = StepConfig(chunk=2)
    found = accumulate_gradients(
        TrainingModel(model, config), config, CLIPS, LABELS, TrainingModel(teacher, config)
    )
    expected = torch.zeros(())
    state = teacher_state = None
    for chunk in CLIPS.split(2, dim=2):
        logits, state = model.stream(chunk, state)
        target, teacher_state = teacher.stream(chunk, teacher_state)
        expected = expected + (logits - target).square().mean() / target.var() / 2
    torch.testing.assert_close(found, expected.detach())


def test_ranges_are_learned_in_training_only() -> None:
    training = quantized(random_model("t0-stream"))
    training.train()(CLIPS)
    before = copy.deepcopy(training.ranges.state_dict())
    training.eval()(CLIPS * 0.1)
    assert all(torch.equal(a, before[name]) for name, a in training.ranges.state_dict().items())
    training.train()(CLIPS * 0.1)
    assert any(not torch.equal(a, before[n]) for n, a in training.ranges.state_dict().items())


@pytest.mark.parametrize("chunk", [None, 2])
def test_training_reduces_the_loss_of_the_rounded_network(chunk: int | None) -> None:
    training = quantized(without_randomness(random_model("t0-stream")), chunk=chunk)
    optimizer = torch.optim.AdamW(training.plain.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        losses.append(accumulate_gradients(training.train(), training.config, CLIPS, LABELS))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_saves_a_plain_network_with_its_moving_statistics(
    split: Split, tmp_path: Path
) -> None:
    expected = random_model("t0-stream").state_dict()
    trainer(split, tmp_path, epochs=1, qat=True).train(Listener(), resume=False)
    found = load_converted(tmp_path / BEST_NAME).state_dict()
    assert list(found) == list(expected)
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, expected[name])}
    assert changed == {name for name in found if "running" not in name}
    for name, tensor in found.items():
        if name.endswith("conv.weight"):  # it is the float weight, not the rounded one
            assert not torch.allclose(quantized_weight(tensor), tensor, rtol=1e-5, atol=0)


def test_a_resumed_run_is_bit_identical(split: Split, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trainer(split, whole, qat=True).train(Listener(), resume=False)
    with pytest.raises(KeyboardInterrupt):
        trainer(split, stopped, qat=True).train(Listener(3), resume=False)
    with pytest.raises(UsageError, match="qat"):
        trainer(split, stopped).train(Listener(), resume=True)
    trainer(split, stopped, qat=True).train(Listener(), resume=True)
    ours, theirs = (
        torch.load(folder / CHECKPOINT_NAME)["state_dicts"] for folder in (whole, stopped)
    )
    for kind in ("model", "ranges"):
        assert all(torch.equal(ours[kind][name], theirs[kind][name]) for name in ours[kind])


def test_an_untrained_network_is_rejected(tmp_path: Path) -> None:
    arguments = ["--shapes", "--shapes-count", "2", "--random", "--qat", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--qat needs a trained network" in result.stderr


def test_a_network_of_other_classes_is_rejected(split: Split, tmp_path: Path) -> None:
    weights = save_weights(random_model("t0-stream", classes=7), tmp_path / "seven.safetensors")
    videos = split.training[0].path.parents[1]
    arguments = [str(videos), "--model", str(weights), "--qat", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "has 7 classes, the videos 4" in result.stderr


def test_half_precision_is_rejected() -> None:
    with pytest.raises(UsageError, match="omit --half"):
        quantized(random_model("t0-stream"), half=True)


def test_a_class_of_hard_shapes_is_a_shape_and_its_motion(tmp_path: Path) -> None:
    write_shapes(tmp_path, videos=1, look=HARD)
    assert len(list(tmp_path.iterdir())) == len(SHAPES) * len(MOTIONS)
    for motion, direction in MOTIONS.items():
        frames = list(read_frames(tmp_path / f"disc-{motion}" / "000.mp4", Sampling()))
        moved = middle(frames[-1]) - middle(frames[0])
        assert np.linalg.norm(moved) > 10 or motion == "still"
        np.testing.assert_allclose(moved, np.array(direction) * np.linalg.norm(moved), atol=2)


def middle(frame: Frame) -> np.ndarray:
    """The centre of the disc by x and y, in pixels."""
    image = frame.image.astype(float)
    contrast = np.abs(image - np.median(image, axis=(0, 1))).sum(axis=2)
    return np.argwhere(contrast > contrast.max() / 2).mean(axis=0)[::-1]
