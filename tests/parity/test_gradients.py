"""A training step here is the official model's: every gradient, every moving statistic."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from movinet_convert.model.layers import ACTIVATIONS, ConvNorm
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import random_clips
from tests.helpers.settled import settled_model
from tests.parity.conditioning import (
    MARGIN,
    choose_labels,
    clear_kinks,
    smallest_shift,
)
from tests.parity.gradients import CANCELLED, compare_gradients, training_reference

if TYPE_CHECKING:
    from movinet_convert.model import MoViNet
    from movinet_convert.parity.reference import Reference
    from tests.parity.gradients import GradientComparison, Norms

SMALL = {"clips": 3, "height": 48, "width": 48}


@pytest.fixture(
    scope="module",
    params=[("a0-stream", "float32"), ("t0-stream", "float64")],
    ids=["as used", "formulas alone"],
)
def stream_reference(request: pytest.FixtureRequest) -> Reference:
    name, dtype = request.param
    return training_reference(get_variant(name), dtype=dtype)


def require_agreement(comparison: GradientComparison, reference: Reference) -> None:
    """Everything was compared, nothing with a zero that is not one by construction, and agrees."""
    parameters = [name for name in reference.shapes if "/moving_" not in name]
    moving = [name for name in reference.shapes if "/moving_" in name]
    assert sorted(d.name for d in comparison.gradients) == sorted(parameters)
    assert sorted(d.name for d in comparison.statistics) == (
        sorted(moving) if comparison.norms == "training" else []
    )
    for difference in comparison.gradients:
        assert difference.size > 0 or difference.name.endswith(CANCELLED)
    assert comparison.loss == pytest.approx(comparison.reference_loss, rel=1e-5)
    assert comparison.faults() == ()


@pytest.mark.parametrize(
    ("norms", "frames"),
    [("inference", (2, 2)), ("training", (3,))],
    ids=["inference, through the state", "training"],
)
def test_a_training_step_of_a_stream_model_equals_the_official_one(
    stream_reference: Reference, norms: Norms, frames: tuple[int, ...]
) -> None:
    comparison = compare_gradients(stream_reference, norms=norms, frames=frames, **SMALL)
    assert comparison.dtype == stream_reference.dtype.name
    require_agreement(comparison, stream_reference)


def test_a_training_step_of_a_base_model_equals_the_official_one() -> None:
    # Of the smallest one and in one mode: TensorFlow compiles every 3D convolution for ten seconds.
    reference = training_reference(get_variant("t0-base"))
    require_agreement(compare_gradients(reference, norms="training", **SMALL), reference)


def distances_from_kinks(model: MoViNet, video: torch.Tensor) -> list[float]:
    """How near any activation comes to a kink of ``hard_swish``, for every layer before one."""
    nearest: list[float] = []

    def measure(_: object, __: object, output: torch.Tensor) -> None:
        nearest.append(float((output.abs() - 3).abs().min()))

    for module in model.modules():
        if isinstance(module, ConvNorm) and module.activation is ACTIVATIONS["hard_swish"]:
            module.norm.register_forward_hook(measure)
    with torch.no_grad():
        model(video)
    return nearest


def test_no_activation_stays_near_a_kink() -> None:
    model = settled_model("t0-stream", num_classes=5).train()
    video = torch.from_numpy(random_clips(4, 4, 64, 64, seed=0))
    before = copy.deepcopy(model.state_dict())
    assert min(distances_from_kinks(copy.deepcopy(model).double(), video.double())) < MARGIN
    clear_kinks(model, video)
    assert min(distances_from_kinks(copy.deepcopy(model).double(), video.double())) >= MARGIN
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert all(name.endswith("bias") for name in changed)
    assert all((model.state_dict()[n] - before[n]).abs().max() < 0.02 for n in changed)


def test_a_single_gap_takes_the_smallest_shift() -> None:
    distances = torch.tensor([-5 * MARGIN, -0.5 * MARGIN, 0.5 * MARGIN, 9 * MARGIN])
    shift = smallest_shift(distances)
    assert (distances + shift).abs().min() >= MARGIN
    assert abs(float(shift)) < 2 * MARGIN


def test_labels_prevent_the_scale_gradients_from_cancelling() -> None:
    model = settled_model("t0-stream", num_classes=5)
    video = torch.from_numpy(random_clips(3, 2, 32, 32, seed=0))
    labels = choose_labels(model, video, seed=0)
    assert labels.shape == (3,)
    assert torch.equal(labels, choose_labels(model, video, seed=0))
    assert all(parameter.grad is None for parameter in model.parameters())
