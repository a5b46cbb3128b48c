"""Check that a network found in a TFLite file is one of the family, in every size and constant."""

from __future__ import annotations

import math

from movinet_convert.checkpoint.canonical import arch_of_block_count
from movinet_convert.checkpoint.tflite.layers import Convolution
from movinet_convert.checkpoint.tflite.network import Block, Network
from movinet_convert.errors import CheckpointError
from movinet_convert.variants import ARCHS, STEM_KERNEL, BlockSpec, SeType, squeeze_width

Size = tuple[int, int]  # height and width
_IMAGE_CHANNELS = 3
_FLOATING = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16")


def check_structure(network: Network) -> str:
    """The architecture of ``network``; CheckpointError unless all of it is that of a variant."""
    return _Checker(network).arch()


def check_constants(network: Network) -> None:
    """CheckpointError for a constant of the file that is in no layer of the network."""
    encodings = [block.attention.encoding for block in network.blocks]
    known = {id(encoding.angles) for encoding in encodings if encoding is not None}
    for layer in network.convolutions:
        known.update(map(id, (layer.kernel, layer.bias, layer.gamma, layer.beta)))
    for index, tensor in enumerate(network.graph.model.tensors):
        is_weight = tensor.type in _FLOATING or tensor.quantization is not None
        several = math.prod(tensor.shape) > 1  # single numbers were compared with what they must be
        if tensor.data is not None and is_weight and several and id(tensor) not in known:
            raise CheckpointError(
                f"{network.graph.model.where} has a constant {tensor.type} of shape "
                f"{tensor.shape} (tensor {index}) that is in no layer of the MoViNet; no weight is "
                "dropped silently: convert a file of this network only."
            )


class _Checker:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.where = network.graph.model.where
        self.se_type: SeType = "2plus3d" if network.causal else "3d"

    def arch(self) -> str:
        network = self.network
        arch = arch_of_block_count(len(network.blocks), self.where)
        spec = ARCHS[arch]
        size = self._image_size()
        stem = (*STEM_KERNEL, _IMAGE_CHANNELS, spec.stem)
        size = self._layer("the stem", network.stem, stem, size, stride=2)
        for expected, block in zip(spec.blocks, network.blocks, strict=True):
            size = self._block(arch, expected, block, size)
        head = (1, 1, 1, spec.blocks[-1].outputs, spec.head)
        self._layer("the head", network.head, head, size)
        self._shape("the classifier's hidden layer", network.hidden, spec.head, spec.classifier)
        self._shape("the classifier", network.classifier, spec.classifier)
        return arch

    def _image_size(self) -> Size:
        shape = self.network.graph.shape(self.network.image)
        channels_last = shape[-1:] == (_IMAGE_CHANNELS,)
        if len(shape) != 5 or (not channels_last and shape[1] != _IMAGE_CHANNELS):
            raise self._wrong("its input", f"has the shape {shape}", "(1, frames, H, W, 3)")
        frames, height, width = shape[1:4] if channels_last else shape[2:]
        if self.network.causal and frames != 1:
            raise self._wrong("a call", f"takes {frames} frames", "1, as in streaming")
        return height, width

    def _block(self, arch: str, expected: BlockSpec, block: Block, size: Size) -> Size:
        name = f"{expected.name} of {arch}"
        length, *kernel = expected.kernel
        is_3d = not self.network.causal
        pointwise = (1, 1, 1, expected.inputs, expected.expanded)
        self._layer(f"the expansion in {name}", block.expansion, pointwise, size)
        taps = (length if is_3d else 1, *kernel)
        feature = f"the depthwise convolution in {name}"
        after = self._layer(
            feature, block.feature, (*taps, 1, expected.expanded), size, stride=expected.stride
        )
        if (block.temporal is not None) != (length > 1 and not is_3d):
            raise self._wrong(feature, "is not like that in time", f"a kernel {expected.kernel}")
        if block.temporal is not None:
            self._temporal(feature, block.temporal, length, expected.expanded, after)
        self._attention(name, block, expected.expanded)
        project = (1, 1, 1, expected.expanded, expected.outputs)
        self._layer(f"the projection in {name}", block.projection, project, after)
        self._skip(f"the skip connection in {name}", block, expected, after)
        return after

    def _attention(self, name: str, block: Block, expanded: int) -> None:
        attention, hidden = block.attention, squeeze_width(expanded, self.se_type)
        what = f"the squeeze-excitation in {name}"
        context = 2 * expanded if attention.with_frame_mean else expanded
        self._shape(what, attention.reduce, context, hidden)
        self._shape(what, attention.gate.convolution, hidden, expanded)
        first = self.network.blocks[0].attention.encoding
        if (attention.encoding is None) != (first is None):
            raise self._wrong(what, "differs in its positional encoding", "the same in all blocks")

    def _skip(self, what: str, block: Block, expected: BlockSpec, size: Size) -> None:
        found = (block.skip is not None, block.pool is not None)
        if found != (expected.has_skip_projection, expected.stride > 1):
            raise self._wrong(what, f"has (projection, pooling) {found}", "other ones")
        if block.skip is not None:
            self._layer(what, block.skip, (1, 1, 1, expected.inputs, expected.outputs), size)

    def _temporal(
        self, what: str, layer: Convolution, length: int, channels: int, size: Size
    ) -> None:
        """The convolution over time has the frames as its height, and all pixels as its width."""
        given = self.network.graph.shape(layer.operator.inputs[0])
        wanted = (length, math.prod(size), channels)
        plain = layer.padding == "VALID" and not layer.pads and layer.stride == (1, 1, 1)
        if layer.shape != (1, length, 1, 1, channels) or given[1:] != wanted or not plain:
            raise self._wrong(what, f"sees {given} with {layer.shape[1]} frames", f"{wanted}")

    def _layer(
        self, what: str, layer: Convolution, shape: tuple[int, ...], size: Size, stride: int = 1
    ) -> Size:
        """Check a layer over frames of ``size``; returns the size of its result."""
        if layer.shape != shape:
            raise self._wrong(what, f"has a kernel of shape {layer.shape}", f"{shape}")
        if layer.stride != (1, stride, stride):
            raise self._wrong(what, f"has the strides {layer.stride}", f"{(1, stride, stride)}")
        pads = [_same(n, k, stride) for n, k in zip(size, shape[1:3], strict=True)]
        needed = tuple(pad for pad in pads if pad != (0, 0))
        is_same = layer.padding == "SAME" and not layer.pads
        if not is_same and (layer.pads != needed or shape[0] > 1):
            raise self._wrong(what, f"pads by {layer.pads}", f"{needed}")
        given = self.network.graph.shape(layer.operator.inputs[0])[-3:]
        padded = tuple(n + sum(pad) for n, pad in zip(size, pads, strict=True))
        channels = layer.shape[4] if layer.shape[3] == 1 else layer.shape[3]
        if given != (*(size if is_same else padded), channels):
            raise self._wrong(what, f"sees frames of {given}", f"{(*size, channels)}")
        height, width = (-(-n // stride) for n in size)
        return height, width

    def _shape(
        self, what: str, layer: Convolution, inputs: int, outputs: int | None = None
    ) -> None:
        wanted = (1, 1, 1, inputs, outputs or layer.channels)
        if layer.shape != wanted:
            raise self._wrong(what, f"has a kernel of shape {layer.shape}", f"{wanted}")

    def _wrong(self, what: str, found: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} is not a MoViNet that can be converted: {what} {found}, and {expected} "
            "was expected; it is of another network, or of a modified one."
        )


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What padding ``SAME`` adds before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
