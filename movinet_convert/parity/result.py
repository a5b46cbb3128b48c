"""What a comparison found, as values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from movinet_convert.errors import ParityError
from movinet_convert.variants import Settings
from movinet_convert.weights.manifest import Coverage, ParityFigures

LOGITS = "logits"


@dataclass(frozen=True)
class Distances:
    """Largest absolute differences, relative to the spread of the reference tensor.

    ``tf_fp32`` is the official model, ``pt_fp32`` and ``pt_fp64`` this package's network in float32
    and float64. See ``spread.py`` for the spread, which a few outliers do not move.
    """

    tf_fp32_pt_fp32: float
    tf_fp32_pt_fp64: float
    pt_fp32_pt_fp64: float

    @staticmethod
    def largest(distances: list[Distances]) -> Distances:
        """The largest of each kind; NaN, which is larger than any number, stays."""
        return Distances(
            *(
                max(values, key=lambda value: math.inf if math.isnan(value) else value)
                for values in zip(*(asdict(d).values() for d in distances), strict=True)
            )
        )


@dataclass(frozen=True)
class CaseResult:
    """One case: ``spread`` of the reference logits, and the distances of every tensor.

    ``problems`` says of tensors that could not be compared why: not finite, of another shape.
    """

    name: str
    batch: int
    size: tuple[int, int]
    chunks: tuple[int, ...]
    spread: float
    tensors: dict[str, Distances]  # "logits", then the state as StreamState.tensors names it
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
        """The same without the state tensors."""
        problems = {name: problem for name, problem in self.problems.items() if name == LOGITS}
        return replace(self, tensors={LOGITS: self.logits}, problems=problems)

    def beyond(self, tolerance: float) -> list[str]:
        """Names of the tensors that are further from the reference than allowed."""
        # Written so that NaN is beyond any tolerance.
        return [
            name
            for name, distances in self.tensors.items()
            if name in self.problems or not distances.tf_fp32_pt_fp32 <= tolerance
        ]


@dataclass(frozen=True)
class ParityReport:
    """Every case of one comparison; ``first_difference`` names the layer where it failed, if so."""

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
        """Whether our float32 is at least as near to our float64 as TF float32 is, at worst."""
        return self.worst.pt_fp32_pt_fp64 <= self.worst.tf_fp32_pt_fp64

    def figures(self) -> ParityFigures:
        """What the manifest keeps of it."""
        first = self.cases[0]
        return ParityFigures(
            tolerance=self.tolerance,
            **asdict(self.worst),
            coverage=self.coverage,
            cases=tuple(case.name for case in self.cases),
            frames=sum(first.chunks),
            size=first.size,
            clips=self.clips,
            seed=self.seed,
        )

    def raise_for_failure(self) -> None:
        """ParityError that names case, tensor, difference and layer, unless all is within."""
        for case in self.cases:
            for name in case.beyond(self.tolerance):
                if name in case.problems:
                    raise ParityError(self._problem(case, name), self)
                raise ParityError(self._difference(case, name), self)

    def _problem(self, case: CaseResult, name: str) -> str:
        return (
            f"{self.variant} cannot be compared with the official model: in the case "
            f"'{case.name}' the values of {name} {case.problems[name]}. The first layer concerned "
            f"is {self.first_difference}."
        )

    def _difference(self, case: CaseResult, name: str) -> str:
        return (
            f"{self.variant} does not compute what the official model computes: in the case "
            f"'{case.name}' {name} differs by {case.tensors[name].tf_fp32_pt_fp32:.2g} relative to "
            f"its spread, {self.tolerance:g} is allowed; activations first differ at "
            f"{self.first_difference}. If the checkpoint is a stream model, check its gating."
        )


def report_json(report: ParityReport) -> dict[str, Any]:
    """The whole report as JSON's types, verdicts included."""
    return {
        **asdict(report),
        "passed": report.passed,
        "nearer_than_reference": report.nearer_than_reference,
        "worst": asdict(report.worst),
    }
