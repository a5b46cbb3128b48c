"""The result of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from movinet_convert.errors import ParityError
from movinet_convert.parity.cases import Case
from movinet_convert.variants import Settings
from movinet_convert.weights.entries import Coverage, ParityFigures

LOGITS = "logits"


@dataclass(frozen=True)
class Distances:
    """Largest absolute differences, relative to the standard deviation of the reference tensor.

    ``tf_fp32`` is the official model, ``pt_fp32`` and ``pt_fp64`` this package's network in float32
    and float64. ``parity.scales`` defines the standard deviation.
    """

    tf_fp32_pt_fp32: float
    tf_fp32_pt_fp64: float
    pt_fp32_pt_fp64: float

    @staticmethod
    def largest(distances: Sequence[Distances]) -> Distances:
        """The largest of each kind; NaN is larger than any number."""

        def key(value: float) -> float:
            return math.inf if math.isnan(value) else value

        columns = zip(*(asdict(d).values() for d in distances), strict=True)
        return Distances(*(max(values, key=key) for values in columns))


@dataclass(frozen=True)
class CaseResult(Case):
    """A case and the distances of every tensor in it.

    ``spread`` is the robust standard deviation of the reference logits. ``tensors`` has "logits",
    then the state tensors by their names in ``StreamState.tensors``. ``problems`` has the reasons
    why tensors could not be compared (not finite, of another shape).
    """

    spread: float
    tensors: dict[str, Distances]
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def logits(self) -> Distances:
        return self.tensors[LOGITS]

    @property
    def states(self) -> Distances | None:
        """The largest distances over the state tensors; None for a base variant."""
        states = [d for name, d in self.tensors.items() if name != LOGITS]
        return Distances.largest(states) if states else None

    def of_logits(self) -> CaseResult:
        """This result without the state tensors."""
        problems = {name: problem for name, problem in self.problems.items() if name == LOGITS}
        return replace(self, tensors={LOGITS: self.logits}, problems=problems)

    def beyond(self, tolerance: float) -> list[str]:
        """Names of the tensors that differ by more than ``tolerance``."""
        # Written so that NaN exceeds any tolerance.
        return [
            name
            for name, distances in self.tensors.items()
            if name in self.problems or not distances.tf_fp32_pt_fp32 <= tolerance
        ]


@dataclass(frozen=True)
class ParityResult:
    """All cases of one comparison; ``first_difference`` is the first layer that differs, if any."""

    variant: str
    settings: Settings
    num_classes: int
    seed: int
    clips: int
    tolerance: float
    cases: tuple[CaseResult, ...]
    first_difference: str | None = None
    coverage: Coverage = "partial"

    @property
    def passed(self) -> bool:
        return not any(case.beyond(self.tolerance) for case in self.cases)

    @property
    def worst(self) -> Distances:
        """The largest distances over all cases and tensors."""
        return Distances.largest([d for case in self.cases for d in case.tensors.values()])

    @property
    def nearer_than_reference(self) -> bool:
        """Whether PyTorch float32 is at least as near to float64 as TF float32, at worst."""
        return self.worst.pt_fp32_pt_fp64 <= self.worst.tf_fp32_pt_fp64

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        figures = (
            f"largest difference {self.worst.tf_fp32_pt_fp32:.2g}, tolerance {self.tolerance:g}"
        )
        if not self.passed:
            return f"FAILED: {figures}; activations first differ at {self.first_difference}."
        nearer = "at least as near" if self.nearer_than_reference else "not as near"
        return f"Passed: {figures}; PyTorch float32 is {nearer} to float64 as TF float32."

    def figures(self) -> ParityFigures:
        """The figures that a manifest records."""
        first = self.cases[0]
        return ParityFigures(
            tolerance=self.tolerance,
            **asdict(self.worst),
            coverage=self.coverage,
            cases=tuple(case.name for case in self.cases),
            frames=first.frames,
            size=first.size,
            clips=self.clips,
            seed=self.seed,
        )

    def to_json(self) -> dict[str, Any]:
        """The result, derived values included, in JSON types."""
        return {
            **asdict(self),
            "passed": self.passed,
            "nearer_than_reference": self.nearer_than_reference,
            "worst": asdict(self.worst),
        }

    def raise_for_failure(self) -> None:
        """Raise ParityError for the first tensor beyond the tolerance."""
        for case in self.cases:
            for name in case.beyond(self.tolerance):
                raise ParityError(self._failure(case, name), self)

    def _failure(self, case: CaseResult, name: str) -> str:
        if name in case.problems:
            return (
                f"{self.variant} cannot be compared with the official model: in the case "
                f"'{case.name}' the values of {name} {case.problems[name]}. The first layer "
                f"concerned is {self.first_difference}."
            )
        return (
            f"{self.variant} does not compute what the official model computes: in the case "
            f"'{case.name}' {name} differs by {case.tensors[name].tf_fp32_pt_fp32:.2g} standard "
            f"deviations, the tolerance is {self.tolerance:g}; activations first differ at "
            f"{self.first_difference}. If the checkpoint is a stream model, check its gating."
        )
