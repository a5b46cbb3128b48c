"""Resuming a transfer from servers that refuse ranges or answer with another one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from movinet_convert.download.request import CHUNK_BYTES
from movinet_convert.errors import DownloadError
from movinet_convert.variants import Release
from tests.download.fetching import BODY, DIGEST, SHORT_LIMITS, Mirror
from tests.helpers import fetch_server as servers

DATE = "Wed, 01 Jul 2026 10:00:00 GMT"
HALF = len(BODY) // 2


@pytest.mark.parametrize("code", [304, 400, 403, 404, 416, 429, 500, 501])
def test_requests_whole_file_after_refused_range(fetch: Mirror, code: int) -> None:
    script = (servers.cut_with_ranges, servers.refusing_ranges(code))
    with servers.serve(BODY, *script) as server:
        assert fetch(server.root).sha256 == DIGEST
    # A server that a signed address is of may refuse it because the signature expired.
    tries = 2 if fetch.source == "kaggle" and code in (400, 403) else 1
    ranged = ["Range" in request for request in server.requests]
    assert ranged == [False, *[True] * tries, False]


@pytest.mark.parametrize("code", [403, 503])
def test_partial_file_of_earlier_run_does_not_block_later_run(fetch: Mirror, code: int) -> None:
    once = replace(SHORT_LIMITS, attempts=1)
    with servers.serve(BODY, servers.cut_with_ranges, servers.refusing_ranges(code)) as server:
        with pytest.raises(DownloadError):
            fetch(server.root, limits=once)
        assert fetch(server.root, limits=once).sha256 == DIGEST


@pytest.mark.parametrize(
    "changes",
    [
        {"ETag": '"another"'},
        {"ETag": None},
        {"ETag": f"W/{servers.entity_tag(BODY)}"},
        {"ETag": None, "Last_Modified": DATE},
        {"Content_Range": None},
        {"Content_Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"},
        {"Content_Range": f"bytes {CHUNK_BYTES}-{len(BODY)}/{len(BODY) + 1}"},
        {"Content_Range": f"bytes {CHUNK_BYTES}-{len(BODY) - 2}/{len(BODY)}"},
        {"Content_Range": f"bytes {CHUNK_BYTES}-{len(BODY) - 1}/*"},
        {"Content_Encoding": "gzip"},
    ],
    ids=str,
)
def test_does_not_append_rest_of_another_file(
    fetch: Mirror, changes: dict[str, str | None]
) -> None:
    rest = servers.rest_of_another_file(**changes)
    with servers.serve(BODY, servers.cut_with_ranges, rest, servers.with_ranges) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert server.requests[1]["Range"] == f"bytes={CHUNK_BYTES}-"
    assert "Range" not in server.requests[2]


def test_identifies_file_without_etag_by_date(fetch: Mirror) -> None:
    cut = servers.cut_at(HALF, **{"Last-Modified": DATE})
    other_day = servers.rest_of_another_file(ETag=None, Last_Modified=DATE.replace("01", "02"))
    with servers.serve(BODY, cut, other_day, servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert server.requests[1]["If-Range"] == DATE
    assert "Range" not in server.requests[2]


def test_gives_up_on_repeated_cuts_without_progress(fetch: Mirror) -> None:
    body = servers.noise_tar(data_bytes=4 << 20)
    long, short = servers.cut_at(3 << 20, ETag='"a"'), servers.cut_at(1 << 20, ETag='"b"')
    with (
        servers.serve(body, *[long, short] * 10) as server,
        pytest.raises(DownloadError, match="after 3 attempts"),
    ):
        fetch(server.root, known=Release(len(body), hashlib.sha256(body).hexdigest()))
    assert len(server.paths) == 3


def test_gives_up_after_too_many_requests_but_keeps_partial_file(
    fetch: Mirror, cache: Path
) -> None:
    body = servers.noise_tar(data_bytes=8 << 20)
    pinned = Release(len(body), hashlib.sha256(body).hexdigest())
    with servers.serve(body, servers.in_chunks_of(5 << 18)) as server:
        with pytest.raises(DownloadError, match="interrupted again and again, in 4 requests"):
            fetch(server.root, known=pinned, limits=replace(SHORT_LIMITS, requests=4))
        assert (cache / f"{fetch.file_name}.partial").stat().st_size == 5 << 20
        assert fetch(server.root, known=pinned).sha256 == pinned.sha256


def test_announces_retry_with_reason(fetch: Mirror) -> None:
    notices: list[str] = []
    with servers.serve(BODY, servers.status(503), servers.whole) as server:
        fetch(server.root, notice=notices.append)
    sentence = notices[-1]
    assert "the server failed: 503 Service Unavailable" in sentence
    assert sentence.endswith("; trying again in 0 s (attempt 2 of 3).")
