"""What a report says of one converted file, as a value that can be kept as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pydantic
from numpy.typing import NDArray

from movinet_convert.files.atomic import file_sha256
from movinet_convert.files.version import __version__
from movinet_convert.model import MoViNet
from movinet_convert.parity import ParityOptions, ParityReport
from movinet_convert.parity.profile import Profile
from movinet_convert.parity.result import Distances
from movinet_convert.variants import ACCURACIES, Accuracy, Input, Origins, Settings
from movinet_convert.weights.load import load_file, locate
from movinet_convert.weights.manifest import ConvertedFrom, ConvertedVersion, Coverage
from movinet_convert.weights.store import find_listed
from movinet_convert.weights.tf_variables import tf_variables

LIBRARIES = ("torch", "numpy", "tensorflow", "tf-models-official")
DEFAULT_PARITY = ParityOptions()


class _Value(pydantic.BaseModel):
    # A distance may be infinite or not a number, which JSON writes as words.
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class CaseRow(_Value):
    """One case: its name, its clip in words, the distances of logits and furthest state."""

    name: str
    batch: int
    size: tuple[int, int]
    chunks: tuple[int, ...]
    logits: Distances
    states: Distances | None


class Entry(_Value):
    """One file: the verdict, the figures behind it, and what it was made from with what."""

    variant: str
    passed: bool
    nearer_than_reference: bool
    tolerance: float
    worst: Distances
    first_difference: str | None
    seed: int
    clips: int
    coverage: Coverage = "partial"
    cases: tuple[CaseRow, ...]
    layers: dict[str, Distances]
    tf_fp32_logits: tuple[float, ...]
    pt_fp32_logits: tuple[float, ...]
    settings: Settings
    origins: Origins | None = None
    input: Input
    accuracy: Accuracy
    num_classes: int
    file: str
    bytes: int
    sha256: str
    dtype: str
    source: ConvertedFrom | None
    versions: dict[str, str]
    made: datetime


def examine(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    parity: ParityOptions = DEFAULT_PARITY,
) -> Entry:
    """Compare a converted variant or file with the official model, layer by layer too.

    Raises as ``verify`` does.
    """
    located = locate(name, weights_dir=weights_dir)
    model = load_file(located)
    return entry_of(located.path, model, *compare(model, tf_variables(model), parity))


def compare(
    model: MoViNet, variables: Mapping[str, NDArray[Any]], parity: ParityOptions
) -> tuple[ParityReport, Profile]:
    """The comparison and its profile, with one official model for both.

    ``model`` and ``variables`` hold the same values.
    """
    from movinet_convert.parity import verify_model
    from movinet_convert.parity.profile import profile_model
    from movinet_convert.parity.reference import official_model

    reference = official_model(model.variant, model.settings, model.num_classes)
    options = dataclasses.asdict(parity)
    report = verify_model(model, variables, dtype="float32", reference=reference, **options)
    return report, profile_model(model, reference, parity)


def entry_of(path: Path, model: MoViNet, report: ParityReport, profile: Profile) -> Entry:
    """What a report says of the file at ``path``, which holds the weights of ``model``."""
    found = find_listed(path)
    listed = found.entry if found is not None else None
    return Entry(
        variant=report.variant,
        passed=report.passed,
        nearer_than_reference=report.nearer_than_reference,
        tolerance=report.tolerance,
        worst=report.worst,
        first_difference=report.first_difference,
        seed=report.seed,
        clips=report.clips,
        coverage=report.coverage,
        cases=tuple(
            CaseRow(
                name=case.name,
                batch=case.batch,
                size=case.size,
                chunks=case.chunks,
                logits=case.logits,
                states=case.states,
            )
            for case in report.cases
        ),
        layers=profile.layers,
        tf_fp32_logits=tuple(profile.tf_fp32_logits.tolist()),
        pt_fp32_logits=tuple(profile.pt_fp32_logits.tolist()),
        settings=model.settings,
        origins=model.origins,
        input=model.variant.input,
        accuracy=ACCURACIES[model.variant.name],
        num_classes=model.num_classes,
        file=path.name,
        bytes=path.stat().st_size,
        sha256=listed.sha256 if listed else file_sha256(path),
        dtype=str(model.dtype).removeprefix("torch."),
        source=_source(listed),
        versions=versions(),
        made=datetime.now(timezone.utc).replace(microsecond=0),
    )


def _source(listed: ConvertedVersion | None) -> ConvertedFrom | None:
    return listed.source if listed else None


def versions() -> dict[str, str]:
    """What a comparison was made with."""
    found = {
        "movinet-convert": __version__,
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
