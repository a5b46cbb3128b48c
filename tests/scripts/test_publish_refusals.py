"""The weights that the script which publishes refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from movinet_convert.errors import WeightsError
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.entries import ConvertedVersion
from movinet_convert.weights.store import Store
from scripts.publishing.candidates import candidate
from scripts.regenerate_weights import report_path
from tests.helpers.verified_store import add_verified


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_verified(tmp_path_factory.mktemp("verified"), "a0-base").folder


@pytest.fixture
def store(verified: Path, tmp_path: Path) -> Store:
    """A copy to be changed."""
    return Store(Path(shutil.copytree(verified, tmp_path / "store")))


def edit_entry(store: Store, name: str, **changes: Any) -> None:
    manifest = store.manifest()
    entry = manifest.variants[name].versions[0].model_copy(update=changes)
    store.manifest_path.write_text(manifests.dump(manifest.with_version(name, entry)), "utf-8")


def edit_report(store: Store, edit: Callable[[dict[str, Any]], None]) -> None:
    path = report_path(store.folder, store.find("a0-base"))
    section = json.loads(path.read_text())
    edit(section)
    path.write_text(json.dumps(section))


def without_parity(store: Store, _: ConvertedVersion) -> None:
    edit_entry(store, "a0-base", parity=None)


def without_report(store: Store, entry: ConvertedVersion) -> None:
    report_path(store.folder, entry).unlink()


def report_of_another_file(store: Store, _: ConvertedVersion) -> None:
    edit_report(store, lambda section: section.update(sha256="0" * 64))


def other_figures(store: Store, entry: ConvertedVersion) -> None:
    assert entry.parity is not None
    edit_entry(store, "a0-base", parity=entry.parity.model_copy(update={"tf_fp32_pt_fp32": 1e-9}))


def failed_comparison(store: Store, entry: ConvertedVersion) -> None:
    def fail(section: dict[str, Any]) -> None:
        section["parity"]["cases"][0]["tensors"]["logits"]["tf_fp32_pt_fp32"] = 0.1

    assert entry.parity is not None
    edit_report(store, fail)
    edit_entry(store, "a0-base", parity=entry.parity.model_copy(update={"tf_fp32_pt_fp32": 0.1}))


def damaged_file(store: Store, entry: ConvertedVersion) -> None:
    path = store.folder / entry.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


REFUSALS = {
    "was never compared": without_parity,
    "has no report": without_report,
    "is of a file with sha256": report_of_another_file,
    "has other figures": other_figures,
    "does not agree with the official model": failed_comparison,
    "has sha256 .* but the manifest records": damaged_file,
}


@pytest.mark.parametrize("reason", REFUSALS)
@pytest.mark.parametrize("allow_synthetic", [False, True])
def test_refuses_what_was_not_verified(reason: str, allow_synthetic: bool, store: Store) -> None:
    catalogue = manifests.catalogue()
    assert not candidate("a0-base", store, catalogue).rehearsal
    REFUSALS[reason](store, store.find("a0-base"))
    with pytest.raises(WeightsError, match=reason):
        candidate("a0-base", store, catalogue, allow_synthetic=allow_synthetic)


@pytest.mark.parametrize("field", ["sha256", "tensors_sha256"])
def test_refuses_other_digests_than_the_catalogue_pins(field: str, verified: Path) -> None:
    store, catalogue = Store(verified), manifests.catalogue()
    entry = store.find("a0-base")
    described = catalogue.variants["a0-base"]
    other = entry.model_copy(update={"sha256": "1" * 64})
    changes = {"sha256": {"versions": (other,)}, "tensors_sha256": {"tensors_sha256": "1" * 64}}
    changed = described.model_copy(update=changes[field])
    pinned = catalogue.model_copy(update={"variants": {"a0-base": changed}})
    with pytest.raises(WeightsError, match="the catalogue pins 1111"):
        candidate("a0-base", store, pinned)


def test_refuses_a_release_that_was_compared_in_part(tmp_path: Path) -> None:
    store = add_verified(tmp_path, "a0-base", coverage="partial")
    for allow_synthetic in (False, True):
        with pytest.raises(WeightsError, match="in a part of the default cases only"):
            candidate("a0-base", store, manifests.catalogue(), allow_synthetic=allow_synthetic)


def test_refuses_weights_of_the_user(tmp_path: Path) -> None:
    store = add_verified(tmp_path, "a0-base", "user")
    with pytest.raises(WeightsError, match=r"not from a release.*HubMoViNet\.push_to_hub"):
        candidate("a0-base", store, manifests.catalogue(), allow_synthetic=True)
