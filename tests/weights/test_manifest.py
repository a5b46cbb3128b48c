"""The manifest: one schema, and errors that name the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert.errors import WeightsError
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import list_variants
from movinet_convert.weights import manifest
from movinet_convert.weights.entries import ConvertedFrom, ConvertedVersion
from movinet_convert.weights.manifest import Manifest

ROOT = Path(__file__).parents[2]


def version(number: int, **changes: object) -> ConvertedVersion:
    values: dict[str, object] = {
        "version": number,
        "file": f"movinet-a0-base-v{number}.safetensors",
        "bytes": 10,
        "sha256": f"{number:064x}",
        "dtype": "float32",
        "num_classes": 600,
        "settings": get_variant("a0-base").settings(),
        "source": ConvertedFrom(name="x", layout="model-garden", digest="0" * 64),
        "converter": "0.1.0",
    }
    return ConvertedVersion(**(values | changes))


def test_catalogue_in_repository_matches_code() -> None:
    text = (ROOT / manifest.MANIFEST_NAME).read_text()
    assert text == manifest.dump(manifest.catalogue())
    assert list(manifest.parse(text, "catalogue").variants) == list_variants()


def test_four_releases_have_known_digests() -> None:
    known = {
        name
        for name, entry in manifest.catalogue().variants.items()
        if entry.source and entry.source.sha256
    }
    assert known == {"a1-base", "a2-base", "a3-base", "a2-stream"}


def test_manifest_round_trips() -> None:
    written = manifest.catalogue().with_version("a0-base", version(2))
    written = written.with_version("a0-base", version(1))
    assert [v.version for v in written.versions("a0-base")] == [1, 2]
    assert manifest.parse(manifest.dump(written), "store") == written


def test_store_accepts_variant_without_release() -> None:
    written = Manifest(variants={}).with_version(
        "t0-stream", version(1, settings=get_variant("t0-stream").settings())
    )
    assert manifest.parse(manifest.dump(written), "store") == written


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version: 2", "schema_version: 3", "schema_version 3, but this version reads 2"),
        ("top1: 72.28", "top1: good", r"line 28: variants\.a0-base\.accuracy\.top1"),
        ("  a0-base:", "  a9-base:", "'a9-base' is not a MoViNet variant"),
        ("sha256: null", "sha256: abc", r"line 6: variants\.a0-base\.source\.sha256"),
        ("gating: keras", "gating: hard", r"variants\.a0-stream\.settings\.gating"),
        ("    input:", "    inputs:", r"variants\.a0-base\.input: Field required"),
        ("variants:", "variants: [", "is not valid YAML"),
    ],
)
def test_error_names_line_and_key(old: str, new: str, message: str) -> None:
    text = manifest.dump(manifest.catalogue()).replace(old, new, 1)
    with pytest.raises(WeightsError, match=message):
        manifest.parse(text, "store/weights_manifest.yaml")


@pytest.mark.parametrize("file", ["../x.safetensors", "/x.safetensors", "a/b", "..", "", "a\\b"])
def test_refuses_file_outside_store(file: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        version(1, file=file)


def test_refuses_repeated_version_numbers() -> None:
    text = manifest.dump(manifest.catalogue().with_version("a0-base", version(1)))
    start = text.index("    - version: 1")
    end = text.index("  a0-stream:")
    doubled = text[:end] + text[start:end] + text[end:]
    with pytest.raises(WeightsError, match="without repetition"):
        manifest.parse(doubled, "store")
