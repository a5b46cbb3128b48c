"""A network that computes something else does not pass, and the result says where it begins."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch

from movinet_convert.errors import ParityError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.comparison import verify_model
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.result import ParityResult
from scripts.mutations import MISTAKES
from tests.helpers.parity_tools import synthetic_model

if TYPE_CHECKING:
    from movinet_convert.model import MoViNet, StreamState

NAME = "a0-stream"
BIAS = "classifier_head/_classifier/_conv/_conv/bias"


class Bench:
    """An a0-stream, its variables and its reference, built once."""

    def __init__(self) -> None:
        self._model, self.variables = synthetic_model(NAME)
        self._reference = Reference(get_variant(NAME))

    def model(self) -> MoViNet:
        """A copy to modify."""
        return copy.deepcopy(self._model)

    def verify(
        self, model: MoViNet, variables: dict[str, Any] | None = None, **options: Any
    ) -> ParityResult:
        options = {"frames": 5, "size": (32, 32), **options}
        variables = self.variables if variables is None else variables
        self.stages: list[str] = []
        return verify_model(
            model,
            variables,
            ParityOptions(**options),
            reference=self._reference,
            stage=self.stages.append,
        )


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_the_same_weights_pass(bench: Bench) -> None:
    result = bench.verify(bench.model(), clips=2)
    assert result.passed
    assert result.first_difference is None
    result.raise_for_failure()
    count = len(result.cases)
    cases = [f"case {i} of {count}: {case.name}" for i, case in enumerate(result.cases, 1)]
    assert bench.stages == [
        "building the official model",
        *(f"official model, {case}" for case in cases),
        *(f"this network, {case}" for case in cases),
    ]


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("stem.norm.running_mean", "stem"),
        ("blocks.block0_layer0.expansion.conv.weight", "block0_layer0"),
        ("blocks.block2_layer1.feature.temporal_conv.weight", "block2_layer1"),
        ("blocks.block3_layer0.attention.expand.bias", "block3_layer0"),
        ("blocks.block4_layer3.scale", "block4_layer3"),
        ("head.conv.weight", "head"),
        ("classifier.hidden.bias", "classifier_head"),
        ("classifier.output.weight", "classifier_head"),
    ],
)
@torch.no_grad()
def test_one_wrong_value_fails_and_its_layer_is_reported(
    bench: Bench, tensor: str, layer: str
) -> None:
    model = bench.model()
    model.state_dict()[tensor].view(-1)[0] += 1.0
    result = bench.verify(model)
    assert not result.passed
    assert result.first_difference == layer
    with pytest.raises(ParityError, match=rf"{NAME} .* differ at {layer}"):
        result.raise_for_failure()


@torch.no_grad()
def test_a_weight_that_is_nan_fails_and_is_reported(bench: Bench) -> None:
    model = bench.model()
    model.head.norm.bias[0] = float("nan")
    result = bench.verify(model)
    assert not result.passed
    assert result.first_difference == "head"
    with pytest.raises(ParityError, match="logits of this network are not all finite"):
        result.raise_for_failure()


@torch.no_grad()
def test_infinite_logits_never_pass(bench: Bench) -> None:
    model = bench.model()
    model.classifier.output.bias[3] = float("inf")
    variables = {**bench.variables, BIAS: model.classifier.output.bias.numpy()}
    result = bench.verify(model, variables, frames=3)
    assert not result.passed
    with pytest.raises(ParityError, match="logits of the official model are not all finite"):
        result.raise_for_failure()


class Masked:
    """The same network after somebody masked classes by their biases, and its variables."""

    def __init__(self, bench: Bench, classes: slice, value: float) -> None:
        bias = bench.variables[BIAS].copy()
        bias[classes] = value
        self._bias = torch.from_numpy(bias)
        self.variables = {**bench.variables, BIAS: bias}

    @torch.no_grad()
    def masking(self, model: MoViNet) -> MoViNet:
        model.classifier.output.bias.copy_(self._bias)
        return model


@pytest.fixture(
    scope="module",
    params=[(slice(0, 1), 1e6), (slice(0, 590), -1e4), (slice(10, None), -1e9)],
    ids=["one at 1e6", "most at -1e4", "most at -1e9"],
)
def masked(request: pytest.FixtureRequest, bench: Bench) -> Masked:
    return Masked(bench, *request.param)


def test_masked_classes_pass(bench: Bench, masked: Masked) -> None:
    result = bench.verify(masked.masking(bench.model()), masked.variables, frames=3)
    assert result.passed
    assert result.worst.tf_fp32_pt_fp32 < 1e-5


def test_masked_classes_do_not_hide_the_wrong_gate(bench: Bench, masked: Masked) -> None:
    model, _ = synthetic_model(NAME, gating="model-garden")
    result = bench.verify(masked.masking(model), masked.variables, frames=3)
    assert all("logits" in case.beyond(result.tolerance) for case in result.cases)


def test_masked_classes_do_not_hide_the_wrong_epsilon(bench: Bench, masked: Masked) -> None:
    model = bench.model()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.eps = 1e-5
    result = bench.verify(masked.masking(model), masked.variables, frames=3)
    assert all("logits" in case.beyond(result.tolerance) for case in result.cases)


def test_logits_dominated_by_biases_do_not_pass(bench: Bench) -> None:
    drowned = Masked(bench, slice(None), 1e6)
    result = bench.verify(drowned.masking(bench.model()), drowned.variables, frames=3)
    assert not result.passed
    with pytest.raises(ParityError, match="the biases hide the rest"):
        result.raise_for_failure()


def test_the_wrong_gating_is_located_at_the_first_block(bench: Bench) -> None:
    model, _ = synthetic_model(NAME, gating="model-garden")
    result = bench.verify(model)
    assert not result.passed
    assert result.first_difference == "block0_layer0"
    assert result.cases[0].logits.tf_fp32_pt_fp32 > 1e-2


def test_a_state_lost_between_calls_is_located_at_its_block(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.model()
    whole = type(model).stream

    def forgetful(
        self: MoViNet, frames: torch.Tensor, state: StreamState | None = None
    ) -> tuple[torch.Tensor, StreamState]:
        if state is not None:
            buffers = dict(state.buffers)
            buffers["block3_layer1"] = torch.zeros_like(buffers["block3_layer1"])
            state = dataclasses.replace(state, buffers=buffers)
        return whole(self, frames, state)

    monkeypatch.setattr(type(model), "stream", forgetful)
    result = bench.verify(model)
    failed = [case.name for case in result.cases if case.beyond(result.tolerance)]
    assert failed == ["frame by frame", "uneven chunks", "batch"]
    assert result.first_difference is not None
    assert result.first_difference.startswith("block3_layer1")


def test_frames_size_seed_and_tolerance_can_be_set(bench: Bench) -> None:
    result = bench.verify(bench.model(), frames=3, size=(40, 34), seed=7, tolerance=1e-12)
    assert (result.seed, result.tolerance) == (7, 1e-12)
    assert result.cases[0].size == (40, 34)
    assert result.cases[1].chunks == (1, 1, 1)
    assert result.cases[2].chunks == (1, 2)
    assert not result.passed


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        ("symmetric padding", "one clip"),
        ("pooling that includes the padding", "one clip"),
        ("frame count one too high", "one clip"),
        ("buffer one frame late", "one clip"),
        ("buffer in reverse time order", "frame by frame"),
        ("state of the batch's first video for all videos", "batch"),
    ],
)
def test_a_mutant_is_first_detected_in_its_case(bench: Bench, mistake: str, case: str) -> None:
    model = bench.model()
    (made,) = (m for m in MISTAKES if m.name == mistake and NAME in m.variants)
    with torch.no_grad():
        made.make(model)
    result = bench.verify(model, frames=3)
    assert next(c.name for c in result.cases if c.beyond(result.tolerance)) == case


def test_mutants_has_a_hundred_networks_of_four_variants() -> None:
    assert len({mistake.name for mistake in MISTAKES}) >= 60
    assert len({name for mistake in MISTAKES for name in mistake.variants}) >= 4
    assert sum(len(mistake.variants) for mistake in MISTAKES) >= 100
