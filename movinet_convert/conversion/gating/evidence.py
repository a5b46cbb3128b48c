"""Evidence for either gating in the moving statistics of every block.

For a block with C channels, the two gatings predict two vectors of 2C statistics after the gate:
the means, in standard deviations, and the logarithms of the variances. Generalized least squares
projects the stored statistics onto the line between them: position 0 fits the gating of Keras, 1
that of the Model Garden; statistics unrelated to the clips are far from both. The blocks are
independent evidence.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from movinet_convert.conversion.gating.statistics import (
    InputStatistics,
    batch_sizes,
    projection_inputs,
)
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.model import MoViNet
from movinet_convert.variants import BATCH_NORM_EPSILON, Gating

GATINGS: tuple[Gating, ...] = ("keras", "model-garden")
# The unknown training batch size may change statistics this many times as much as smaller batches.
BATCH_STD = 2.0
MIN_RATIO = 2.0
MAX_MISFIT = 0.6  # of the detected gating; where the blocks scatter around it, a ratio of 2
BLOCK_STD = 0.25  # of the positions of blocks without sampling error, in trained networks
ITERATIONS = 10  # of expectation maximization; the positions converge within five
MIN_NOISE = 1e-9
MIN_PRECISION = 1e-12


@dataclass(frozen=True)
class GatingEvidence:
    """The distances of the stored statistics from the predictions of each gating.

    ``keras`` and ``model_garden`` are root mean squares over the blocks, in units of the distance
    between the two predictions. ``ratio`` is the larger over the smaller: how many times worse the
    other gating fits. ``gating`` is the detected one, None if the evidence is inconclusive.
    ``positions`` are those of the blocks, from 0 (Keras) to 1 (Model Garden).
    """

    keras: float
    model_garden: float
    ratio: float
    gating: Gating | None
    positions: tuple[float, ...]
    clips: int

    @property
    def layers(self) -> int:
        """The number of compared batch normalizations: one after the gate of each block."""
        return len(self.positions)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["told"] = values.pop("gating")
        return {**values, "layers": self.layers}

    def summary(self) -> str:
        """The result and its figures on one line."""
        nearer, farther = "keras", "model-garden"
        if self.model_garden < self.keras:
            nearer, farther = farther, nearer
        needed = "" if self.gating else f" where {MIN_RATIO:g} is needed"
        if not self.gating and self.ratio >= MIN_RATIO:
            needed = ", but neither fits"
        return (
            f"{self.gating or 'inconclusive'}: {farther} fits {self.ratio:.2f} times worse than "
            f"{nearer}{needed} ({self.layers} layers, {self.clips} clips)"
        )


@dataclass(frozen=True)
class _Position:
    value: float
    variance: float


def gating_evidence(model: MoViNet, clips: Tensor) -> GatingEvidence:
    """Compare the moving statistics of a stream network with those of clips, for each gating.

    ``clips`` (N, 3, T, H, W), uint8 or floats in [0, 1], should be like those of training: some
    dozens, of all classes, in random order. The gating of ``model`` itself does not matter.

    Raises UsageError for a base model, CheckpointError for statistics that are not finite.
    """
    if model.settings.gating == "sigmoid":
        raise UsageError(
            f"This {model.variant.name} has sigmoid gating; the gating is ambiguous only in stream "
            "models with (2+1)D convolutions."
        )
    return _combined(_positions(model, _stored_statistics(model), clips), len(clips))


def _combined(blocks: list[_Position], clips: int) -> GatingEvidence:
    weights = [1.0 / (block.variance + BLOCK_STD**2) for block in blocks]

    def misfit(position: float) -> float:
        squares = sum(
            weight * (block.value - position) ** 2
            for weight, block in zip(weights, blocks, strict=True)
        )
        return math.sqrt(squares / sum(weights))

    keras, model_garden = misfit(0.0), misfit(1.0)
    smaller, larger = sorted((keras, model_garden))
    ratio = larger / max(smaller, MIN_NOISE)
    nearer: Gating = "keras" if keras < model_garden else "model-garden"
    conclusive = ratio >= MIN_RATIO and smaller <= MAX_MISFIT
    positions = tuple(block.value for block in blocks)
    gating = nearer if conclusive else None
    return GatingEvidence(keras, model_garden, ratio, gating, positions, clips)


def _stored_statistics(model: MoViNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Moving mean and variance after the gate of every block, float64."""
    state = model.state_dict()
    found = {}
    for name in model.blocks:
        norm = f"blocks.{name}.projection.norm"
        mean, variance = (state[f"{norm}.running_{kind}"].double() for kind in ("mean", "var"))
        if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            raise CheckpointError(
                f"The moving statistics of {norm} are not finite (NaN or infinity); the training "
                "run diverged: use an earlier checkpoint."
            )
        found[name] = (mean, variance.clamp_min(0.0))
    return found


