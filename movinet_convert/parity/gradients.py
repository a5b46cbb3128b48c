"""Does the network learn as the official one does? Gradients and moving statistics, compared.

The same weights, clips and labels, the same loss (softmax cross entropy), in TensorFlow and here;
then the gradient of every parameter. With the normalisations in training mode the moving
statistics are compared as well. The official model is built as its authors train it: with
``use_sync_bn`` (official/projects/movinet/configs/movinet.py), hence with Keras' unfused batch
normalisation everywhere but in the skip projections.

A gradient may be a small difference of large numbers, and float32 then loses it in either program.
So the same step is taken here in float64 as well, which tells rounding from error.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from movinet_convert.mapping import Link, links, map_variables
from movinet_convert.model import MoViNet
from movinet_convert.model.layers import BATCH_NORM_MOMENTUM
from movinet_convert.parity.clips import random_clips
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from movinet_convert.model import StreamState
    from movinet_convert.variants import Variant

Array = NDArray[Any]
Norms = Literal["inference", "training"]

MOVING = ("moving_mean", "moving_variance")

# The synthetic weights with softer blocks and logits of order one: at full strength, a network of
# thirty blocks amplifies rounding until float32 gradients are off by more than a tolerance of 1e-4.
SOFTER = {
    "_mobile_bottleneck/_rezero/scale": 0.3,
    **{
        f"_classifier/{conv}/{kind}": 0.1
        for conv in ("_conv", "_conv/_conv")
        for kind in ("kernel", "bias")
    },
}

# With the normalisations in training mode these gradients are zero by construction: a constant that
# a block adds to the residual stream is taken away again by every normalisation that reads it. What
# a program gives instead is its own rounding, so they are measured against the largest gradient of
# their kind.
CANCELLED = "_projection/_batch_norm/beta"


@dataclass(frozen=True)
class Difference:
    """How far our array is from TensorFlow's, by canonical TF name.

    ``relative`` is |theirs - ours| / ``size`` (2-norms); ``size`` is |theirs|, or for a gradient
    that is zero by construction the largest of its kind.
    """

    name: str
    relative: float
    size: float


@dataclass(frozen=True)
class GradientReport:
    """What came of one comparison: every parameter and, in training mode, moving statistic.

    ``rounding`` is how far our float32 gradients are from our float64 ones, and
    ``reference_rounding`` how far TensorFlow's float32 gradients are from those.
    """

    variant: Variant
    norms: Norms
    loss: float
    reference_loss: float
    gradients: tuple[Difference, ...]
    rounding: tuple[Difference, ...]
    reference_rounding: tuple[Difference, ...]
    statistics: tuple[Difference, ...]

    def faults(self, tolerance: float) -> tuple[Difference, ...]:
        """Gradients that differ by more than ``tolerance`` for another reason than rounding.

        Where TensorFlow's own float32 gradient is off from the float64 one by about as much, while
        ours is within the tolerance, the difference is TensorFlow's rounding.
        """
        ours = {d.name: d.relative for d in self.rounding}
        theirs = {d.name: d.relative for d in self.reference_rounding}
        return tuple(
            d
            for d in self.gradients
            if d.relative > tolerance
            and not (ours[d.name] <= tolerance and theirs[d.name] > d.relative / 2)
        )

    @staticmethod
    def worst(differences: Sequence[Difference]) -> Difference:
        return max(differences, key=lambda difference: difference.relative)


@dataclass(frozen=True)
class _Step:
    """The outcome of one forward and backward pass, by canonical TF name, in TF's axes."""

    loss: float
    gradients: Mapping[str, Array]
    statistics: Mapping[str, Array]


def training_reference(variant: Variant, num_classes: int = 7) -> Reference:
    """The official model as its authors train it, without dropout or stochastic depth."""
    return Reference(variant, num_classes=num_classes, use_sync_bn=True)


