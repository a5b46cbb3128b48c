"""The manifest: which weights exist, where they came from, how well they agree.

One schema serves two files. The catalogue at the repository's root lists the twelve releases; the
manifest of a store lists the same and, under ``versions``, every file that was converted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from movinet_convert.errors import WeightsError
from movinet_convert.files.atomic import open_regular
from movinet_convert.model.settings import check_settings
from movinet_convert.variants import (
    RELEASES,
    VARIANTS,
    Accuracy,
    Input,
    Origins,
    Settings,
    Variant,
    list_variants,
)
from movinet_convert.weights import strict_yaml
from movinet_convert.weights.file import MAX_CLASSES, Dtype, SourceKind, first_fault

MANIFEST_NAME = "weights_manifest.yaml"
SCHEMA_VERSION: Literal[2] = 2
READABLE_SCHEMAS = (1, SCHEMA_VERSION)  # 1 lacks what is optional here, and is upgraded when read
# No separators, drives, streams or control characters of any system; not hidden, not an option.
BARE_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ReleaseSource(_Entry):
    """Where Google published a checkpoint; digest and size where anyone has recorded them."""

    url: str
    sha256: Sha256 | None = None
    bytes: int | None = pydantic.Field(default=None, gt=0)


class ConvertedFrom(_Entry):
    """What a converted file was made from.

    ``digest`` is of the variables, whatever layout they lay in; ``archive_sha256`` of the archive,
    where they came in one. ``kind`` tells a release from random weights and from a checkpoint that
    somebody named; None in manifests that were written before it was recorded.
    """

    name: str
    layout: str
    digest: Sha256
    archive_sha256: Sha256 | None = None
    kind: SourceKind | None = None


# The names of the distances in manifests that were written before the present ones.
EARLIER_DISTANCES = {
    "tf32_ours32": "tf_fp32_pt_fp32",
    "tf32_ours64": "tf_fp32_pt_fp64",
    "ours32_ours64": "pt_fp32_pt_fp64",
}
Coverage = Literal["full", "partial"]


class ParityFigures(_Entry):
    """The largest distances over all cases and tensors, and how they were measured.

    Each is relative to the spread of the reference tensor. ``frames`` and ``size`` (height, width)
    are those of the ordinary cases, ``cases`` the names of all, ``clips`` and ``seed`` the random
    clips of each; None where an earlier version did not record them. ``coverage`` is "full" only
    of a comparison that ran all the default cases.
    """

    tolerance: float
    tf_fp32_pt_fp32: float
    tf_fp32_pt_fp64: float
    pt_fp32_pt_fp64: float
    coverage: Coverage = "partial"
    cases: tuple[str, ...] | None = None
    frames: int | None = pydantic.Field(default=None, gt=0)
    size: tuple[int, int] | None = None
    clips: int | None = pydantic.Field(default=None, gt=0)
    seed: int | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_present_names(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.keys() & EARLIER_DISTANCES.keys():
            return data
        return {EARLIER_DISTANCES.get(name, name): value for name, value in data.items()}


class ConvertedVersion(_Entry):
    """One converted file of a store.

    ``parity`` compares the stored file with the official model that holds the checkpoint's
    variables. Where the file keeps them in less than float32, ``parity_as_stored`` compares it
    with the official model that holds the rounded values: it tells a wrong network from rounding.
    ``origins`` says where each setting was taken from that no checkpoint tells.
    """

    version: int = pydantic.Field(gt=0)
    file: str
    bytes: int = pydantic.Field(gt=0)
    sha256: Sha256
    dtype: Dtype
    num_classes: int = pydantic.Field(gt=0, le=MAX_CLASSES)
    settings: Settings
    origins: Origins | None = None
    source: ConvertedFrom
    converter: str
    parity: ParityFigures | None = None
    parity_as_stored: ParityFigures | None = None

    @pydantic.field_validator("file")
    @classmethod
    def _stays_in_the_store(cls, file: str) -> str:
        if not BARE_FILE_NAME.fullmatch(file):
            raise ValueError(
                "must be a bare file name of letters, digits, '.', '_' and '-': files lie beside "
                "the manifest"
            )
        return file


class VariantEntry(_Entry):
    """A variant: its release, what it computes, what it reads, how well it was published to do.

    ``current`` is the version that the variant's name stands for: the one that was converted
    last. None stands for the newest.
    """

    source: ReleaseSource | None
    settings: Settings
    input: Input
    accuracy: Accuracy
    versions: tuple[ConvertedVersion, ...] = ()
    current: int | None = None

    @pydantic.field_validator("versions")
    @classmethod
    def _each_version_once(
        cls, versions: tuple[ConvertedVersion, ...]
    ) -> tuple[ConvertedVersion, ...]:
        numbers = [version.version for version in versions]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"versions must rise without repetition, got {numbers}")
        return versions

    @pydantic.model_validator(mode="after")
    def _current_is_a_version(self) -> VariantEntry:
        if self.current not in (None, *(version.version for version in self.versions)):
            raise ValueError(f"current is {self.current}, which is none of the versions")
        return self

    @property
    def current_version(self) -> ConvertedVersion | None:
        """What the variant's name stands for; None where nothing was converted."""
        if not self.versions:
            return None
        chosen = [version for version in self.versions if version.version == self.current]
        return chosen[0] if chosen else self.versions[-1]


