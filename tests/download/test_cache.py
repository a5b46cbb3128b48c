"""The cache that all runs share, and the digests that it trusts."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from movinet_convert.errors import DownloadError
from tests.download.fetching import ARCHIVE, BODY, DIGEST, Mirror, fetch_from
from tests.helpers import fetch_server as servers


def test_cached_release_needs_no_server(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.whole) as server:
        first = fetch(server.root)
    again = fetch("http://127.0.0.1:1", offline=True)
    assert first.downloaded
    assert not again.downloaded
    assert again.path == first.path


def test_offline_without_cached_release_fails_without_request(fetch: Mirror) -> None:
    with (
        servers.serve(BODY, servers.whole) as server,
        pytest.raises(DownloadError, match="does not exist and downloads are off"),
    ):
        fetch(server.root, offline=True)
    assert server.paths == []


def test_offline_accepts_folder_as_mirror(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(BODY)
    assert fetch_from(tmp_path, offline=True).sha256 == DIGEST


def test_replaces_damaged_cached_file(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.whole) as server:
        path = fetch(server.root).path
        path.write_bytes(bytes(100))
        assert fetch(server.root).path.read_bytes() == BODY


def test_offline_damaged_cached_file_is_an_error(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root).path.write_bytes(bytes(100))
    with pytest.raises(DownloadError, match="is damaged and downloads are off"):
        fetch(server.root, offline=True)


def test_pinned_release_is_never_a_first_use(fetch: Mirror, cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        assert not fetch(server.root).first_use
    assert not (cache / "recorded_digests.json").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": {}}', "\xff", "[" * 100_000, "{}" + " " * 2_000_000],
    ids=lambda text: text[:10],
)
def test_names_damaged_record(fetch: Mirror, cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "recorded_digests.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DownloadError, match=r"recorded_digests\.json is damaged; delete it"):
        fetch.unpinned("http://127.0.0.1:1")


def test_names_record_that_is_a_pipe(fetch: Mirror, cache: Path) -> None:
    cache.mkdir()
    os.mkfifo(cache / "recorded_digests.json")
    with pytest.raises(DownloadError, match=r"recorded_digests\.json is a named pipe"):
        fetch.unpinned("http://127.0.0.1:1")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"url": 1}', "[" * 100_000], ids=lambda text: text[:10]
)
def test_damaged_resume_state_restarts_download(fetch: Mirror, cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / f"{fetch.file_name}.partial").write_bytes(b"junk")
    (cache / f"{fetch.file_name}.partial.json").write_text(text)
    with servers.serve(BODY, servers.with_ranges) as server:
        assert fetch(server.root).sha256 == DIGEST


def test_reports_cache_that_cannot_be_created(fetch: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be used .*MOVINET_CACHE_DIR"):
        fetch("http://127.0.0.1:1", cache_dir=tmp_path / "file" / "cache")


def _fetch_in_a_process(root: str, results: Any) -> None:
    fetched = fetch_from(root)
    results.put((os.getpid(), fetched.sha256, fetched.downloaded))


def test_two_processes_share_one_download() -> None:
    def slowly(handler: servers.Handler, body: bytes) -> None:
        threading.Event().wait(0.2)
        servers.whole(handler, body)

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with servers.serve(BODY, slowly) as server:
        runs = [
            context.Process(target=_fetch_in_a_process, args=(server.root, results))
            for _ in range(2)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(30)
        outcomes = [results.get() for _ in runs]
    assert len(server.paths) == 1
    assert {digest for _, digest, _ in outcomes} == {DIGEST}
    assert sorted(downloaded for _, _, downloaded in outcomes) == [False, True]
