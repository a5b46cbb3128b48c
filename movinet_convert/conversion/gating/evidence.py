"""Which gate fits the moving statistics: a position between the two, for every block.

For a block with C channels, the two gates predict two vectors of 2C statistics behind the gate:
the means, in standard deviations, and the logarithms of the variances. The stored statistics lie
somewhere beside the line between them. Their position on it, by generalised least squares, is 0
where they fit the Keras gate and 1 where they fit the Model Garden's; statistics that have nothing
to do with the clips lie far from both. The network has a dozen blocks or more, and each is a
witness of its own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from movinet_convert.conversion.gating.statistics import Flow, batch_sizes, flows
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.model import MoViNet
from movinet_convert.variants import BATCH_NORM_EPSILON, Gating

GATINGS: tuple[Gating, ...] = ("keras", "model-garden")
# How many times what smaller batches change, the unknown batches of training may have changed.
BATCH_DEVIATION = 2.0
LEAST_RATIO = 2.0
LARGEST_MISFIT = 0.6  # of the gate that is told; in a scatter around it, this is a ratio of 2
BLOCK_DEVIATION = 0.25  # of the positions of blocks that are known exactly, in trained networks
ROUNDS = 10  # of expectation maximisation; the positions settle within five
LEAST_NOISE = 1e-9
LEAST_PRECISION = 1e-12


@dataclass(frozen=True)
class GatingEvidence:
    """How far the stored statistics are from what each gate predicts.

    ``keras`` and ``model_garden`` are root mean squares over the blocks, in units of the distance
    between the two predictions. ``ratio`` is the larger over the smaller: how many times worse the
    other gate fits. ``told`` is None where the evidence is too weak. ``positions`` are the blocks'
    own, from 0 (Keras) to 1 (Model Garden).
    """

    keras: float
    model_garden: float
    ratio: float
    told: Gating | None
    positions: tuple[float, ...]
    clips: int

    @property
    def layers(self) -> int:
        """Normalisations that were compared: one behind the gate of each block."""
        return len(self.positions)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "layers": self.layers}

    def summary(self) -> str:
        """The verdict in one line, with its figures."""
        nearer, farther = "keras", "model-garden"
        if self.model_garden < self.keras:
            nearer, farther = farther, nearer
        verdict = self.told or "cannot tell"
        needed = "" if self.told else f" where {LEAST_RATIO:g} would tell"
        if not self.told and self.ratio >= LEAST_RATIO:
            needed = ", but neither fits"
        return (
            f"{verdict}: {farther} fits {self.ratio:.2f} times worse than {nearer}{needed} "
            f"({self.layers} normalisations, {self.clips} clips)"
        )


@dataclass(frozen=True)
class _Position:
    value: float
    variance: float


def gating_evidence(model: MoViNet, clips: Tensor) -> GatingEvidence:
    """Compare the moving statistics of a stream network with those that clips cause by each gate.

    ``clips`` (N, 3, T, H, W), uint8 or floats in [0, 1], are of the kind that the network was
    trained on: some dozens, of all classes, in random order. The gating that the model is built
    with does not matter.

    Raises UsageError for a base model, CheckpointError for statistics that are not finite.
    """
    if model.settings.gating == "sigmoid":
        raise UsageError(
            f"This {model.variant.name} gates with a sigmoid; only the gating of stream models "
            "with (2+1)D convolutions is in question."
        )
    stored = _stored(model)
    return _verdict(_positions(model, stored, clips), len(clips))


def _verdict(blocks: list[_Position], clips: int) -> GatingEvidence:
    weights = [1.0 / (block.variance + BLOCK_DEVIATION**2) for block in blocks]

    def misfit(position: float) -> float:
        squares = sum(
            weight * (block.value - position) ** 2
            for weight, block in zip(weights, blocks, strict=True)
        )
        return math.sqrt(squares / sum(weights))

    keras, model_garden = misfit(0.0), misfit(1.0)
    smaller, larger = sorted((keras, model_garden))
    ratio = larger / max(smaller, LEAST_NOISE)
    nearer: Gating = "keras" if keras < model_garden else "model-garden"
    sure = ratio >= LEAST_RATIO and smaller <= LARGEST_MISFIT
    positions = tuple(block.value for block in blocks)
    return GatingEvidence(keras, model_garden, ratio, nearer if sure else None, positions, clips)


def _stored(model: MoViNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Moving mean and variance behind the gate of every block, float64."""
    state = model.state_dict()
    found = {}
    for name in model.blocks:
        norm = f"blocks.{name}.projection.norm"
        mean, variance = (state[f"{norm}.running_{kind}"].double() for kind in ("mean", "var"))
        if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            raise CheckpointError(
                f"The moving statistics of {norm} are not finite (NaN or infinity); the training "
                "run diverged: take an earlier checkpoint."
            )
        found[name] = (mean, variance.clamp_min(0.0))
    return found