class Manifest(_Entry):
    schema_version: Literal[2] = SCHEMA_VERSION
    variants: dict[str, VariantEntry]

    @pydantic.field_validator("variants")
    @classmethod
    def _known_names(cls, variants: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        for name in variants:
            if name not in VARIANTS:
                raise ValueError(f"{name!r} is not a MoViNet variant")
        for name, entry in variants.items():
            for version in entry.versions:
                check_settings(VARIANTS[name], version.settings)
        return variants

    def versions(self, name: str) -> tuple[ConvertedVersion, ...]:
        return self.variants[name].versions if name in self.variants else ()

    def with_version(self, name: str, version: ConvertedVersion) -> Manifest:
        """The manifest with one version added, or replaced if its number is there, as current."""
        entry = self.variants.get(name) or describe(VARIANTS[name])
        others = [v for v in entry.versions if v.version != version.version]
        ordered = tuple(sorted([*others, version], key=lambda v: v.version))
        newest = version.version == ordered[-1].version
        current = None if newest else version.version
        changed = entry.model_copy(update={"versions": ordered, "current": current})
        return self.model_copy(update={"variants": {**self.variants, name: changed}})


def describe(variant: Variant) -> VariantEntry:
    """The entry of a variant without converted files."""
    source = None
    if variant.source_url is not None:
        release = RELEASES.get(variant.name)
        source = ReleaseSource(
            url=variant.source_url,
            sha256=release.sha256 if release else None,
            bytes=release.bytes if release else None,
        )
    return VariantEntry(
        source=source,
        settings=variant.settings(),
        input=variant.input,
        accuracy=variant.accuracy,
    )


def catalogue() -> Manifest:
    """The twelve releases, nothing converted."""
    return Manifest(variants={name: describe(VARIANTS[name]) for name in list_variants()})


def dump(manifest: Manifest) -> str:
    """The manifest as YAML, the same text for the same content."""
    data = manifest.model_dump(mode="json")
    for entry in data["variants"].values():
        if not entry["versions"]:
            del entry["versions"]
        if entry["current"] is None:
            del entry["current"]
    return strict_yaml.dump(data)


def parse(text: str, where: str) -> Manifest:
    """Read a manifest; WeightsError names the file, the line and the key of the first fault."""
    try:
        data, node = strict_yaml.load(text)
    except strict_yaml.StrictYamlError as error:
        raise WeightsError(
            f"{where}, line {error.line} is not YAML that can be used ({error.problem}); "
            "restore the file or delete it."
        ) from None
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found not in READABLE_SCHEMAS or isinstance(found, bool):
        raise WeightsError(
            f"{where} has schema_version {repr(found)[:40]} where this version reads "
            f"{SCHEMA_VERSION} and older; use the movinet-convert that wrote it, or another folder."
        )
    try:
        return Manifest.model_validate({**data, "schema_version": SCHEMA_VERSION})
    except pydantic.ValidationError as error:
        path = error.errors(include_url=False)[0]["loc"]
        raise WeightsError(
            f"{where}, line {strict_yaml.line_of(node, path)}: {first_fault(error)}; "
            "restore the file or convert into another folder."
        ) from None


def read(path: Path) -> Manifest:
    """The manifest in a file."""
    try:
        with open_regular(path, WeightsError) as file:
            content = file.read(strict_yaml.MAX_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"{path} is not a text file; restore it or delete it.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from None
    return parse(text, str(path))
