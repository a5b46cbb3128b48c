"""8-bit files for ExecuTorch: which layers become integer convolutions, and what is lost."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from movinet_convert.export import export_model, load_exported
from movinet_convert.export.agreement import agreement_of, moving_clips
from movinet_convert.export.flat_clip import flat_clip_program
from movinet_convert.export.flat_step import xnnpack_program
from movinet_convert.export.quantization.fake import is_depthwise, layers
from movinet_convert.export.quantization.outputs import EqualizedPointwise, with_8_bit_results
from movinet_convert.export.quantization.plan import Plan, plan
from movinet_convert.export.runtime import Job
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from tests.export.conftest import SIZE, require_runtime

pytest.importorskip("torchao.quantization.pt2e")

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default  # with a constant range
BY_ITS_OWN = torch.ops.quantized_decomposed.quantize_per_tensor.tensor
WIDE = "blocks.block0_layer0.expansion"


@pytest.fixture(scope="module")
def clips(stream_model: MoViNet, short_t0: None) -> list[Tensor]:
    return moving_clips(xnnpack_program(fuse(stream_model), 1, SIZE), causal=True)


@pytest.fixture(scope="module")
def planned(stream_model: MoViNet, short_t0: None, clips: list[Tensor]) -> Plan:
    return plan(xnnpack_program(fuse(stream_model), 1, SIZE), clips[1:], pointwise_only=True)


def quantizers(graph: torch.export.ExportedProgram, path: str) -> list[object]:
    """The operators before the convolution of a layer and after it that round activations."""
    (convolution,) = (
        node
        for node in graph.graph.nodes
        if node.target == torch.ops.aten.conv2d.default
        and list(node.meta["nn_module_stack"].values())[-1][0] == path
    )
    before = [node.args[0].target for node in convolution.all_input_nodes[:1] if node.args]
    return [*before, *(user.target for user in convolution.users)]


def test_only_pointwise_layers_are_planned(planned: Plan) -> None:
    found = layers(planned.program.module)
    assert {path for path, layer in found.items() if is_depthwise(layer)} <= planned.float_layers
    assert "stem" in planned.float_layers
    assert len(planned.ranges) > 5


def test_planned_layers_are_static_and_all_other_pointwise_ones_dynamic(planned: Plan) -> None:
    from movinet_convert.export.xnnpack import quantized_graph

    dropped = replace(planned, ranges={k: v for k, v in planned.ranges.items() if k != "head"})
    graph = quantized_graph(Job(planned.program, quantize="int8", plan=dropped))
    _, static = with_8_bit_results(dropped)
    assert "head" not in static
    for path in static:
        assert quantizers(graph, path) == [QUANTIZE, QUANTIZE]
    for path in ("head", "hidden", "blocks.block0_layer0.attention.reduce"):
        before, *after = quantizers(graph, path)
        assert before == BY_ITS_OWN
        assert QUANTIZE not in after
    assert QUANTIZE not in quantizers(graph, "blocks.block0_layer0.feature.spatial")


@torch.no_grad()
def test_scaled_channels_leave_the_network_the_same(planned: Plan) -> None:
    scaled, _ = with_8_bit_results(planned)
    assert isinstance(scaled.program.module.get_submodule(WIDE), EqualizedPointwise)
    for given in planned.inputs[:3]:
        expected, *_ = planned.program.module(*given)
        found, *_ = scaled.program.module(*given)
        assert (found - expected).abs().max() < 1e-4 * expected.std()


@torch.no_grad()
def test_a_channel_with_large_results_does_not_coarsen_those_of_others(planned: Plan) -> None:
    uneven = replace(planned, program=copy.deepcopy(planned.program))
    conv: Any = uneven.program.module.get_submodule(WIDE)
    conv.bias[0] += 2000.0
    spatial: Any = uneven.program.module.get_submodule("blocks.block0_layer0.feature.spatial")
    spatial.weight[0] = 0.0  # so that the channel itself does not matter
    scaled, ranges = with_8_bit_results(uneven)
    even: Any = scaled.program.module.get_submodule(WIDE)
    x = torch.rand(1, conv.weight.shape[1], 8, 8)
    rounded = even.activate(ranges[WIDE].quantize(F.conv2d(x, even.weight, even.bias)))
    error = (rounded - conv(x))[:, 1:].abs().amax()
    assert error < 0.02 * conv(x)[:, 1:].abs().amax()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["weights", "int8"])
def test_a_base_model_can_be_quantized_too(kind: str, base_model: MoViNet, short_t0: None) -> None:
    from movinet_convert.export.xnnpack import quantized_graph

    program = flat_clip_program(fuse(base_model), 4, SIZE)
    clip, *others = moving_clips(program, causal=False)
    planned = plan(program, others, pointwise_only=True) if kind == "int8" else None
    made = planned.program if planned is not None else program
    graph = quantized_graph(Job(made, quantize=kind, plan=planned))
    found, expected = graph.module()(clip), program.module(clip)
    assert 0 < agreement_of(found, expected, 4, 1).mean_error < 0.2
    before = QUANTIZE if kind == "int8" else BY_ITS_OWN
    assert quantizers(graph, "blocks.block0_layer0.projection")[0] == before
    assert quantizers(graph, "hidden")[0] == BY_ITS_OWN


@torch.no_grad()
def test_states_of_a_file_with_8_bit_weights_are_those_of_the_network(
    stream_model: MoViNet, clips: list[Tensor], tmp_path: Path
) -> None:
    require_runtime("executorch")
    path = tmp_path / "weights"
    report = export_model(
        stream_model, path, "executorch", size=SIZE, quantize="weights", allow_loss=0.2
    )
    full = sum(weight.numel() * 4 for weight in stream_model.state_dict().values())
    assert report.bytes < 0.5 * full
    assert report.details["delegates"] == 1
    exported = load_exported(report.path)
    state, expected = None, None
    for frame in clips[0].split(1, dim=2)[:3]:
        logits, state = exported.stream(frame, state)
        reference, expected = stream_model.stream(frame, expected)
    assert agreement_of(logits, reference, 1, 1).mean_error < 0.2
    assert state is not None
    assert expected is not None
    for (name, found), (_, value) in zip(state.tensors(), expected.tensors(), strict=True):
        error = (found.double() - value.double()).abs().mean()
        assert error <= 0.05 * value.double().abs().mean(), name
