"""TFLite files: the weights of the network that their graph computes, under canonical names.

A converter folds batch normalisation into the convolutions. What comes out is a network of the same
function whose normalisation does nothing: gamma 1, mean 0, and a variance that gives a scale of 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.canonical import CLASSIFIER, CanonicalNames, GraphSettings
from movinet_convert.checkpoint.random_access import ByteRange
from movinet_convert.checkpoint.tensor_source import Array, Weight
from movinet_convert.checkpoint.tflite.file import read_model
from movinet_convert.checkpoint.tflite.layers import Convolution, Gate
from movinet_convert.checkpoint.tflite.model import Tensor
from movinet_convert.checkpoint.tflite.network import Block, Network, match_network
from movinet_convert.checkpoint.tflite.structure import check_constants, check_structure
from movinet_convert.variants import ARCHS

Float32 = NDArray[np.float32]
# With an epsilon of 0.001, the square root of their sum is exactly 1 in float32.
UNIT_VARIANCE = np.float32(0.999)
_PRECISIONS = {"FLOAT32": "float32", "FLOAT16": "float16", "INT8": "8 bits", "UINT8": "8 bits"}


@dataclass(frozen=True)
class Variable:
    """A variable, computed from constants of the file when it is read."""

    shape: tuple[int, ...]
    read: Callable[[], Float32]


@dataclass(frozen=True)
class TfliteSource:
    """The variables of a network in a TFLite file, by operator."""

    where: str
    variables: Mapping[str, Variable]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.variables)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.variables[name].shape

    def read(self, name: str) -> Array:
        return self.variables[name].read()


def open_tflite(content: ByteRange) -> tuple[TfliteSource, CanonicalNames]:
    """The network of a TFLite file; CheckpointError if it is damaged or of another network."""
    network = match_network(read_model(content))
    arch = check_structure(network)
    check_constants(network)
    named = dict(_network(network, arch))
    source = TfliteSource(content.name, dict(named.values()))
    pairs = [(name, Weight(stored)) for name, (stored, _) in named.items()]
    names = CanonicalNames.collect("tflite", arch, pairs, {}, source)
    graph = GraphSettings(network.causal, network.gating, network.head_activation)
    return source, replace(names, graph=graph, notes=tuple(_notes(network)))


def _notes(network: Network) -> Iterator[str]:
    """What the file does not have any more of the network that was trained."""
    layers = list(network.convolutions)
    kinds = Counter(_PRECISIONS.get(layer.kernel.type, layer.kernel.type) for layer in layers)
    stored = " and ".join(f"{count} kernels in {kind}" for kind, count in kinds.most_common())
    tensors = network.graph.model.tensors
    activations = {tensors[layer.operator.inputs[0]].type for layer in layers}
    quantized = activations & {"INT8", "INT16", "UINT8"}
    yield f"precision: {stored}; activations {'quantized too' if quantized else 'in float32'}"
    if network.stem.gamma is None:
        yield "batch normalisation was folded into the kernels; it has a scale of 1 and no mean"
    else:
        yield "of batch normalisation, a scale and a shift are left; it has no mean"
    if any(block.scale is None for block in network.blocks):
        yield "ReZero was folded into the projections; its scale is 1"


# --- variables ------------------------------------------------------------------------------------

Named = tuple[str, tuple[str, Variable]]  # canonical name, name in the file and variable


def _network(network: Network, arch: str) -> Iterator[Named]:
    """Every variable of the network, with kernels in the layout of 3D convolutions."""
    yield from _normalized("stem/_stem", network.stem)
    for spec, block in zip(ARCHS[arch].blocks, network.blocks, strict=True):
        yield from _block(spec.name, block)
    yield from _normalized("head/_project", network.head)
    yield from _biased(f"{CLASSIFIER}/_head", network.hidden)
    yield from _biased(f"{CLASSIFIER}/_classifier", network.classifier)


def _block(name: str, block: Block) -> Iterator[Named]:
    attention = block.attention
    yield from _normalized(f"{name}/_expansion", block.expansion)
    yield from _normalized(f"{name}/_feature", block.feature)
    if block.temporal is not None:
        yield from _normalized(f"{name}/_feature", block.temporal, "_temporal")
    yield from _biased(f"{name}/_attention/_se_reduce", attention.reduce)
    yield from _biased(f"{name}/_attention/_se_expand", attention.gate.convolution, attention.gate)
    if attention.encoding is not None:
        scale = _scalar(attention.encoding.scale)
        stored = f"{_stored(attention.reduce)}/encoding scale"
        yield f"{name}/_attention/_pos_encoding/_rezero/scale", (stored, scale)
    yield from _normalized(f"{name}/_projection", block.projection)
    scale = _scalar(block.scale)
    yield f"{name}/_mobile_bottleneck/_rezero/scale", (f"{_stored(block.projection)}/scale", scale)
    if block.skip is not None:
        yield from _normalized(f"{name}/_skip/_projection", block.skip)


def _normalized(path: str, layer: Convolution, suffix: str = "") -> Iterator[Named]:
    """The kernel, and a normalisation that does nothing but scale and shift as the file does."""
    frames, height, width, inputs, outputs = layer.shape
    if suffix:  # over time, which is the height of TFLite's kernel
        frames, height = height, frames
    shape = (frames, height, width, inputs, outputs)
    values: dict[str, Variable] = {
        f"_conv{suffix}/kernel": Variable(shape, lambda: layer.kernel_values().reshape(shape)),
        f"_batch_norm{suffix}/gamma": _vector(layer, partial(_scale, layer)),
        f"_batch_norm{suffix}/beta": _vector(layer, partial(_shift, layer)),
        f"_batch_norm{suffix}/moving_mean": _filled(layer, np.float32(0)),
        f"_batch_norm{suffix}/moving_variance": _filled(layer, UNIT_VARIANCE),
    }
    for leaf, variable in values.items():
        yield f"{path}/{leaf}", (f"{_stored(layer)}/{leaf.rpartition('/')[2]}", variable)


def _biased(path: str, layer: Convolution, gate: Gate | None = None) -> Iterator[Named]:
    """Kernel and bias, without the constants of a gate behind it."""
    factor, offset = (gate.scale, gate.shift) if gate else (1.0, 0.0)

    def kernel() -> Float32:
        if layer.gamma is None and gate is None:
            return layer.kernel_values()
        exact = layer.kernel_values().astype(np.float64) * _scale(layer) / factor
        return _float32(exact)

    def bias() -> Float32:
        return _float32((_shift(layer).astype(np.float64) - offset) / factor)

    stored = _stored(layer)
    yield f"{path}/_conv/kernel", (f"{stored}/kernel", Variable(layer.shape, kernel))
    yield f"{path}/_conv/bias", (f"{stored}/bias", _vector(layer, bias))


def _scale(layer: Convolution) -> Float32:
    if layer.gamma is None:
        return np.ones(layer.channels, np.float32)
    return layer.gamma.real().reshape(-1)


def _shift(layer: Convolution) -> Float32:
    shift = np.zeros(layer.channels, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged file may have any bits
        if layer.bias is not None:
            shift += layer.bias.real().reshape(-1).astype(np.float64) * _scale(layer)
        if layer.beta is not None:
            shift += layer.beta.real().reshape(-1)
    return _float32(shift)


def _float32(exact: NDArray[np.float64]) -> Float32:
    with np.errstate(over="ignore"):  # infinities are refused where variables are converted
        return exact.astype(np.float32)


def _vector(layer: Convolution, read: Callable[[], Float32]) -> Variable:
    return Variable((layer.channels,), read)


def _filled(layer: Convolution, value: np.float32) -> Variable:
    return _vector(layer, partial(np.full, layer.channels, value))


def _scalar(constant: Tensor | None) -> Variable:
    """A ReZero scale; 1 where the converter folded it into the convolution in front of it."""
    one = np.ones((), np.float32)
    return Variable((), lambda: one if constant is None else constant.real().reshape(()))


def _stored(layer: Convolution) -> str:
    """How viewers of TFLite files show the layer."""
    return f"{layer.operator.kind} {layer.operator.index}"
