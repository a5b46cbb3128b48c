"""The manifest: the available weights, their sources and their parity figures.

Two files share the schema. The catalogue in the root of the repository lists the twelve releases;
the manifest of a store also lists every converted file under ``versions``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AliasChoices, Field, PositiveInt

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.model.settings import check_settings
from movinet_convert.variants import (
    RELEASES,
    TENSOR_DIGESTS,
    VARIANTS,
    Accuracy,
    Input,
    Origins,
    Settings,
    SourceName,
    Variant,
    list_variants,
)
from movinet_convert.weights import strict_yaml
from movinet_convert.weights.header import ClassCount, Dtype, Sha256, SourceKind, first_error

MANIFEST_NAME = "weights_manifest.yaml"
SCHEMA_VERSION: Literal[2] = 2
READABLE_SCHEMAS = (1, SCHEMA_VERSION)  # 1 lacks optional fields and is upgraded when read

# A file name in the folder of the manifest: no separators, drives, streams or control characters of
# any platform; not hidden, and not like an option.
FileName = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
Coverage = Literal["full", "partial"]


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ReleaseSource(_Entry):
    """Where Google published a checkpoint, and its digest and size if known."""

    url: str
    sha256: Sha256 | None = None
    bytes: PositiveInt | None = None


class KaggleSource(ReleaseSource):
    """Where the same weights are on Kaggle, and the version that was published last."""

    version: PositiveInt


class ConvertedFrom(_Entry):
    """The source of a converted file.

    ``digest`` is of the variables, the same for every layout; ``archive_sha256`` of the archive, if
    any. ``kind`` is None in manifests of versions that did not record it. ``fetched_from`` is the
    source of a release, with its ``version`` on Kaggle; ``url`` is None for a folder. ``trust`` is
    the reason to believe that ``digest`` is that of a release: it is pinned, or these tensors were
    recorded at first use.
    """

    name: str
    layout: str
    digest: Sha256
    archive_sha256: Sha256 | None = None
    kind: SourceKind | None = None
    fetched_from: SourceName | None = None
    version: PositiveInt | None = None
    url: str | None = None
    trust: Literal["pinned", "first use"] | None = None


class ParityFigures(_Entry):
    """The largest differences over all cases and tensors, and how they were measured.

    Each is relative to the standard deviation of the reference tensor. ``frames`` and ``size``
    (height, width) are of the default cases, ``cases`` the names of all; ``clips`` is the number
    of random clips of each case and ``seed`` their seed; None if an earlier version did not record
    them. ``coverage`` is "full" only if all default cases were run.
    """

    tolerance: float
    # The aliases are the names in manifests of earlier versions.
    tf_fp32_pt_fp32: float = Field(validation_alias=AliasChoices("tf_fp32_pt_fp32", "tf32_ours32"))
    tf_fp32_pt_fp64: float = Field(validation_alias=AliasChoices("tf_fp32_pt_fp64", "tf32_ours64"))
    pt_fp32_pt_fp64: float = Field(
        validation_alias=AliasChoices("pt_fp32_pt_fp64", "ours32_ours64")
    )
    coverage: Coverage = "partial"
    cases: tuple[str, ...] | None = None
    frames: PositiveInt | None = None
    size: tuple[int, int] | None = None
    clips: PositiveInt | None = None
    seed: int | None = None


class ConvertedVersion(_Entry):
    """One converted file of a store.

    ``parity`` compares the stored file with the official model with the checkpoint's variables. For
    a file of reduced precision, ``parity_as_stored`` compares it with the official model with the
    rounded values, which separates errors of the network from rounding. ``origins`` records the
    source of each setting that no checkpoint determines.
    """

    version: PositiveInt
    file: FileName
    bytes: PositiveInt
    sha256: Sha256
    dtype: Dtype
    num_classes: ClassCount
    settings: Settings
    origins: Origins | None = None
    source: ConvertedFrom
    converter: str
    parity: ParityFigures | None = None
    parity_as_stored: ParityFigures | None = None

    def published_accuracy(self, variant: Variant) -> Accuracy | None:
        """That of the release if these are its tensors, by their digest, with its settings."""
        is_release = self.source.kind == "release" and self.settings == variant.settings()
        return variant.accuracy if is_release else None


class VariantEntry(_Entry):
    """A variant: its release, settings, input and published accuracy, and its converted files.

    ``source`` is the release in the Model Garden, ``legacy`` the older one of a stream model.
    ``tensors_sha256`` is of the tensors, the same from every source, where known.
    ``current`` is the version that the variant's name refers to, the one converted last; None means
    the newest.
    """

    source: ReleaseSource | None
    kaggle: KaggleSource | None = None
    legacy: ReleaseSource | None = None
    tensors_sha256: Sha256 | None = None
    settings: Settings
    input: Input
    accuracy: Accuracy
    versions: tuple[ConvertedVersion, ...] = ()
    current: int | None = None

    @pydantic.model_validator(mode="after")
    def _has_ordered_versions(self) -> VariantEntry:
        numbers = [entry.version for entry in self.versions]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"versions must increase without repetition, got {numbers}")
        if self.current not in (None, *numbers):
            raise ValueError(f"current is {self.current}, which is not one of the versions")
        return self

    @property
    def current_version(self) -> ConvertedVersion | None:
        """The version that the variant's name refers to; None if nothing was converted."""
        chosen = [entry for entry in self.versions if self.current in (None, entry.version)]
        return chosen[-1] if chosen else None


