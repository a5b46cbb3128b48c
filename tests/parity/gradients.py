"""Does the network learn as the official one does? Gradients and moving statistics, compared.

The same weights, clips and labels, the same loss (softmax cross entropy), in TensorFlow and here;
then the gradient of every parameter. With the normalisations in training mode the moving
statistics are compared as well. The official model is built as its authors train it: with
``use_sync_bn`` (official/projects/movinet/configs/movinet.py), hence with Keras' unfused batch
normalisation everywhere but in the skip projections.

With a reference in float64 the formulas are compared: both programs round so little that any seed
will do. With one in float32 the programs are compared as they are used, on a step whose gradients
are well-conditioned (``conditioning``); the same step in PyTorch float64 shows how much of the
difference each program's rounding causes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from movinet_convert.checkpoint.mapping import Link, links, map_variables
from movinet_convert.model import MoViNet
from movinet_convert.model.layers import BATCH_NORM_MOMENTUM, BatchNorm
from movinet_convert.parity.cases import random_clips
from movinet_convert.parity.official import build_official, import_tensorflow
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables
from tests.parity.conditioning import choose_labels, clear_kinks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from movinet_convert.model import StreamState
    from movinet_convert.variants import Variant

Array = NDArray[Any]
Norms = Literal["inference", "training"]

MOVING = ("moving_mean", "moving_variance")

# Largest |theirs - ours| / |theirs|, of gradients by the mode of the normalisations.
TOLERANCES: dict[Norms, float] = {"inference": 1e-4, "training": 1e-3}
STATISTICS_TOLERANCE = 1e-4
# The same where both programs compute in float64. Keras steps its moving statistics by a hundredth
# in float32 even then.
EXACT_TOLERANCE = 1e-9
EXACT_STATISTICS_TOLERANCE = 1e-7

# The synthetic classifier gives logits of several, at which a softmax saturates; at a tenth of each
# of its two layers every clip has a say in the loss.
CLASSIFIER_GAIN = 0.1

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
class GradientComparison:
    """The result of one comparison: every parameter and, in training mode, moving statistic.

    ``rounding`` is how far our float32 gradients are from our float64 ones, and
    ``reference_rounding`` how far TensorFlow's float32 gradients are from those; both are empty
    where float64 itself is compared.
    """

    variant: Variant
    norms: Norms
    dtype: str
    loss: float
    reference_loss: float
    gradients: tuple[Difference, ...]
    rounding: tuple[Difference, ...]
    reference_rounding: tuple[Difference, ...]
    statistics: tuple[Difference, ...]

    def faults(self) -> tuple[Difference, ...]:
        """Every gradient and moving statistic that differs by more than its tolerance."""
        gradients, statistics = TOLERANCES[self.norms], STATISTICS_TOLERANCE
        if self.dtype == "float64":
            gradients, statistics = EXACT_TOLERANCE, EXACT_STATISTICS_TOLERANCE
        return (
            *(d for d in self.gradients if d.relative > gradients),
            *(d for d in self.statistics if d.relative > statistics),
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


def training_reference(
    variant: Variant, num_classes: int = 7, dtype: Literal["float32", "float64"] = "float32"
) -> Reference:
    """The official model as its authors train it, without dropout or stochastic depth.

    In float64 it computes the same formulas all but free of rounding; only its fused normalisations
    give way to unfused ones, which TensorFlow does not have in float64. The official positional
    encoding does not run in float64, hence no stream model from A3 on.
    """
    modules = import_tensorflow("Comparing gradients with the official model")
    keras = modules.keras
    default = keras.backend.floatx()
    keras.backend.set_floatx(dtype)
    try:
        model = build_official(
            modules, variant.arch, variant.settings(), num_classes, use_sync_bn=True
        )
    finally:
        keras.backend.set_floatx(default)
    if dtype != "float32":
        # The classifier returns float32 whatever it computes in.
        (classifier,) = (layer for layer in model.layers if hasattr(layer, "_cast"))
        classifier._cast = keras.layers.Activation("linear", dtype=dtype)
        # TensorFlow has 3D pooling in float64 under its compiler alone.
        for layer in model.backbone.submodules:
            if isinstance(layer, keras.layers.AveragePooling3D):
                layer.call = modules.tf.function(layer.call, jit_compile=True)
    return Reference(variant, num_classes=num_classes, model=model)


def compare_gradients(
    reference: Reference,
    *,
    norms: Norms,
    clips: int = 4,
    frames: Sequence[int] = (4,),
    height: int = 64,
    width: int = 64,
    seed: int = 0,
) -> GradientComparison:
    """Compare one training step on ``clips`` seeded clips with the official model's.

    ``frames`` are the chunks that a video is cut into; stream variants take several, and the
    gradients then reach back through the state. The reference's weights are replaced by seeded
    ones, and our network computes in the reference's dtype.
    """
    in_float64 = reference.dtype == np.float64
    model, pairs = _draw_model(reference, seed)
    video = random_clips(clips, sum(frames), height, width, seed=seed)
    labels = _prepare(model, torch.from_numpy(video), norms, seed, in_float64=in_float64)
    exact_model = None if in_float64 else copy.deepcopy(model).double()
    reference.load({link.tf: link.to_tf(model.state_dict()[link.torch].numpy()) for link in pairs})

    chunks = np.split(video, np.cumsum(frames)[:-1], axis=2)
    theirs = _reference_step(reference, chunks, labels.numpy(), norms)
    ours = _our_step(model, pairs, chunks, labels)
    exact = _our_step(exact_model, pairs, chunks, labels) if exact_model is not None else None
    return GradientComparison(
        variant=reference.variant,
        norms=norms,
        dtype=reference.dtype.name,
        loss=ours.loss,
        reference_loss=theirs.loss,
        gradients=_gradient_differences(theirs, ours, norms),
        rounding=_gradient_differences(exact, ours, norms) if exact else (),
        reference_rounding=_gradient_differences(exact, theirs, norms) if exact else (),
        statistics=_differences(theirs.statistics, ours.statistics) if norms == "training" else (),
    )


def _draw_model(reference: Reference, seed: int) -> tuple[MoViNet, tuple[Link, ...]]:
    """Our network with seeded weights and without anything random, and its links to TensorFlow."""
    variant, settings = reference.variant, reference.settings
    model = MoViNet(variant, settings, reference.num_classes, dropout=0.0, stochastic_depth=0.0)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    pairs = links(variant, settings.conv_type, shapes)
    variables = synthetic_variables(variant, {p.tf: p.tf_shape for p in pairs}, seed=seed)
    for name, array in variables.items():
        if name.startswith("classifier_head/"):
            array *= np.float32(CLASSIFIER_GAIN)
    tensors = map_variables(variables, pairs, variant.name)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return model, pairs


def _prepare(
    model: MoViNet, video: torch.Tensor, norms: Norms, seed: int, *, in_float64: bool
) -> torch.Tensor:
    """Make ``model`` ready for a step on ``video``; returns the labels (B,) to learn."""
    if norms == "inference":
        _settle_statistics(model, video)
    model.train(norms == "training")
    if in_float64:
        _without_fused_norms(model.double())
        return torch.arange(len(video)) % model.num_classes
    clear_kinks(model, video)
    return choose_labels(model, video, seed)


@torch.no_grad()
def _settle_statistics(model: MoViNet, clip: torch.Tensor) -> None:
    """Give every normalisation the statistics of ``clip``, as training would in the end."""
    statistics = list(model.buffers())
    for statistic in statistics:
        statistic.zero_()
    model.train()(clip)  # takes up BATCH_NORM_MOMENTUM of the clip's own
    for statistic in statistics:
        statistic.div_(BATCH_NORM_MOMENTUM)


def _without_fused_norms(model: MoViNet) -> None:
    """As Keras does in float64, in which TensorFlow has no fused normalisation."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.unbiased = False


def _reference_step(
    reference: Reference, chunks: Sequence[Array], labels: Array, norms: Norms
) -> _Step:
    tf = reference.tf
    with tf.GradientTape() as tape:
        states = None
        for chunk in chunks:
            inputs = reference.inputs(chunk, states)
            logits, states = reference.call(inputs, training=norms == "training")
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
    model: MoViNet, pairs: Sequence[Link], chunks: Sequence[Array], labels: torch.Tensor
) -> _Step:
    if model.settings.causal:
        state: StreamState | None = None
        for chunk in chunks:
            logits, state = model.stream(torch.from_numpy(chunk).to(model.dtype), state)
    else:
        (clip,) = chunks
        logits = model(torch.from_numpy(clip).to(model.dtype))
    loss = F.cross_entropy(logits, labels)
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


def _gradient_differences(theirs: _Step, ours: _Step, norms: Norms) -> tuple[Difference, ...]:
    differences = _differences(theirs.gradients, ours.gradients)
    if norms == "inference":
        return differences
    largest = max(d.size for d in differences if d.name.endswith("/beta"))
    return tuple(
        Difference(
            d.name, _norm(theirs.gradients[d.name] - ours.gradients[d.name]) / largest, largest
        )
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
