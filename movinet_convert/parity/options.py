"""How to compare with the official model: the clips and the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from movinet_convert.errors import UsageError

# Largest difference that passes, relative to the standard deviation of the reference tensor.
#
# "float32" is for a network and the official model with the same weights, and is the proof: a file
# of rounded weights must also pass it against the official model with the values as stored. The
# others say how far rounding may move the logits, and prove little about the network, least in
# bfloat16. Largest difference of a logit in the default cases, for seeded weights of all twelve
# variants (two seeds of A0, A5 and A4-Stream), and for a trained A0-Stream (the PyTorch network in
# float32 with the weights before and after rounding):
#
#              seeded, median of the runs    seeded, largest    trained
#   float16    1.0e-2                        3.2e-2 (A4-Stream) 9.2e-3
#   bfloat16   6.3e-2                        3.9e-1 (A4-Stream) 2.3e-1
TOLERANCES = {"float32": 1e-4, "float16": 8e-2, "bfloat16": 8e-1}
# Above these a comparison proves nothing: the wrong gate changes the logits of seeded weights by
# 5e-2 or more, and logits that differ by one std may be those of another clip.
MAX_TOLERANCES = {"float32": 1e-2, "float16": 1e-1, "bfloat16": 1.0}

# Below these the cases coincide: fewer frames cannot be split unevenly, fewer pixels leave one in
# the last two stages.
MIN_FRAMES = 3
MIN_SIZE = 32


@dataclass(frozen=True)
class ParityOptions:
    """``clips`` random clips per case, drawn from ``seed``.

    ``frames`` and ``size`` (height, width) replace those of the ordinary cases, and skip the long
    case and that of the variant's own size: coverage is then partial. ``tolerance`` is the largest
    difference that passes, relative to the standard deviation of the reference tensor; None is that
    of ``TOLERANCES`` for the dtype.

    Raises UsageError for a value that would make the comparison meaningless.
    """

    seed: int = 0
    clips: int = 1
    frames: int | None = None
    size: tuple[int, int] | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"The seed of the clips must be 0 or more, not {self.seed}.")
        if self.clips < 1:
            raise UsageError(f"A comparison needs at least 1 clip per case, not {self.clips}.")
        if self.frames is not None and self.frames < MIN_FRAMES:
            raise UsageError(
                f"Clips of {self.frames} frames cannot be split unevenly, so that the state of a "
                f"stream would go untested; compare on at least {MIN_FRAMES} frames."
            )
        if self.size is not None and min(self.size) < MIN_SIZE:
            height, width = self.size
            raise UsageError(
                f"Clips of {height}x{width} pixels leave the last stages one pixel, which does not "
                f"test their kernels; compare on at least {MIN_SIZE}x{MIN_SIZE}."
            )
        if self.tolerance is not None:
            _check_tolerance(self.tolerance, max(MAX_TOLERANCES.values()))

    @property
    def coverage(self) -> Literal["full", "partial"]:
        """Full if all default cases run, with any number of clips."""
        return "full" if self.frames is None and self.size is None else "partial"

    def tolerance_for(self, dtype: str) -> float:
        """The tolerance for weights rounded to ``dtype``; UsageError if it would prove nothing."""
        if self.tolerance is None:
            return TOLERANCES[dtype]
        _check_tolerance(self.tolerance, MAX_TOLERANCES[dtype])
        return self.tolerance


DEFAULT_PARITY = ParityOptions()


def _check_tolerance(tolerance: float, largest: float) -> None:
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise UsageError(f"A tolerance must be a number above 0, not {tolerance}.")
    if tolerance > largest:
        raise UsageError(
            f"At a tolerance of {tolerance:g} wrong networks pass, such as one with the wrong "
            f"gate; the largest allowed is {largest:g}."
        )
