"""Which gating fits the moving statistics: for every block, a position between the two.

For a block with C channels, the two gatings predict two vectors of 2C statistics behind the gate:
the means, in standard deviations, and the logarithms of the variances. The stored statistics are
projected onto the line between them by generalised least squares: position 0 fits the Keras gate,
1 the Model Garden's; statistics unrelated to the clips are far from both. Every block gives
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
# The unknown batch size of training may change statistics by this many times what smaller ones do.
BATCH_STD = 2.0
MIN_RATIO = 2.0
MAX_MISFIT = 0.6  # of the detected gating; where the blocks scatter around it, a ratio of 2
BLOCK_STD = 0.25  # of the positions of blocks without sampling error, in trained networks
ITERATIONS = 10  # of expectation maximisation; the positions converge within five
MIN_NOISE = 1e-9
MIN_PRECISION = 1e-12


@dataclass(frozen=True)
class GatingEvidence:
    """How far the stored statistics are from what each gating predicts.

    ``keras`` and ``model_garden`` are root mean squares over the blocks, in units of the distance
    between the two predictions. ``ratio`` is the larger over the smaller: how many times worse the
    other gating fits. ``told`` is the detected gating, None where the evidence is too weak.
    ``positions`` are those of the blocks, from 0 (Keras) to 1 (Model Garden).
    """

    keras: float
    model_garden: float
    ratio: float
    told: Gating | None
    positions: tuple[float, ...]
    clips: int

    @property
    def layers(self) -> int:
        """The number of normalisations compared: one behind the gate of each block."""
        return len(self.positions)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "layers": self.layers}

    def summary(self) -> str:
        """The verdict in one line, with its figures."""
        nearer, farther = "keras", "model-garden"
        if self.model_garden < self.keras:
            nearer, farther = farther, nearer
        verdict = self.told or "cannot tell"
        needed = "" if self.told else f" where {MIN_RATIO:g} would tell"
        if not self.told and self.ratio >= MIN_RATIO:
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
    """Compare the moving statistics of a stream network with those of clips, for each gating.

    ``clips`` (N, 3, T, H, W), uint8 or floats in [0, 1], should be like those of training: some
    dozens, of all classes, in random order. The gating of ``model`` itself does not matter.

    Raises UsageError for a base model, CheckpointError for statistics that are not finite.
    """
    if model.settings.gating == "sigmoid":
        raise UsageError(
            f"This {model.variant.name} gates with a sigmoid; only the gating of stream models "
            "with (2+1)D convolutions is in question."
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
    sure = ratio >= MIN_RATIO and smaller <= MAX_MISFIT
    positions = tuple(block.value for block in blocks)
    return GatingEvidence(keras, model_garden, ratio, nearer if sure else None, positions, clips)


def _stored_statistics(model: MoViNet) -> dict[str, tuple[Tensor, Tensor]]:
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
    predicted = [
        {gating: projection_inputs(model, gating, clips, batch) for gating in GATINGS}
        for batch in batch_sizes(model.variant, clips)
    ]
    return [
        _position(statistics, [[of[gating][name] for gating in GATINGS] for of in predicted])
        for name, statistics in stored.items()
    ]


def _position(stored: tuple[Tensor, Tensor], predicted: list[list[InputStatistics]]) -> _Position:
    """The position of stored statistics (C,) between those predicted by the two gatings.

    ``predicted`` are those of the two gatings for several batch sizes, the largest first.
    """
    large, *smaller = predicted
    keras, garden = large
    scale = ((keras.variance + BATCH_NORM_EPSILON) * (garden.variance + BATCH_NORM_EPSILON)).sqrt()
    centre = (keras.mean + garden.mean) / 2

    def vector(mean: Tensor, variance: Tensor) -> Tensor:
        """(2C,) statistics relative to those midway between the gatings."""
        offset = (mean - centre) / scale.sqrt()
        return torch.cat((offset, ((variance + BATCH_NORM_EPSILON) / scale).log()))

    def midway(pair: list[InputStatistics]) -> Tensor:
        return torch.stack([vector(of.mean, of.variance) for of in pair]).mean(0)

    clips = [torch.cat((of.means / scale.sqrt(), of.deviations / scale), dim=1) for of in large]
    batches = torch.stack([midway(small) - midway(large) for small in smaller]) * BATCH_STD
    span = vector(garden.mean, garden.variance) - vector(keras.mean, keras.variance)
    sampling = _sampling(torch.stack(clips).mean(0))
    return _least_squares(vector(*stored), span, sampling + batches.T @ batches)


def _sampling(clips: Tensor) -> Tensor:
    """(2C, 2C) covariance of a mean over all clips, from those of the clips (N, 2C)."""
    spread = (clips - clips.mean(0)) / clips.shape[0]
    return spread.T @ spread


def _least_squares(stored: Tensor, span: Tensor, known: Tensor) -> _Position:
    """The position p that maximises the likelihood of ``stored - (p - 1/2) span``.

    Its covariance is ``known``, that of sampled clips and batches, plus independent noise: one
    variance for the means and one for the variances, by expectation maximisation.
    """
    channels = len(stored) // 2
    noise = stored.reshape(2, channels).square().mean(1).clamp_min(MIN_NOISE)
    for _ in range(ITERATIONS):
        diagonal = noise.repeat_interleave(channels)
        factor = torch.linalg.cholesky(known + diagonal.diag())
        inverse = torch.cholesky_inverse(factor)
        precision = float(span @ inverse @ span)
        # Where the gating has no effect, the position is midway and has hardly any weight.
        precision = max(precision, MIN_PRECISION)
        offset = float(span @ inverse @ stored) / precision
        residual = stored - offset * span
        expected = diagonal * (inverse @ residual)
        remaining = diagonal - diagonal.square() * inverse.diagonal()
        noise = (expected.square() + remaining).reshape(2, channels).mean(1)
        noise = noise.clamp_min(MIN_NOISE)
    return _Position(offset + 0.5, 1 / precision)