def _positions(
    model: MoViNet, stored: dict[str, tuple[Tensor, Tensor]], clips: Tensor
) -> list[_Position]:
    found = [
        {gating: flows(model, gating, clips, batch) for gating in GATINGS}
        for batch in batch_sizes(model.variant, clips)
    ]
    return [
        _position(statistics, [[flow[gating][name] for gating in GATINGS] for flow in found])
        for name, statistics in stored.items()
    ]


def _position(stored: tuple[Tensor, Tensor], flows: list[list[Flow]]) -> _Position:
    """Where stored statistics (C,) lie between those of the two gates.

    ``flows`` are those of the two gates for several batch sizes, the largest first.
    """
    large, *smaller = flows
    keras, garden = large
    scale = ((keras.variance + BATCH_NORM_EPSILON) * (garden.variance + BATCH_NORM_EPSILON)).sqrt()
    centre = (keras.mean + garden.mean) / 2

    def vector(mean: Tensor, variance: Tensor) -> Tensor:
        """(2C,) statistics beside those midway between the gates."""
        moved = (mean - centre) / scale.sqrt()
        return torch.cat((moved, ((variance + BATCH_NORM_EPSILON) / scale).log()))

    def midway(flows: list[Flow]) -> Tensor:
        return torch.stack([vector(flow.mean, flow.variance) for flow in flows]).mean(0)

    clips = [
        torch.cat((flow.means / scale.sqrt(), flow.deviations / scale), dim=1) for flow in large
    ]
    batches = torch.stack([midway(small) - midway(large) for small in smaller]) * BATCH_DEVIATION
    span = vector(garden.mean, garden.variance) - vector(keras.mean, keras.variance)
    sampling = _sampling(torch.stack(clips).mean(0))
    return _least_squares(vector(*stored), span, sampling + batches.T @ batches)


def _sampling(clips: Tensor) -> Tensor:
    """(2C, 2C) covariance of a mean over all clips, from those of the clips (N, 2C)."""
    spread = (clips - clips.mean(0)) / clips.shape[0]
    return spread.T @ spread


def _least_squares(stored: Tensor, span: Tensor, known: Tensor) -> _Position:
    """The position p that maximises the likelihood of ``stored - (p - 1/2) span``.

    Its covariance is ``known``, what other clips and batches explain, and an independent noise: one
    variance for the means and one for the variances, found by expectation maximisation.
    """
    channels = len(stored) // 2
    noise = stored.reshape(2, channels).square().mean(1).clamp_min(LEAST_NOISE)
    for _ in range(ROUNDS):
        diagonal = noise.repeat_interleave(channels)
        factor = torch.linalg.cholesky(known + diagonal.diag())
        inverse = torch.cholesky_inverse(factor)
        precision = float(span @ inverse @ span)
        # Without any effect of the gate there is nothing to tell: midway, and of hardly any weight.
        precision = max(precision, LEAST_PRECISION)
        offset = float(span @ inverse @ stored) / precision
        residual = stored - offset * span
        expected = diagonal * (inverse @ residual)
        remaining = diagonal - diagonal.square() * inverse.diagonal()
        noise = (expected.square() + remaining).reshape(2, channels).mean(1)
        noise = noise.clamp_min(LEAST_NOISE)
    return _Position(offset + 0.5, 1 / precision)
