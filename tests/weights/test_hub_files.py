"""Weights by their address on the Hugging Face Hub, from a server that plays it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download

from movinet_convert import create_model, load_converted, save_weights
from movinet_convert.conversion.inspection import inspect
from movinet_convert.errors import MissingExtraError, UsageError, WeightsError
from movinet_convert.files.reading import file_sha256
from movinet_convert.weights.hub_files import FILE_NAME, HubAddress
from movinet_convert.weights.load import locate
from movinet_convert.weights.manifest import MANIFEST_NAME
from tests.helpers.hub_repositories import Hub
from tests.helpers.hub_server import as_the_hub, serve_hub

REPOSITORY = "people/movinet-a0-stream"
ADDRESS = f"hf://{REPOSITORY}"
LABELS = ("run", "walk", "sit")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("a0-stream", num_classes=len(LABELS), gating="model-garden").eval()
    return save_weights(model, tmp_path_factory.mktemp("w") / "w.safetensors", labels=LABELS)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as hub, as_the_hub(hub, tmp_path / "cache"):
        yield hub


def upload(path: str, content: Path | bytes) -> str:
    api = HfApi()
    api.create_repo(REPOSITORY, exist_ok=True)
    done = api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPOSITORY)
    return done.oid


# The server itself, as its client sees it


def test_server_keeps_what_is_uploaded(hub: Hub, weights: Path) -> None:
    hub.part_bytes = 1 << 20
    first = upload(FILE_NAME, weights)
    second = upload("notes.txt", b"hello")
    assert [first, second] == [
        HfApi().model_info(REPOSITORY, revision=r).sha for r in (first, "main")
    ]
    found = {file.path: file for file in HfApi().list_repo_tree(REPOSITORY)}
    assert found[FILE_NAME].lfs.sha256 == file_sha256(weights)
    assert found["notes.txt"].lfs is None
    downloaded = Path(hf_hub_download(REPOSITORY, FILE_NAME))
    assert downloaded.parent.name == second
    assert file_sha256(downloaded) == file_sha256(weights)
    # The names in the cache are the ETags: sha256 of a large file, git's name of another.
    assert downloaded.resolve().name == file_sha256(weights)
    assert (
        Path(hf_hub_download(REPOSITORY, "notes.txt")).resolve().name == found["notes.txt"].blob_id
    )
    assert sum("PUT /lfs/" in request for request in hub.requests) > 1
    assert upload("notes.txt", b"hello") == second
    assert hub.repository(REPOSITORY).commits()[0] == "initial commit"


# Addresses


def test_loads_repository_by_address(hub: Hub, weights: Path) -> None:
    upload(FILE_NAME, weights)
    model = load_converted(ADDRESS)
    assert model.settings.gating == "model-garden"
    expected = load_converted(weights).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert inspect(ADDRESS).labels == LABELS
    assert load_converted(ADDRESS, num_classes=5).num_classes == 5


def test_loads_a_revision(hub: Hub, weights: Path, tmp_path: Path) -> None:
    first = upload(FILE_NAME, weights)
    other = save_weights(create_model("a0-base", num_classes=2), tmp_path / "other.safetensors")
    upload(FILE_NAME, other)
    assert load_converted(ADDRESS).variant.name == "a0-base"
    assert load_converted(f"{ADDRESS}@{first}").variant.name == "a0-stream"
    with pytest.raises(WeightsError, match="@v7 cannot be downloaded.*no such revision"):
        load_converted(f"{ADDRESS}@v7")
    with pytest.raises(UsageError, match="revisions, not versions"):
        load_converted(ADDRESS, version=1)


@pytest.mark.parametrize(
    "wrong", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b c"]
)
def test_names_what_is_no_address(wrong: str) -> None:
    with pytest.raises(UsageError, match="expected hf://ORG/NAME"):
        load_converted(wrong)


def test_file_is_checked_as_any_other(hub: Hub, weights: Path) -> None:
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    upload(FILE_NAME, bytes(damaged))
    with pytest.raises(WeightsError, match="its header records"):
        load_converted(ADDRESS)


def test_manifest_of_the_repository_is_checked_too(hub: Hub, weights: Path, tmp_path: Path) -> None:
    from movinet_convert import convert
    from movinet_convert.weights import manifest as manifests
    from tests.helpers.seeded import choices, write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "c", "a0-stream")
    stored = convert(
        "a0-stream", checkpoint, **choices("a0-stream"), out=tmp_path / "s", parity=None
    )
    entry = stored.stored.entry.model_copy(update={"file": FILE_NAME})
    listing = manifests.catalogue().with_version("a0-stream", entry)
    upload(FILE_NAME, stored.stored.path)
    upload(MANIFEST_NAME, manifests.dump(listing).encode())
    located = locate(ADDRESS)
    assert located.entry == entry
    located.check()
    # Other weights, intact in themselves, that are not those of the manifest
    upload(FILE_NAME, weights)
    with pytest.raises(WeightsError, match="the manifest records"):
        load_converted(ADDRESS)


def test_cache_serves_without_the_hub(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(FILE_NAME, weights)
    load_converted(ADDRESS)
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_converted(ADDRESS)
    assert len(hub.requests) == before
    with pytest.raises(WeightsError, match="hf://people/other cannot be downloaded.*on the local"):
        load_converted("hf://people/other")


def test_second_use_downloads_nothing(hub: Hub, weights: Path) -> None:
    upload(FILE_NAME, weights)
    load_converted(ADDRESS)
    before = len(hub.requests)
    load_converted(ADDRESS)
    assert not [request for request in hub.requests[before:] if "/cdn/" in request]


def test_failures_are_one_sentence(hub: Hub, weights: Path) -> None:
    with pytest.raises(WeightsError, match="no such repository, or it is private"):
        load_converted("hf://people/missing")
    upload("notes.txt", b"hello")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load_converted(ADDRESS)
    upload(FILE_NAME, weights)
    hub.refuse["GET /cdn/"] = 403
    with pytest.raises(WeightsError, match="cannot be downloaded from the Hub") as caught:
        load_converted(ADDRESS)
    assert "\n" not in str(caught.value)


def test_unreachable_hub_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="cannot be downloaded from the Hub.*ConnectError"):
        load_converted(ADDRESS)


def test_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"needs the extra \[hub\]"):
        load_converted(ADDRESS)


def test_address_is_written_as_it_is_read() -> None:
    for text in (ADDRESS, f"{ADDRESS}@refs/pr/1"):
        assert str(HubAddress.parse(text)) == text
