"""The entries of a manifest: a source, a converted file, a name with its versions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import AliasChoices, Field, PositiveInt

from movinet_convert.variants import (
    Accuracy,
    Input,
    Origins,
    Settings,
    SourceName,
    Variant,
)
from movinet_convert.weights.header import ClassCount, Dtype, Sha256, SourceKind

if TYPE_CHECKING:
    from typing_extensions import Self

# A file name in the folder of the manifest: no separators, drives, streams or control characters of
# any platform; not hidden, and not like an option.
FileName = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
Coverage = Literal["full", "partial"]


class Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ReleaseSource(Entry):
    """Where Google published a checkpoint, and its digest and size if known."""

    url: str
    sha256: Sha256 | None = None
    bytes: PositiveInt | None = None


class KaggleSource(ReleaseSource):
    """Where the same weights are on Kaggle, and the version that was published last."""

    version: PositiveInt


class ConvertedFrom(Entry):
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


class ParityFigures(Entry):
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


class ConvertedVersion(Entry):
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


class _Versioned(Entry):
    """The converted files of one name.

    ``current`` is the version that the name refers to, the one converted last; None means the
    newest.
    """

    versions: tuple[ConvertedVersion, ...] = ()
    current: int | None = None

    @pydantic.model_validator(mode="after")
    def _has_ordered_versions(self) -> Self:
        numbers = [entry.version for entry in self.versions]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"versions must increase without repetition, got {numbers}")
        if self.current not in (None, *numbers):
            raise ValueError(f"current is {self.current}, which is not one of the versions")
        return self

    @property
    def current_version(self) -> ConvertedVersion | None:
        """The version that the name refers to; None if nothing was converted."""
        chosen = [entry for entry in self.versions if self.current in (None, entry.version)]
        return chosen[-1] if chosen else None

    def with_version(self, version: ConvertedVersion) -> Self:
        """With a version added, or replaced if the number exists, as the current one."""
        by_number = {v.version: v for v in (*self.versions, version)}
        changes = {
            "versions": tuple(by_number[number] for number in sorted(by_number)),
            "current": None if version.version == max(by_number) else version.version,
        }
        return self.model_copy(update=changes)

    def without(self, numbers: Collection[int]) -> Self:
        """Without these versions; if the current one is among them, the newest is current."""
        kept = tuple(entry for entry in self.versions if entry.version not in numbers)
        current = None if self.current in numbers else self.current
        return self.model_copy(update={"versions": kept, "current": current})


class NamedEntry(_Versioned):
    """Weights of a variant under a name that a user chose."""

    variant: str


class VariantEntry(_Versioned):
    """A variant: its release, settings, input and published accuracy, and its converted files.

    ``source`` is the release in the Model Garden, ``legacy`` the older one of a stream model.
    ``tensors_sha256`` is of the tensors, the same from every source, where known.
    """

    source: ReleaseSource | None
    kaggle: KaggleSource | None = None
    legacy: ReleaseSource | None = None
    tensors_sha256: Sha256 | None = None
    settings: Settings
    input: Input
    accuracy: Accuracy
