"""Responses that never end are given up, whichever part of them is slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from movinet_convert.errors import DownloadError
from tests.download.fetching import BODY, SHORT_LIMITS, Mirror
from tests.helpers import fetch_server as servers

QUICK = replace(
    SHORT_LIMITS,
    connect_seconds=0.1,
    read_seconds=0.1,
    attempts=2,
    rate_seconds=0.1,
    minimum_rate=1e6,
)


@pytest.mark.parametrize("answer", ["slow_body", "slow_chunk", "empty_body"])
def test_gives_up_on_body_below_minimum_rate(fetch: Mirror, answer: str, cache: Path) -> None:
    with (
        servers.serve(BODY, getattr(servers, answer)) as server,
        pytest.raises(DownloadError, match="fewer than 1,000,000 bytes a second, after 2 attempts"),
    ):
        fetch(server.root, limits=QUICK)
    fetch.assert_nothing_unfinished(cache)


def test_gives_up_on_slow_headers(fetch: Mirror) -> None:
    with (
        servers.serve(BODY, servers.slow_head) as server,
        pytest.raises(DownloadError, match="the server stopped responding, after 2 attempts"),
    ):
        fetch(server.root, limits=QUICK)


def test_download_has_deadline(fetch: Mirror) -> None:
    limits = replace(SHORT_LIMITS, grace_seconds=0.1, minimum_rate=1e9)
    with (
        servers.serve(BODY, servers.slow_body) as server,
        pytest.raises(DownloadError, match=r"it took more than 0 s"),
    ):
        fetch(server.root, limits=limits)


def test_truncates_long_reason_phrase(fetch: Mirror) -> None:
    answer = servers.endless(b"HTTP/1.1 404 " + b"no" * 30_000 + b"\r\n\r\n", b"")
    with servers.serve(BODY, answer) as server, pytest.raises(DownloadError) as caught:
        fetch(server.root)
    assert ": 404 nono" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_gives_up_on_gzip_file_of_empty_members(fetch: Mirror) -> None:
    with (
        servers.serve(BODY, servers.empty_gzip_members) as server,
        pytest.raises(DownloadError, match="more than 10,000 members"),
    ):
        fetch(server.root, known=None)
