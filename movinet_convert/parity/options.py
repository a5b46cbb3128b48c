"""How thoroughly to compare with the official model."""

from __future__ import annotations

from dataclasses import dataclass

# The largest distance that passes, by the type that a file keeps its weights in. What a comparison
# of a rounded file with the unrounded reference shows is mostly its rounding.
TOLERANCES = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.2}


@dataclass(frozen=True)
class ParityOptions:
    """``clips`` random clips a case, drawn from ``seed``.

    ``frames`` and ``size`` (height, width) replace what the cases choose; ``tolerance`` is the
    largest distance that passes, that of ``TOLERANCES`` for the network's type if None.
    """

    seed: int = 0
    clips: int = 1
    frames: int | None = None
    size: tuple[int, int] | None = None
    tolerance: float | None = None
