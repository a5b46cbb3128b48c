"""How thoroughly to compare with the official model."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TOLERANCE = 1e-4  # of the reference logits' standard deviation


@dataclass(frozen=True)
class ParityOptions:
    """``clips`` random clips a case, drawn from ``seed``.

    ``frames`` and ``size`` (height, width) replace what the cases choose; ``tolerance`` is the
    largest distance that passes, in deviations of the reference logits.
    """

    seed: int = 0
    clips: int = 1
    frames: int | None = None
    size: tuple[int, int] | None = None
    tolerance: float = DEFAULT_TOLERANCE
