"""The report's section on one converted file, which can be stored as JSON."""

from __future__ import annotations

import contextlib
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import pydantic

from movinet_convert.files.reading import file_sha256
from movinet_convert.files.version import __version__
from movinet_convert.model import MoViNet
from movinet_convert.parity.comparison import Stage, silent, verify_model
from movinet_convert.parity.layers import layer_distances
from movinet_convert.parity.models import Models, run
from movinet_convert.parity.options import DEFAULT_PARITY, ParityOptions
from movinet_convert.parity.reference import Reference, shared_reference
from movinet_convert.parity.result import LOGITS, Distances, ParityResult
from movinet_convert.variants import Accuracy, Input, Origins
from movinet_convert.weights.entries import ConvertedFrom
from movinet_convert.weights.load import load_file, locate
from movinet_convert.weights.tf_variables import tf_variables

LIBRARIES = ("torch", "numpy", "tensorflow", "tf-models-official")


class Section(pydantic.BaseModel):
    """One converted file: its comparison, also layer by layer, and its source.

    ``layers`` and the logits (classes,) are of the first clip. ``accuracy`` is the published one of
    a release, None for any other network.
    """

    # A distance may be infinite or NaN, which JSON writes as words.
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    parity: ParityResult
    layers: dict[str, Distances]
    tf_fp32_logits: tuple[float, ...]
    pt_fp32_logits: tuple[float, ...]
    origins: Origins | None
    input: Input
    accuracy: Accuracy | None
    file: str
    bytes: int
    sha256: str
    dtype: str
    source: ConvertedFrom | None
    versions: dict[str, str]
    created: datetime


def examine(
    name: str | os.PathLike[str],
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    parity: ParityOptions = DEFAULT_PARITY,
    stage: Stage = silent,
) -> Section:
    """Compare a converted variant or file with the official model; raises as ``verify`` does."""
    located = locate(name, weights_dir=weights_dir)
    model = load_file(located)
    stage("building the official model")
    reference = shared_reference(model.variant, model.settings, model.num_classes)
    variables = tf_variables(model)
    result = verify_model(
        model, variables, parity, dtype="float32", reference=reference, stage=stage
    )
    stage("comparing layer by layer")
    return section_of(located.path, model, result, reference)


def section_of(path: Path, model: MoViNet, result: ParityResult, reference: Reference) -> Section:
    """The section on the file at ``path``; ``reference`` has the weights that were compared."""
    entry = locate(path).entry
    clip = result.cases[0].clip(result.seed)
    models = Models.of(model, reference)
    tf_fp32_logits, pt_fp32_logits = (
        tuple(run(m, clip, clip.shape[2:3])[LOGITS].reshape(-1).tolist())
        for m in (models.tf_fp32, models.pt_fp32)
    )
    return Section(
        parity=result,
        layers=layer_distances(models, clip),
        tf_fp32_logits=tf_fp32_logits,
        pt_fp32_logits=pt_fp32_logits,
        origins=model.origins,
        input=model.variant.input,
        accuracy=entry.published_accuracy(model.variant) if entry else None,
        file=path.name,
        bytes=path.stat().st_size,
        sha256=entry.sha256 if entry else file_sha256(path),
        dtype=str(model.dtype).removeprefix("torch."),
        source=entry.source if entry else None,
        versions=_versions(),
        created=datetime.now(timezone.utc).replace(microsecond=0),
    )


def _versions() -> dict[str, str]:
    versions = {
        "movinet-convert": __version__,
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions
