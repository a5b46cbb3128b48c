"""Check that parity rejects wrong networks: build them, compare them, and document the results.

    python scripts/mutants.py                     # all, and write docs/mutants.md
    python scripts/mutants.py a3-stream --match encoding --no-write

Each mutant is the correct network with one realistic mistake, compared with the official TensorFlow
model in the default cases at the default tolerance. The correct network must pass and every mutant
must be rejected; the exit code is 1 otherwise. A mutant that passes means that a case is missing.
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import Case, parity_cases
from movinet_convert.parity.comparison import compare_cases
from movinet_convert.parity.models import Models
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.reference import Reference
from scripts.mutations import MISTAKES, Mistake
from tests.helpers.parity_tools import synthetic_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from movinet_convert.model import MoViNet

CLASSES = 20
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "mutants.md"
OPTIONS = ParityOptions()


@dataclass(frozen=True)
class Verdict:
    """The case and tensor that rejected a mutant, and the difference; None if it passed."""

    mistake: str
    variant: str
    case: str | None
    tensor: str | None
    difference: float


class CachedReference(Reference):
    """Runs every clip once: all mutants of a variant are compared on the same clips."""

    def __init__(self, name: str) -> None:
        super().__init__(get_variant(name), num_classes=CLASSES)
        self._outputs: dict[Any, Any] = {}

    def logits(self, clip: Any) -> Any:
        key = (clip.shape, clip.tobytes())
        if key not in self._outputs:
            self._outputs[key] = super().logits(clip)
        return self._outputs[key]

    def stream(self, frames: Any, state: Any = None) -> Any:
        key = (frames.shape, frames.tobytes(), id(state))
        if key not in self._outputs:
            self._outputs[key] = super().stream(frames, state)
        return self._outputs[key]


@dataclass(frozen=True)
class Bench:
    """The correct network of a variant, and the official one with the same weights."""

    name: str
    model: MoViNet
    reference: Reference

    @staticmethod
    def of(name: str) -> Bench:
        gating = get_variant(name).settings().gating
        model, variables = synthetic_model(name, num_classes=CLASSES, gating=gating)
        reference = CachedReference(name)
        reference.load(variables)
        return Bench(name, model, reference)

    def cases(self) -> tuple[Case, ...]:
        return parity_cases(self.model.variant, self.model.settings, OPTIONS)

    def compare(self, mistake: Mistake, cases: Sequence[Case] | None = None) -> Verdict:
        """Make the mistake in a copy, and compare up to the first case that rejects it."""
        torch.manual_seed(0)  # for mistakes that leave something random on
        mutant = copy.deepcopy(self.model)
        with torch.no_grad():
            mistake.make(mutant)
        trio = Models.of(mutant, self.reference)
        tolerance = OPTIONS.tolerance_for("float32")
        largest = 0.0
        for result in compare_cases(trio, cases or self.cases(), OPTIONS):
            beyond = result.beyond(tolerance)
            if beyond:
                difference = result.tensors[beyond[0]].tf_fp32_pt_fp32
                return Verdict(mistake.name, self.name, result.name, beyond[0], difference)
            largest = max([largest, *(d.tf_fp32_pt_fp32 for d in result.tensors.values())])
        return Verdict(mistake.name, self.name, None, None, largest)


RIGHT = Mistake("none", (), lambda model: None)


def compare_all(
    mistakes: Iterable[Mistake], names: Sequence[str] = ()
) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts on the correct networks and on their mutants, variant by variant."""
    mistakes = list(mistakes)
    rights, verdicts = [], []
    for name in dict.fromkeys(name for mistake in mistakes for name in mistake.variants):
        if names and name not in names:
            continue
        bench = Bench.of(name)
        rights.append(bench.compare(RIGHT))
        click.echo(_line(rights[-1]))
        for mistake in mistakes:
            if name in mistake.variants:
                verdicts.append(bench.compare(mistake))
                click.echo(_line(verdicts[-1]))
    return rights, verdicts


def _line(verdict: Verdict) -> str:
    caught = f"{verdict.case}, {verdict.tensor}" if verdict.case else "PASSED"
    return f"{verdict.variant:10s} {verdict.mistake:55s} {verdict.difference:8.1e}  {caught}"


def document(rights: Sequence[Verdict], verdicts: Sequence[Verdict], minutes: float) -> str:
    """docs/mutants.md."""
    lines = [
        "# Wrong networks that the parity check rejects",
        "",
        f"`scripts/mutants.py` built {len(verdicts)} wrong "
        f"networks from {len(rights)} correct ones, each with one of "
        f"{len({v.mistake for v in verdicts})} realistic mistakes, and compared "
        "them with the official TensorFlow model in the default cases at the default tolerance of "
        f"{OPTIONS.tolerance_for('float32'):g}. "
        f"{sum(v.case is not None for v in verdicts)} were rejected; the correct networks passed. "
        f"It took {minutes:.0f} minutes of CPU time.",
        "",
        "A row shows the first case and tensor that rejected a mutant, and that tensor's largest "
        "difference relative to the standard deviation. Usually several do.",
        "",
        "| variant | largest difference of the correct network |",
        "|---|---|",
        *(f"| {v.variant} | {v.difference:.1e} |" for v in rights),
        "",
        "| mistake | variant | case | tensor | difference |",
        "|---|---|---|---|---|",
    ]
    order = {name: i for i, name in enumerate(dict.fromkeys(m.name for m in MISTAKES))}
    for v in sorted(verdicts, key=lambda v: order[v.mistake]):
        caught = f"{v.case} | {v.tensor}" if v.case else "**passed** | "
        lines.append(f"| {v.mistake} | {v.variant} | {caught} | {v.difference:.1e} |")
    return "\n".join(lines) + "\n"


@click.command(help="Show that the parity check rejects wrong networks.")
@click.argument("names", nargs=-1, metavar="[VARIANT...]")
@click.option("--match", default="", help="Only mistakes whose name contains this.")
@click.option("--write/--no-write", default=True, help="Write docs/mutants.md if all were made.")
def main(names: tuple[str, ...], match: str, write: bool) -> None:
    start = time.process_time()
    rights, verdicts = compare_all((m for m in MISTAKES if match in m.name), names)
    survivors = [v for v in verdicts if v.case is None]
    minutes = (time.process_time() - start) / 60
    click.echo(f"{len(verdicts)} mutants, {len(survivors)} passed, {minutes:.1f} minutes of CPU")
    if write and not names and not match:
        DOCUMENT.write_text(document(rights, verdicts, minutes), "utf-8")
    if survivors or any(right.case is not None for right in rights):
        sys.exit(1)


if __name__ == "__main__":
    main()