def _positions(
    model: MoViNet, stored: dict[str, tuple[Tensor, Tensor]], clips: Tensor
) -> list[_Position]:
    predicted = [
        {gating: projection_inputs(model, gating, clips, batch) for gating in GATINGS}
        for batch in batch_sizes(model.variant, clips)
    ]
    return [
        _position(statistics, [[of[gating][name] for gating in GATINGS] for of in predicted])
        for name, statistics in stored.items()
    ]


def _position(stored: tuple[Tensor, Tensor], predicted: list[list[InputStatistics]]) -> _Position:
    """The position of stored statistics (C,) between the predictions of the two gatings.

    ``predicted`` are the two predictions for several batch sizes, the largest first.
    """
    large, *smaller = predicted
    keras, model_garden = large
    scale = (
        (keras.variance + BATCH_NORM_EPSILON) * (model_garden.variance + BATCH_NORM_EPSILON)
    ).sqrt()
    centre = (keras.mean + model_garden.mean) / 2

    def vector(mean: Tensor, variance: Tensor) -> Tensor:
        """(2C,) statistics relative to the midpoint of the two predictions."""
        offset = (mean - centre) / scale.sqrt()
        return torch.cat((offset, ((variance + BATCH_NORM_EPSILON) / scale).log()))

    def midpoint(pair: list[InputStatistics]) -> Tensor:
        return torch.stack([vector(of.mean, of.variance) for of in pair]).mean(0)

    clips = [torch.cat((of.means / scale.sqrt(), of.variances / scale), dim=1) for of in large]
    batches = torch.stack([midpoint(small) - midpoint(large) for small in smaller]) * BATCH_STD
    span = vector(model_garden.mean, model_garden.variance) - vector(keras.mean, keras.variance)
    sampling = _sampling(torch.stack(clips).mean(0))
    return _least_squares(vector(*stored), span, sampling + batches.T @ batches)


def _sampling(clips: Tensor) -> Tensor:
    """(2C, 2C) covariance of the mean over all clips, from the statistics of each (N, 2C)."""
    spread = (clips - clips.mean(0)) / clips.shape[0]
    return spread.T @ spread


def _least_squares(stored: Tensor, span: Tensor, known: Tensor) -> _Position:
    """The position p that maximizes the likelihood of ``stored - (p - 1/2) span``.

    Its covariance is ``known``, from sampling of clips and batches, plus independent noise, whose
    variance (one for the means, one for the variances) is estimated by expectation maximization.
    """
    channels = len(stored) // 2
    noise = stored.reshape(2, channels).square().mean(1).clamp_min(MIN_NOISE)
    for _ in range(ITERATIONS):
        diagonal = noise.repeat_interleave(channels)
        factor = torch.linalg.cholesky(known + diagonal.diag())
        inverse = torch.cholesky_inverse(factor)
        precision = float(span @ inverse @ span)
        # If the gating has no effect, the position is the midpoint and has hardly any weight.
        precision = max(precision, MIN_PRECISION)
        offset = float(span @ inverse @ stored) / precision
        residual = stored - offset * span
        expected = diagonal * (inverse @ residual)
        remaining = diagonal - diagonal.square() * inverse.diagonal()
        noise = (expected.square() + remaining).reshape(2, channels).mean(1)
        noise = noise.clamp_min(MIN_NOISE)
    return _Position(offset + 0.5, 1 / precision)
