"""Releases without a published digest: what is trusted at first use, and what is not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from movinet_convert.download import cache as cache_module
from movinet_convert.errors import DownloadError
from movinet_convert.model.settings import get_variant
from tests.download.fetching import ARCHIVE, BODY, VARIANT, Mirror, fetch_from
from tests.helpers import fetch_server as servers

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def release() -> bytes:
    return servers.release_tar(VARIANT.name)


def mirror(folder: Path, body: bytes, archive: str = ARCHIVE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / archive).write_bytes(body)
    return folder


def test_records_first_use_with_source(fetch: Mirror, release: bytes, cache: Path) -> None:
    with servers.serve(release, servers.whole) as server:
        fetched = fetch.unpinned(server.root)
    assert fetched.first_use
    assert not fetched.pinned
    record = json.loads((cache / "recorded_digests.json").read_text())[fetch.file_name]
    assert record["sha256"] == hashlib.sha256(release).hexdigest()
    assert record["bytes"] == len(release)
    assert record["source"] == fetched.address == fetch.address(server.root)
    assert (fetched.source, fetched.version) == (fetch.source, fetch.version)


def test_recorded_digest_does_not_pin_release(
    fetch: Mirror, release: bytes, tmp_path: Path
) -> None:
    fetch.unpinned(mirror(tmp_path / "mirror", release))
    again = fetch.unpinned(NOWHERE, offline=True)
    assert not again.first_use
    assert not again.pinned


def test_checks_network_only_at_first_use(
    fetch: Mirror, release: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    check = cache_module._check_network
    monkeypatch.setattr(
        cache_module,
        "_check_network",
        lambda path, *options, **more: [checked.append(path), check(path, *options, **more)],
    )
    folder = mirror(tmp_path / "mirror", release)
    for _ in range(3):
        fetch.unpinned(folder)
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("name", "classes", "why"),
    [
        ("a0-base", 7, "it has 7 classes, but every release has 600"),
        ("a0-stream", 600, "lacks variable .* of a0-base"),
        ("a1-base", 600, "of another network|does not have|lacks variable"),
    ],
)
def test_refuses_another_network_under_release_name(
    fetch: Mirror, name: str, classes: int, why: str, cache: Path, tmp_path: Path
) -> None:
    folder = mirror(tmp_path / "mirror", servers.release_tar(name, classes))
    with pytest.raises(DownloadError, match=rf"is not a release of a0-base; .*({why})"):
        fetch.unpinned(folder)
    fetch.assert_nothing_unfinished(cache)
    assert not (cache / fetch.file_name).exists()
    assert not (cache / "recorded_digests.json").exists()


def test_refuses_other_archive_under_release_name(fetch: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="is not a release of a0-base"):
        fetch.unpinned(mirror(tmp_path / "mirror", BODY))


def test_truncates_names_from_hostile_archive(fetch: Mirror, tmp_path: Path) -> None:
    body = servers.tar_of({f"../{'x' * 100_000}": b""})
    with pytest.raises(DownloadError, match="is refused because of its member") as caught:
        fetch.unpinned(mirror(tmp_path / "mirror", body))
    assert len(str(caught.value)) < 2000


def test_does_not_record_damaged_release(
    fetch: Mirror, release: bytes, cache: Path, tmp_path: Path
) -> None:
    damaged = servers.with_a_flipped_bit(release)
    with pytest.raises(DownloadError, match="the checksum of variable .* does not match"):
        fetch.unpinned(mirror(tmp_path / "mirror", damaged))
    assert not (cache / "recorded_digests.json").exists()


def test_records_manually_cached_file_of_right_network(
    fetch: Mirror, release: bytes, cache: Path
) -> None:
    mirror(cache, release, fetch.file_name)
    assert fetch.unpinned(NOWHERE, offline=True).first_use
    assert not fetch.unpinned(NOWHERE, offline=True).first_use


def test_refuses_manually_cached_file_of_another_network(fetch: Mirror, cache: Path) -> None:
    mirror(cache, servers.release_tar(VARIANT.name, 7), fetch.file_name)
    with pytest.raises(DownloadError, match=rf"{fetch.file_name} is not a release of a0-base"):
        fetch.unpinned(NOWHERE, offline=True)


def test_record_cannot_make_another_network_trusted(fetch: Mirror, cache: Path) -> None:
    body = servers.release_tar(VARIANT.name, 7)
    mirror(cache, body, fetch.file_name)
    digest = hashlib.sha256(body).hexdigest()
    entry = {"sha256": digest, "bytes": len(body), "source": "me", "date": "2026-01-01"}
    (cache / "recorded_digests.json").write_text(json.dumps({fetch.file_name: entry}))
    with pytest.raises(DownloadError, match="it has 7 classes, but every release has 600"):
        fetch.unpinned(NOWHERE, offline=True)


def test_digest_mismatch_with_record_gives_advice(
    fetch: Mirror, release: bytes, tmp_path: Path
) -> None:
    other = servers.release_tar(VARIANT.name, seed=1)
    fetch.unpinned(mirror(tmp_path / "mirror", release)).path.unlink()
    with pytest.raises(DownloadError) as caught:
        fetch.unpinned(mirror(tmp_path / "mirror", other))
    message = str(caught.value)
    assert hashlib.sha256(release).hexdigest() in message
    assert hashlib.sha256(other).hexdigest() in message
    assert "recorded_digests.json" in message


def _fetch_in_a_process(root: Path, name: str) -> None:
    fetch_from(root, None, variant=get_variant(name))


def test_records_concurrent_first_uses(cache: Path, tmp_path: Path) -> None:
    names = ("a0-base", "a0-stream")
    context = multiprocessing.get_context("fork")
    for name in names:
        folder = mirror(
            tmp_path / "mirror", servers.release_tar(name), get_variant(name).archive_name
        )
    runs = [context.Process(target=_fetch_in_a_process, args=(folder, name)) for name in names]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    recorded = json.loads((cache / "recorded_digests.json").read_text())
    assert set(recorded) == {get_variant(name).archive_name for name in names}