class Manifest(_Entry):
    """The variants by name, each with its converted files."""

    schema_version: Literal[2] = SCHEMA_VERSION
    variants: dict[str, VariantEntry]

    @pydantic.field_validator("variants")
    @classmethod
    def _are_variants(cls, variants: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        for name, entry in variants.items():
            if name not in VARIANTS:
                raise ValueError(f"{name!r} is not a MoViNet variant")
            for version in entry.versions:
                check_settings(VARIANTS[name], version.settings)
        return variants

    @property
    def converted(self) -> tuple[str, ...]:
        """The names of the variants that have converted files."""
        return tuple(name for name, entry in self.variants.items() if entry.versions)

    def versions(self, name: str) -> tuple[ConvertedVersion, ...]:
        return self.variants[name].versions if name in self.variants else ()

    def with_version(self, name: str, version: ConvertedVersion) -> Manifest:
        """The manifest with a version added, or replaced if the number exists, as current."""
        by_number = {v.version: v for v in (*self.versions(name), version)}
        changes = {
            "versions": tuple(by_number[number] for number in sorted(by_number)),
            "current": None if version.version == max(by_number) else version.version,
        }
        entry = self.variants.get(name) or describe(VARIANTS[name])
        changed = {**self.variants, name: entry.model_copy(update=changes)}
        return self.model_copy(update={"variants": changed})


def describe(variant: Variant) -> VariantEntry:
    """The entry of a variant without converted files."""
    release, kaggle, legacy = RELEASES.get(variant.name), variant.kaggle_url, variant.legacy_url
    source = None
    if variant.source_url is not None:
        source = ReleaseSource(
            url=variant.source_url,
            sha256=release.sha256 if release else None,
            bytes=release.bytes if release else None,
        )
    return VariantEntry(
        source=source,
        kaggle=KaggleSource(url=kaggle, version=variant.kaggle_version) if kaggle else None,
        legacy=ReleaseSource(url=legacy) if legacy else None,
        tensors_sha256=TENSOR_DIGESTS.get(variant.name),
        settings=variant.settings(),
        input=variant.input,
        accuracy=variant.accuracy,
    )


def catalogue() -> Manifest:
    """The manifest of the twelve releases, without converted files."""
    return Manifest(variants={name: describe(VARIANTS[name]) for name in list_variants()})


def dump(manifest: Manifest) -> str:
    """The manifest as YAML; the same content gives the same text."""
    data = manifest.model_dump(mode="json")
    for entry in data["variants"].values():
        if not entry["versions"]:
            del entry["versions"]
        for optional in ("kaggle", "legacy", "tensors_sha256", "current"):
            if entry[optional] is None:
                del entry[optional]
    return strict_yaml.dump(data)


@lru_cache(maxsize=8)
def parse(text: str, where: str) -> Manifest:
    """Read a manifest; WeightsError names the file, the line and the key of the first error."""
    try:
        data, node = strict_yaml.load(text)
    except strict_yaml.StrictYamlError as error:
        raise WeightsError(
            f"{where}, line {error.line} is not valid YAML for a manifest ({error.problem}); "
            "restore the file or delete it."
        ) from None
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found not in READABLE_SCHEMAS or isinstance(found, bool):
        raise WeightsError(
            f"{where} has schema_version {repr(found)[:40]}, but this version reads "
            f"{SCHEMA_VERSION} and older; use the movinet-convert that wrote it, or another folder."
        )
    try:
        return Manifest.model_validate({**data, "schema_version": SCHEMA_VERSION})
    except pydantic.ValidationError as error:
        path = error.errors(include_url=False)[0]["loc"]
        raise WeightsError(
            f"{where}, line {strict_yaml.line_of(node, path)}: {first_error(error)}; "
            "restore the file or convert into another folder."
        ) from None


def read(path: Path) -> Manifest:
    """Read a manifest file; raises as ``parse``, and WeightsError if it cannot be read."""
    try:
        with open_regular(path, WeightsError) as file:
            text = file.read(strict_yaml.MAX_BYTES + 1).decode("utf-8")
    except UnicodeDecodeError:
        raise WeightsError(f"{path} is not a text file; restore it or delete it.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from None
    return parse(text, str(path))
