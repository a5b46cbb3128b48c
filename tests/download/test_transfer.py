"""Transfers from servers that misbehave, and the limits that end every transfer."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from movinet_convert.download.request import CHUNK_BYTES
from movinet_convert.errors import DownloadError
from movinet_convert.variants import Release
from tests.download.fetching import BODY, DIGEST, SHORT_TIMEOUT, Mirror
from tests.helpers import fetch_server as servers


def test_keeps_uncompressed_tar_unchanged(fetch: Mirror, cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        fetched = fetch(server.root)
    assert server.paths == [fetch.path]
    assert fetched.path == cache / fetch.file_name
    assert fetched.path.read_bytes() == BODY
    assert (fetched.sha256, fetched.bytes) == (DIGEST, len(BODY))
    assert fetched.downloaded
    fetch.assert_nothing_unfinished(cache)


@pytest.mark.parametrize("answer", [servers.gzip_encoding, servers.gzip_file, servers.gzip_members])
def test_decompresses_archive_and_digests_the_tar(
    fetch: Mirror,
    answer: servers.Answer,
) -> None:
    with servers.serve(BODY, answer) as server:
        fetched = fetch(server.root)
    assert fetched.path.read_bytes() == BODY
    assert fetched.sha256 == DIGEST


def test_retries_server_error(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.status(500), servers.status(503), servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert len(server.paths) == 3


def test_gives_up_on_failing_server_after_allowed_attempts(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.status(500)) as server,
        pytest.raises(DownloadError, match="failed: 500 Internal.*, after 3 attempts"),
    ):
        fetch(server.root)
    assert len(server.paths) == 3
    assert not (cache / fetch.file_name).exists()


def test_does_not_retry_missing_file(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.status(404)) as server,
        pytest.raises(DownloadError, match="the server has no such file: 404 Not Found"),
    ):
        fetch(server.root)
    assert len(server.paths) == 1
    fetch.assert_nothing_unfinished(cache)


def test_resumes_interrupted_download(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.cut_with_ranges, servers.with_ranges) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[0]
    whole_chunks = len(BODY) // 2 // CHUNK_BYTES * CHUNK_BYTES
    assert server.requests[1]["Range"] == f"bytes={whole_chunks}-"


def test_restarts_if_server_does_not_support_ranges(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.cut_without_ranges, servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[1]


def test_restarts_if_file_has_changed(fetch: Mirror) -> None:
    other = servers.noise_tar(b"other weights")
    pinned = Release(len(other), hashlib.sha256(other).hexdigest())

    def changed(handler: servers.Handler, _: bytes) -> None:
        servers.with_ranges(handler, other)

    with servers.serve(BODY, servers.cut_with_ranges, changed) as server:
        assert fetch(server.root, known=pinned).path.read_bytes() == other


def test_restarts_if_body_is_encoded(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.cut_gzip_encoding, servers.gzip_encoding) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[1]


def test_later_run_resumes_earlier_one(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.cut_with_ranges) as server:
        with pytest.raises(DownloadError):
            fetch(server.root)
        server.script[:] = [servers.with_ranges]
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" in server.requests[-1]


def test_downloads_corrupt_bytes_of_earlier_run_again(fetch: Mirror, cache: Path) -> None:
    with servers.serve(BODY, servers.cut_with_ranges) as server:
        with pytest.raises(DownloadError):
            fetch(server.root)
        partial = cache / f"{fetch.file_name}.partial"
        partial.write_bytes(bytes(partial.stat().st_size))
        server.script[:] = [servers.with_ranges]
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" in server.requests[-2]
    assert "Range" not in server.requests[-1]


def test_refuses_truncated_body_without_length(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.cut_without_length) as server,
        pytest.raises(DownloadError, match=r"movinet_a0_base"),
    ):
        fetch(server.root)
    fetch.assert_nothing_unfinished(cache)
    assert not (cache / "recorded_digests.json").exists()


def test_refuses_login_page_in_place_of_file(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.error_page) as server,
        pytest.raises(DownloadError, match="no proxy replaced it.*a web page, and not a"),
    ):
        fetch(server.root)
    fetch.assert_nothing_unfinished(cache)


def test_refuses_wrong_bytes_with_both_digests(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.flipped) as server,
        pytest.raises(DownloadError, match=rf"has sha256 [0-9a-f]{{64}}, but {DIGEST} is pinned"),
    ):
        fetch(server.root)
    fetch.assert_nothing_unfinished(cache)
    assert not (cache / fetch.file_name).exists()


def test_retries_stalled_download(fetch: Mirror) -> None:
    release = threading.Event()
    with servers.serve(BODY, servers.stalled(release), servers.whole) as server:
        assert fetch(server.root, limits=SHORT_TIMEOUT).sha256 == DIGEST
        release.set()


def test_gives_up_on_silent_server(fetch: Mirror) -> None:
    release = threading.Event()
    with servers.serve(BODY, servers.stalled(release)) as server:
        with pytest.raises(DownloadError, match="the server stopped responding, after 3 attempts"):
            fetch(server.root, limits=SHORT_TIMEOUT)
        release.set()


def test_reports_unreachable_server_in_one_sentence(fetch: Mirror) -> None:
    with servers.serve(BODY, servers.whole) as server:
        root = server.root
    with pytest.raises(
        DownloadError, match=r"\(.*Connection refused.*after 2 attempts\)"
    ) as caught:
        fetch(root)
    assert "\n" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_refuses_more_bytes_than_published(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY + bytes(512), servers.whole) as server,
        pytest.raises(DownloadError, match=f"larger than the {len(BODY):,} bytes"),
    ):
        fetch(server.root)


def test_refuses_decompression_bomb(fetch: Mirror, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.gzip_bomb) as server,
        pytest.raises(DownloadError, match=f"larger than the {len(BODY):,} bytes"),
    ):
        fetch(server.root)
    fetch.assert_nothing_unfinished(cache)


def test_progress_rises_to_announced_size(fetch: Mirror) -> None:
    seen: list[tuple[int, int | None]] = []
    with servers.serve(BODY, servers.cut_with_ranges, servers.with_ranges) as server:
        fetch(server.root, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(BODY), len(BODY))
