"""Which layers become 8-bit, on a small stream network whose depthwise inputs are made uneven."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from movinet_convert.export.agreement import agreement_of, moving_clips
from movinet_convert.export.flat_step import flat_program
from movinet_convert.export.quantization import plan as planning
from movinet_convert.export.quantization.calibration import samples
from movinet_convert.export.quantization.fake import layers, quantized_weight
from movinet_convert.export.quantization.observation import observe, ranges_of, watching
from movinet_convert.export.quantization.plan import Plan, plan
from movinet_convert.export.quantization.preparation import LARGEST_FACTOR, correct_biases, equalize
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from tests.export.conftest import SIZE

UNEVEN = "blocks.block1_layer0.feature.temporal"


@pytest.fixture(scope="module")
def program(stream_model: MoViNet, short_t0: None) -> Program:
    """One channel of a temporal convolution's input is large, and does not matter."""
    made = flat_program(fuse(stream_model), 1, SIZE)
    block = made.module.get_submodule("blocks.block1_layer0")
    with torch.no_grad():
        block.get_submodule("feature.spatial").bias[0] += 2000.0  # type: ignore[index, operator, union-attr]
        block.get_submodule("feature.temporal").weight[0] = 0.0  # type: ignore[index, operator, union-attr]
    return made


@pytest.fixture(scope="module")
def clips(program: Program) -> list[Tensor]:
    return moving_clips(program, causal=True)


@pytest.fixture(scope="module")
def per_tensor(program: Program, clips: list[Tensor]) -> Plan:
    return plan(program, clips[1:], depthwise=True)


@torch.no_grad()
def logits(program: Program, clip: Tensor) -> Tensor:
    states, found = program.example[1:], []
    for frame in clip.split(1, dim=2):
        after, *states = program.module(frame, *states)
        found.append(after)
    return torch.cat(found)


def in_8_bits(planned: Plan, clip: Tensor) -> Tensor:
    quantizers = {path: limits.quantize for path, limits in planned.ranges.items()}
    weights = {path: layer.weight for path, layer in layers(planned.program.module).items()}
    before = {path: weight.clone() for path, weight in weights.items()}  # type: ignore[operator]
    with watching(planned.program.module, quantizers), torch.no_grad():
        for weight in weights.values():
            weight.copy_(quantized_weight(weight))  # type: ignore[operator, arg-type]
        found = logits(planned.program, clip)
        for path, weight in weights.items():
            weight.copy_(before[path])  # type: ignore[operator]
    return found


def test_the_layer_that_loses_most_stays_float(per_tensor: Plan) -> None:
    assert per_tensor.errors[0].layer == UNEVEN
    assert per_tensor.errors[0].mean_error > planning.TARGET
    assert UNEVEN in per_tensor.float_layers


def test_depthwise_convolutions_stay_float_where_that_is_faster(
    program: Program, clips: list[Tensor]
) -> None:
    planned = plan(program, clips[1:2], depthwise=False)
    found = {row.layer for row in planned.errors if row.kind == "depthwise"}
    assert "blocks.block0_layer0.feature.spatial" in found <= planned.float_layers
    assert planned.ranges


def test_squeeze_excitation_and_classifier_stay_float(per_tensor: Plan) -> None:
    linear = {row.layer for row in per_tensor.errors if row.kind == "linear"}
    assert {"hidden", "output", "blocks.block0_layer0.attention.reduce"} <= linear
    assert linear <= per_tensor.float_layers


def test_the_plan_reaches_its_target_on_a_clip_that_was_not_used(
    program: Program, per_tensor: Plan, clips: list[Tensor]
) -> None:
    assert per_tensor.mean_error <= planning.TARGET
    assert len(per_tensor.ranges) > len(per_tensor.errors) / 3
    found = agreement_of(in_8_bits(per_tensor, clips[0]), logits(program, clips[0]), 20, 1)
    assert found.mean_error < 2 * planning.TARGET


def test_planning_leaves_the_given_program_as_it_was(
    stream_model: MoViNet, short_t0: None, clips: list[Tensor]
) -> None:
    model = fuse(stream_model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan(flat_program(model, 1, SIZE), clips[1:2], depthwise=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_equalization_evens_the_channels_and_leaves_the_network_the_same(
    stream_model: MoViNet, short_t0: None, clips: list[Tensor]
) -> None:
    program = flat_program(fuse(stream_model), 1, SIZE)
    reference, inputs = logits(program, clips[0]), samples(program, clips[:1])
    projections = [path for path in layers(program.module) if path.endswith("projection")]

    def unevenness() -> list[float]:
        seen = observe(program, inputs, projections)
        return [(seen[p].largest.max() / seen[p].largest.min()).item() for p in projections]

    before = unevenness()
    equalize(program.module, observe(program, inputs, projections))
    expected = [ratio / min(ratio**0.5, LARGEST_FACTOR) for ratio in before]
    assert unevenness() == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(logits(program, clips[0]), reference, rtol=1e-4, atol=1e-4)


def test_bias_correction_reduces_the_error(program: Program, clips: list[Tensor]) -> None:
    paths = [path for path in layers(program.module) if "spatial" in path or "expansion" in path]
    uncorrected = flat_copy(program)
    inputs = samples(uncorrected, clips[1:2])
    ranges = ranges_of(observe(uncorrected, inputs, paths))
    corrected = flat_copy(program)
    correct_biases(corrected, inputs, ranges, paths, layers(corrected.module))
    reference = logits(program, clips[0])

    def error(tested: Program) -> float:
        made = Plan(tested, clips, inputs, frozenset(), ranges, (), 0.0)
        return agreement_of(in_8_bits(made, clips[0]), reference, 20, 1).mean_error

    assert error(corrected) < 0.8 * error(uncorrected)


def flat_copy(program: Program) -> Program:
    return replace(program, module=copy.deepcopy(program.module))


def test_the_table_lists_every_layer_with_the_largest_error_first(
    per_tensor: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "layers.csv"
    per_tensor.write_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == set(layers(per_tensor.program.module))
    errors = [float(row["mean_error"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert {row["input"] for row in rows} == {"int8", "float"}
