"""Match the graph of a TFLite file with a MoViNet, from the logits back to the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from movinet_convert.checkpoint.tflite.encoding import Encoding, find_encoding
from movinet_convert.checkpoint.tflite.flex import PADDING
from movinet_convert.checkpoint.tflite.graph import Graph
from movinet_convert.checkpoint.tflite.layers import (
    Convolution,
    Gate,
    find_activation,
    find_convolution,
    find_gate,
    find_mean,
    find_pair,
    is_relu6_network,
    joins_channels,
)
from movinet_convert.checkpoint.tflite.model import Model, Operator, Tensor
from movinet_convert.errors import CheckpointError
from movinet_convert.variants import Activation, Gating


@dataclass(frozen=True)
class Attention:
    """A squeeze-excitation, with a positional encoding or without."""

    reduce: Convolution
    gate: Gate
    with_frame_mean: bool
    encoding: Encoding | None


@dataclass(frozen=True)
class Block:
    """A block; ``scale`` (ReZero) is None where it was folded into the projection."""

    expansion: Convolution
    feature: Convolution
    temporal: Convolution | None
    attention: Attention
    projection: Convolution
    scale: Tensor | None
    skip: Convolution | None
    pool: Operator | None


@dataclass(frozen=True)
class Network:
    """A whole network, and the settings that its operators show; ``image`` is its input."""

    graph: Graph
    image: int
    stem: Convolution
    blocks: tuple[Block, ...]
    head: Convolution
    hidden: Convolution
    classifier: Convolution
    causal: bool
    activation: Activation
    gating: Gating
    head_activation: Activation

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """Every layer with a kernel."""
        yield from (self.stem, self.head, self.hidden, self.classifier)
        for block in self.blocks:
            yield from (block.expansion, block.feature, block.projection)
            yield from (block.attention.reduce, block.attention.gate.convolution)
            yield from (layer for layer in (block.temporal, block.skip) if layer is not None)


def match_network(model: Model) -> Network:
    """The network of a graph; CheckpointError where an operator is not a MoViNet's."""
    return _Matcher(model).network()