def compare_gradients(
    reference: Reference,
    *,
    norms: Norms,
    clips: int = 2,
    frames: Sequence[int] = (4,),
    height: int = 32,
    width: int = 32,
    seed: int = 0,
) -> GradientReport:
    """Compare one training step on ``clips`` seeded clips with the official model's.

    ``frames`` are the pieces that a video is cut into; stream variants take several, and the
    gradients then reach back through the state. The reference's weights are replaced by seeded
    ones.
    """
    variant, settings = reference.variant, reference.settings
    model = MoViNet(variant, settings, reference.num_classes, dropout=0.0, stochastic_depth=0.0)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pairs = links(variant, settings.conv_type, shapes)
    _draw_weights(model, pairs, seed)
    video = random_clips(clips, sum(frames), height, width, seed=seed)
    if norms == "inference":
        _settle_statistics(model, torch.from_numpy(video))
    reference.load({link.tf: link.to_tf(model.state_dict()[link.torch].numpy()) for link in pairs})
    exact_model = copy.deepcopy(model).double()

    pieces = np.split(video, np.cumsum(frames)[:-1], axis=2)
    labels = np.arange(clips) % reference.num_classes
    theirs = _reference_step(reference, pieces, labels, norms)
    ours = _our_step(model, pairs, pieces, labels, norms)
    exact = _our_step(exact_model, pairs, pieces, labels, norms)
    return GradientReport(
        variant=variant,
        norms=norms,
        loss=ours.loss,
        reference_loss=theirs.loss,
        gradients=_gradient_differences(theirs.gradients, ours.gradients, norms),
        rounding=_gradient_differences(exact.gradients, ours.gradients, norms),
        reference_rounding=_gradient_differences(exact.gradients, theirs.gradients, norms),
        statistics=_differences(theirs.statistics, ours.statistics) if norms == "training" else (),
    )


def _draw_weights(model: MoViNet, pairs: tuple[Link, ...], seed: int) -> None:
    shapes = {link.tf: link.tf_shape for link in pairs}
    variables = synthetic_variables(model.variant, shapes, seed=seed)
    for name, array in variables.items():
        for ending, factor in SOFTER.items():
            if name.endswith(ending):
                array *= np.float32(factor)
    tensors = map_variables(variables, pairs, model.variant.name)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})


@torch.no_grad()
def _settle_statistics(model: MoViNet, clip: torch.Tensor) -> None:
    """Give every normalisation the statistics of ``clip``, as training would in the end."""
    statistics = list(model.buffers())
    for statistic in statistics:
        statistic.zero_()
    model.train()(clip)  # takes up BATCH_NORM_MOMENTUM of the clip's own
    for statistic in statistics:
        statistic.div_(BATCH_NORM_MOMENTUM)


def _reference_step(
    reference: Reference, pieces: Sequence[Array], labels: Array, norms: Norms
) -> _Step:
    tf = reference.tf
    with tf.GradientTape() as tape:
        states = None
        for piece in pieces:
            inputs = reference.tf_inputs(piece, states)
            logits, states = reference.model(inputs, training=norms == "training")
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, tf.reshape(logits, [len(labels), -1])
            )
        )
    weights = {n: v for n, v in reference.tf_variables.items() if not n.endswith(MOVING)}
    gradients = tape.gradient(loss, weights)
    return _Step(
        float(loss),
        {name: tf.convert_to_tensor(gradient).numpy() for name, gradient in gradients.items()},
        {name: array for name, array in reference.variables().items() if name.endswith(MOVING)},
    )


def _our_step(
    model: MoViNet, pairs: Sequence[Link], pieces: Sequence[Array], labels: Array, norms: Norms
) -> _Step:
    model.train(norms == "training")
    if model.settings.causal:
        state: StreamState | None = None
        for piece in pieces:
            logits, state = model.stream(torch.from_numpy(piece).to(model.dtype), state)
    else:
        (clip,) = pieces
        logits = model(torch.from_numpy(clip).to(model.dtype))
    loss = F.cross_entropy(logits, torch.from_numpy(labels))
    torch.autograd.backward(loss)
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    gradients = {}
    for link in pairs:
        if link.torch in parameters:
            gradient = parameters[link.torch].grad
            assert gradient is not None, f"{link.torch} has no gradient"
            gradients[link.tf] = link.to_tf(gradient.numpy())
    statistics = {link.tf: buffers[link.torch].numpy() for link in pairs if link.torch in buffers}
    return _Step(loss.item(), gradients, statistics)


def _gradient_differences(
    theirs: Mapping[str, Array], ours: Mapping[str, Array], norms: Norms
) -> tuple[Difference, ...]:
    differences = _differences(theirs, ours)
    if norms == "inference":
        return differences
    largest = max(d.size for d in differences if d.name.endswith("/beta"))
    return tuple(
        Difference(d.name, _norm(theirs[d.name] - ours[d.name]) / largest, largest)
        if d.name.endswith(CANCELLED)
        else d
        for d in differences
    )


def _differences(theirs: Mapping[str, Array], ours: Mapping[str, Array]) -> tuple[Difference, ...]:
    if theirs.keys() != ours.keys():
        raise KeyError(f"compared under different names: {sorted(theirs.keys() ^ ours.keys())[:4]}")
    return tuple(_difference(name, theirs[name], ours[name]) for name in theirs)


def _difference(name: str, theirs: Array, ours: Array) -> Difference:
    size, distance = _norm(theirs), _norm(theirs - ours)
    return Difference(name, distance / size if size else distance, size)


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))
