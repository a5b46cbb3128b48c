"""How long to wait before another try: the pauses grow, and a server may ask for longer ones."""

from __future__ import annotations

import email.utils
import time

import pytest

from movinet_convert.errors import DownloadError
from tests.download.fetching import BODY, DIGEST, SHORT_LIMITS, Mirror
from tests.helpers import fetch_server as servers


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("movinet_convert.download.http.time.sleep", waited.append)
    return waited


def answer(value: str) -> servers.Answer:
    return servers.status(503, **{"Retry-After": value})


def test_pauses_double(fetch: Mirror, pauses: list[float]) -> None:
    with servers.serve(BODY, servers.status(500)) as server, pytest.raises(DownloadError):
        fetch(server.root)
    assert pauses == [SHORT_LIMITS.first_pause_seconds, 2 * SHORT_LIMITS.first_pause_seconds]


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("86400", 60.0)])
def test_waits_retry_after_seconds_up_to_a_minute(
    fetch: Mirror, value: str, seconds: float, pauses: list[float]
) -> None:
    with servers.serve(BODY, answer(value), servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert pauses == [seconds]


def test_waits_until_retry_after_date(fetch: Mirror, pauses: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    with servers.serve(BODY, answer(date), servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert 10 < pauses[0] <= 20


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e3", "9" * 5000, "Mon, 99 Foo 99999"])
def test_ignores_invalid_retry_after(fetch: Mirror, value: str, pauses: list[float]) -> None:
    with servers.serve(BODY, answer(value), servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert pauses == [SHORT_LIMITS.first_pause_seconds]
