"""PyTorch's own tools work on the network as on any other."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from movinet_convert.model import MoViNet, create_model
from movinet_convert.model.convolutions import Conv2dSame, same_padding
from movinet_convert.model.fuse import fuse
from movinet_convert.model.layers import BatchNorm
from tests.helpers.settled import settled_model

NAMES = ["t0-base", "t0-stream"]
CLIP = torch.rand(1, 3, 3, 34, 48, generator=torch.Generator().manual_seed(0))


def kernels(model: nn.Module) -> list[str]:
    """The parameters that are kernels of convolutions, by their shape."""
    return [name for name, p in model.named_parameters() if p.dim() > 2]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d | nn.Conv3d]:
    found = model.named_modules()
    return {name: m for name, m in found if isinstance(m, nn.Conv2d | nn.Conv3d)}


def test_printing_shows_every_convolution() -> None:
    model = create_model("a0-stream")
    text = str(model)
    assert re.search(r"Conv2d\w*\(32, 80, kernel_size=\(1, 1\), stride=\(1, 1\)", text)
    assert re.search(
        r"\(conv\): Conv2d\w*\(80, 80, kernel_size=\(3, 3\), stride=\(2, 2\), groups=80", text
    )
    assert re.search(
        r"\(temporal_conv\): \w*Conv2d\(80, 80, kernel_size=\(3, 1\), .*groups=80", text
    )
    assert len(re.findall(r"Conv[23]d\w*\(\d", text)) == len(kernels(model))
    assert re.search(
        r"Conv3d\w*\(80, 80, kernel_size=\(3, 3, 3\), .*groups=80", str(create_model("a0-base"))
    )
    assert "activation=hard_swish" in str(fuse(model))


@pytest.mark.parametrize("name", ["a0-stream", "a3-stream"])
def test_the_padding_of_a_convolution_of_stride_1_is_same_for_any_size(name: str) -> None:
    layers = [layer for layer in create_model(name).modules() if isinstance(layer, Conv2dSame)]
    for layer in (layer for layer in layers if layer.stride == (1, 1)):
        for kernel, padding in zip(layer.kernel_size, layer.padding, strict=True):
            assert all(same_padding(n, kernel, 1) == (padding, padding) for n in range(1, 20))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_hooks_see_every_convolution(name: str) -> None:
    model = settled_model(name)
    layers = convolutions(model)
    assert [f"{path}.weight" for path in layers] == kernels(model)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(path: str) -> Any:
        return lambda _, inputs, output: seen.update({path: (inputs[0], output)})

    for path, layer in layers.items():
        layer.register_forward_hook(hook(path))
    model(CLIP)
    assert seen.keys() == layers.keys()
    for path, layer in layers.items():
        given, output = seen[path]
        assert (given.shape[1], output.shape[1]) == (layer.in_channels, layer.out_channels)


def test_a_hook_can_change_what_a_convolution_returns() -> None:
    model = settled_model("t0-stream")
    expected = model(CLIP)
    layer = next(m for n, m in convolutions(model).items() if n.endswith("temporal_conv"))
    layer.register_forward_hook(lambda _, __, output: 2 * output)
    assert not torch.allclose(model(CLIP), expected)


def test_convert_sync_batchnorm_converts_every_normalisation() -> None:
    model = settled_model("t0-stream")
    norms = [name for name, module in model.named_modules() if isinstance(module, BatchNorm)]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    found = {n for n, m in converted.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert found == set(norms)
    assert torch.equal(converted(CLIP), model(CLIP))


@pytest.mark.parametrize("name", [*NAMES, "a3-stream"])
@torch.no_grad()
def test_torch_fx_traces_the_network_for_clips_of_any_size(name: str) -> None:
    model = settled_model(name)
    traced = torch.fx.symbolic_trace(model)
    for shape in ((1, 3, 4, 33, 46), (2, 3, 1, 32, 32)):
        clip = torch.rand(shape)
        assert torch.equal(traced(clip), model(clip))
    strided = [layer for layer in convolutions(model).values() if 2 in layer.stride]
    assert sum("conv_same" in str(node.target) for node in traced.graph.nodes) >= len(strided) > 0


@torch.no_grad()
def test_profilers_count_the_flops_of_every_convolution() -> None:
    model = settled_model("t0-base")
    with FlopCounterMode(display=False) as counter:
        model(CLIP)
    for path in convolutions(model):
        counts = counter.get_flop_counts()[f"MoViNet.{path}"]
        assert sum(counts.values()) > 0, path


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_exported_convolutions_use_their_weights_directly(name: str) -> None:
    """Quantizers look for the weight itself, so the input is padded and not the weight."""
    model = settled_model(name)
    program = torch.export.export(model, (CLIP,))
    graph = program.graph_module.graph
    nodes = [n for n in graph.nodes if str(n.target).startswith(("aten.conv2d", "aten.conv3d"))]
    assert len(nodes) == len(kernels(model))
    assert all(node.args[1].op == "placeholder" for node in nodes)
    torch.testing.assert_close(program.module()(CLIP), model(CLIP))


@torch.no_grad()
def test_pytorch_quantizers_quantize_every_convolution() -> None:
    quantize = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    xnnpack = pytest.importorskip("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    model: MoViNet = settled_model("t0-stream")
    quantizer = xnnpack.XNNPACKQuantizer().set_global(xnnpack.get_symmetric_quantization_config())
    prepared = quantize.prepare_pt2e(torch.export.export(model, (CLIP,)).module(), quantizer)
    prepared(CLIP)
    converted = quantize.convert_pt2e(prepared)
    weights = [
        n
        for n in converted.graph.nodes
        if str(n.target).startswith("aten.conv2d") and "dequantize" in str(n.args[1].target)
    ]
    assert len(weights) == len(kernels(model))
    expected, found = model(CLIP), converted(CLIP)
    assert torch.corrcoef(torch.stack((expected[0], found[0])))[0, 1] > 0.8
