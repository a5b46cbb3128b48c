"""Wrong networks, each the correct one with one realistic mistake, for ``scripts/mutants.py``."""

from __future__ import annotations

from scripts.mutations.encodings import ENCODING_MISTAKES
from scripts.mutations.layers import LAYER_MISTAKES
from scripts.mutations.mistake import BASE, STREAM, Mistake
from scripts.mutations.streams import STREAM_MISTAKES
from scripts.mutations.weights import WEIGHT_MISTAKES

MISTAKES: tuple[Mistake, ...] = (
    *WEIGHT_MISTAKES,
    *LAYER_MISTAKES,
    *STREAM_MISTAKES,
    *ENCODING_MISTAKES,
)

__all__ = ["BASE", "MISTAKES", "STREAM", "Mistake"]
