"""What an export reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExportReport:
    """A written export: where it is, and how far its logits are from the eager model's.

    ``deviation`` is the largest difference of a logit over ``frames_checked`` frames of
    ``clips_checked`` clips, ``mean_error`` the mean one, both relative to the standard deviation
    of the eager logits; ``correlation`` is Pearson's over all logits; ``agreement`` is the share
    of calls whose top class is the same.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    bytes: int
    dtype: str
    quantize: str | None
    frames_checked: int
    clips_checked: int
    deviation: float
    mean_error: float
    correlation: float
    agreement: float
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "path": str(self.path),
            "files": [str(file) for file in self.files],
        }