class _Matcher:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = Graph(model)
        self.activations: set[Activation] = set()
        self.gatings: set[Gating] = set()
        self.causal = False

    def network(self) -> Network:
        classifier = self._classifier()
        found = find_activation(self.graph, classifier.input)
        if found is None:
            self._refuse(classifier.input, "the activation of the classifier's hidden layer")
        head_activation, tensor = found
        hidden = self._pointwise(tensor, "the classifier's hidden layer")
        tensor = self._head_mean(hidden)
        head = self._pointwise(self._activated(tensor), "the head")
        blocks, tensor = [], head.input
        while self.graph.operator(tensor, "ADD"):
            block = self._block(tensor)
            blocks.append(block)
            tensor = block.expansion.input
        stem = self._convolution(self._activated(tensor), "the stem")
        if not self.graph.is_state(stem.input):
            self._refuse(stem.input, "the image")
        return Network(
            graph=self.graph,
            image=self.graph.source(stem.input),
            stem=stem,
            blocks=tuple(reversed(blocks)),
            head=head,
            hidden=hidden,
            classifier=classifier,
            causal=self.causal,
            activation=self._only(self.activations, "activations"),
            gating=self._only(self.gatings, "gates"),
            head_activation=head_activation,
        )

    def _classifier(self) -> Convolution:
        """The layer behind the one output that is neither a state nor anything else."""
        layers = [find_convolution(self.graph, tensor) for tensor in self.model.outputs]
        found = [layer for layer in layers if layer is not None and layer.pointwise]
        if len(found) != 1:
            raise CheckpointError(
                f"{self.model.where} is a TFLite file, but not of a MoViNet: {len(found)} of its "
                f"{len(layers)} outputs are the logits of a classifier, and one was expected."
            )
        return found[0]

    def _head_mean(self, hidden: Convolution) -> int:
        """The head's activations, whose mean the hidden layer gets."""
        channels = hidden.shape[3]
        over_frames = self._mean_so_far(hidden.input, channels)
        self.causal = over_frames is not None
        found = find_mean(
            self.graph, hidden.input if over_frames is None else over_frames, channels
        )
        if found is None:
            self._refuse(hidden.input, "the mean of a clip, or of the frames so far (one per call)")
        return found

    def _mean_so_far(self, tensor: int, channels: int) -> int | None:
        """``(x + state) / (count + 1)``: returns x, which has ``channels`` values."""
        quotient = self.graph.binary(tensor, "DIV")
        if quotient is None or not self._is_count(quotient[1]):
            return None
        for mean, state in self.graph.either_way(quotient[0], "ADD"):
            if self.graph.is_state(state) and self.graph.elements(mean) == channels:
                return mean
        return None

    def _is_count(self, tensor: int) -> bool:
        """Whether it is a state plus one, in one or several sums."""
        number = self.graph.unary(tensor, "CAST")
        total = 0
        while number is not None and not self.graph.is_state(number):
            pairs = self.graph.either_way(number, "ADD")
            found = [(a, self.graph.integers(self.graph.source(b))) for a, b in pairs]
            number, (more,) = next((pair for pair in found if len(pair[1]) == 1), (None, (0,)))
            total += more
        return number is not None and total == 1

    # --- blocks -----------------------------------------------------------------------------------

    def _block(self, tensor: int) -> Block:
        for residual, other in self.graph.either_way(tensor, "ADD"):
            scaled = self.graph.with_scalar(residual, "MUL")
            projection = find_convolution(self.graph, scaled[0] if scaled else residual)
            product = projection and self.graph.either_way(projection.input, "MUL")
            for gates, features in product or ():
                gate = find_gate(self.graph, gates)
                if projection is not None and gate is not None:
                    scale = scaled[1] if scaled else None
                    return self._block_of(gate, features, projection, scale, other)
        return self._refuse(tensor, "the sum of a gated residual branch and a skip connection")

    def _block_of(
        self,
        gate: Gate,
        features: int,
        projection: Convolution,
        scale: Tensor | None,
        other: int,
    ) -> Block:
        attention = self._attention(gate, features)
        feature, temporal = self._feature(features)
        expansion = self._pointwise(self._activated(feature.input), "the expansion of a block")
        skip, pool = self._skip(other, expansion.input)
        return Block(expansion, feature, temporal, attention, projection, scale, skip, pool)

    def _attention(self, gate: Gate, features: int) -> Attention:
        self.gatings.add(gate.gating)
        expand = gate.convolution
        reduce = self._pointwise(self._activated(expand.input), "a squeeze-excitation")
        encoding = find_encoding(self.graph, reduce.input)
        tensor = encoding.input if encoding else reduce.input
        joined = find_pair(self.graph, tensor)
        mean = tensor
        if joined is not None:
            if not joins_channels(self.graph, joined):
                self._refuse(tensor, "the mean of the frames so far beside that of this frame")
            so_far = self._mean_so_far(joined.inputs[0], expand.channels)
            mean = joined.inputs[1]
            if so_far is None or not self.graph.same(so_far, mean):
                self._refuse(joined.inputs[0], "the mean of the frames so far")
        source = find_mean(self.graph, mean, expand.channels)
        if source is None or not self.graph.same(source, features):
            self._refuse(mean, "the mean of what the gate is for")
        if (joined is not None) != self.causal:
            self._refuse(tensor, f"the mean of {'the frames so far' if self.causal else 'a clip'}")
        return Attention(reduce, gate, joined is not None, encoding)

    def _feature(self, tensor: int) -> tuple[Convolution, Convolution | None]:
        """The depthwise convolution of a block, and the temporal one behind it."""
        layer = self._convolution(self._activated(tensor), "a depthwise convolution")
        joined = find_pair(self.graph, layer.input)
        if joined is None:
            return layer, None
        _, length, width, _, _ = layer.shape
        axis, shapes = joined.options["Axis"], [self.graph.shape(at) for at in joined.inputs]
        sizes = [shape[axis] for shape in shapes if -len(shape) <= axis < len(shape)]
        if width != 1 or sizes != [length - 1, 1] or not self.graph.is_state(joined.inputs[0]):
            self._refuse(layer.input, "a stream buffer with one frame behind it")
        inside = self._activated(joined.inputs[1])
        return self._convolution(inside, "a depthwise convolution"), layer

    def _skip(self, tensor: int, start: int) -> tuple[Convolution | None, Operator | None]:
        """The projection and the pooling of the skip connection from ``start`` to ``tensor``."""
        if self.graph.same(tensor, start):
            return None, None
        projection = self._pointwise(tensor, "the projection of a skip connection")
        pool = self.graph.operator(projection.input, "AVERAGE_POOL_2D", "FlexAvgPool3D")
        source = pool.inputs[0] if pool else projection.input
        if not self.graph.same(source, start) or (pool and not _is_skip_pool(pool)):
            self._refuse(projection.input, "the block's input, pooled 3 x 3 with stride 2 or not")
        return projection, pool

    # --- layers -----------------------------------------------------------------------------------

    def _activated(self, tensor: int) -> int:
        """The tensor in front of the activation that computed ``tensor``."""
        found = find_activation(self.graph, tensor)
        if found is None:
            self._refuse(tensor, "swish or hard_swish")
        self.activations.add(found[0])
        return found[1]

    def _convolution(self, tensor: int, what: str) -> Convolution:
        found = find_convolution(self.graph, tensor)
        if found is None:
            self._refuse(tensor, what)
        return found

    def _pointwise(self, tensor: int, what: str) -> Convolution:
        found = self._convolution(tensor, what)
        if not found.pointwise:
            self._refuse(tensor, f"{what}, which is pointwise")
        return found

    def _only(self, found: set[Any], what: str) -> Any:
        if len(found) != 1:
            raise CheckpointError(
                f"{self.model.where} has {' and '.join(sorted(found)) or 'no'} {what}; a MoViNet "
                "has the same in all blocks."
            )
        return next(iter(found))

    def _refuse(self, tensor: int, expected: str) -> NoReturn:
        if is_relu6_network(self.graph):
            raise CheckpointError(
                f"{self.model.where} is a MoViNet with relu6 activations and no squeeze-"
                "excitation, like the int8 files on Kaggle; that is another architecture, which "
                "cannot be converted: use the float16 or the float32 file."
            )
        found = self.graph.operator(tensor, *{op.kind for op in self.model.operators})
        place = f"operator {found.index} ({found.kind})" if found else "an input or a constant"
        raise CheckpointError(
            f"{self.model.where} is not a MoViNet that can be converted: {place} is where "
            f"{expected} was expected; it is of another network, of a modified one, or by a "
            "converter that is not known."
        )


def _is_skip_pool(pool: Operator) -> bool:
    """Whether it is 3 x 3 with stride 2; TFLite has one name for the sizes, TensorFlow another."""
    options = pool.options
    size = (options.get("FilterHeight", options.get("FilterH")), options.get("FilterD", 1))
    width = options.get("FilterWidth", options.get("FilterW"))
    strides = tuple(options.get(f"Stride{axis}", 1) for axis in "DHW")
    plain = PADDING[options["Padding"]] == "SAME" and not options.get("FusedActivationFunction", 0)
    return plain and (*size, width, strides) == (3, 1, 3, (1, 2, 2))
