"""The manifest: the available weights, their sources and their parity figures.

Two files share the schema. The catalogue in the root of the repository lists the twelve releases;
the manifest of a store also lists every converted file under ``versions``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.model.settings import check_settings
from movinet_convert.variants import (
    RELEASES,
    TENSOR_DIGESTS,
    VARIANTS,
    Variant,
    list_variants,
)
from movinet_convert.weights import strict_yaml
from movinet_convert.weights.entries import (
    ConvertedVersion,
    Entry,
    KaggleSource,
    NamedEntry,
    ReleaseSource,
    VariantEntry,
)
from movinet_convert.weights.header import first_error
from movinet_convert.weights.naming import OWN_NAME

MANIFEST_NAME = "weights_manifest.yaml"
SCHEMA_VERSION: Literal[2] = 2
READABLE_SCHEMAS = (1, SCHEMA_VERSION)  # 1 lacks optional fields and is upgraded when read


class Manifest(Entry):
    """The variants by name, each with its converted files, and the weights with other names.

    ``named`` is left out of a file where it is empty, so that earlier versions can read it.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    variants: dict[str, VariantEntry]
    named: dict[Annotated[str, Field(pattern=OWN_NAME)], NamedEntry] = Field(default={})

    @pydantic.field_validator("variants")
    @classmethod
    def _are_variants(cls, variants: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        for name, entry in variants.items():
            if name not in VARIANTS:
                raise ValueError(f"{name!r} is not a MoViNet variant")
            for version in entry.versions:
                check_settings(VARIANTS[name], version.settings)
        return variants

    @pydantic.field_validator("named")
    @classmethod
    def _have_variants(cls, named: dict[str, NamedEntry]) -> dict[str, NamedEntry]:
        for name, entry in named.items():
            if name in VARIANTS or entry.variant not in VARIANTS:
                raise ValueError(f"{name!r} is not another name for weights of a MoViNet variant")
            for version in entry.versions:
                check_settings(VARIANTS[entry.variant], version.settings)
        return named

    @property
    def converted(self) -> dict[str, str]:
        """The names that have converted files, and the variant of each."""
        variants = {name: name for name, entry in self.variants.items() if entry.versions}
        return variants | {name: entry.variant for name, entry in self.named.items()}

    def entry(self, name: str) -> VariantEntry | NamedEntry | None:
        """What is recorded under a name; None if there is nothing."""
        return self.variants.get(name) or self.named.get(name)

    def versions(self, name: str) -> tuple[ConvertedVersion, ...]:
        entry = self.entry(name)
        return entry.versions if entry else ()

    def with_version(
        self, name: str, version: ConvertedVersion, variant: str | None = None
    ) -> Manifest:
        """The manifest with a version of a variant, or of weights of ``variant``, as current."""
        if name in VARIANTS:
            known = self.variants.get(name) or describe(VARIANTS[name])
            variants = {**self.variants, name: known.with_version(version)}
            return self.model_copy(update={"variants": variants})
        own = self.named.get(name) or NamedEntry(variant=variant or name)
        return self.model_copy(update={"named": {**self.named, name: own.with_version(version)}})

    def without(self, name: str, numbers: Collection[int]) -> Manifest:
        """The manifest without these versions; a name that has none left is free again."""
        if name in self.variants:
            variants = {**self.variants, name: self.variants[name].without(numbers)}
            return self.model_copy(update={"variants": variants})
        named = {**self.named, name: self.named[name].without(numbers)}
        kept = {own: entry for own, entry in named.items() if entry.versions}
        return self.model_copy(update={"named": kept})


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
    for entry in [*data["variants"].values(), *data["named"].values()]:
        # Last, and left out if there are none.
        versions, current = entry.pop("versions"), entry.pop("current")
        entry |= {"versions": versions} if versions else {}
        entry["current"] = current
        for optional in ("kaggle", "legacy", "tensors_sha256", "current"):
            if entry.get(optional, "") is None:
                del entry[optional]
    if not data["named"]:
        del data["named"]
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
