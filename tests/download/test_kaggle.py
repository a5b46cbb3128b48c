"""What only Kaggle's way has: a redirect to a signed address, checksums, an account."""

from __future__ import annotations

import base64
import hashlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from movinet_convert import variants
from movinet_convert.download.request import CHUNK_BYTES
from movinet_convert.errors import DownloadError, UsageError
from tests.download.fetching import BODY, DIGEST, Kaggle, fetch_from, kaggle
from tests.helpers import fetch_server as servers

EXPIRED = (400, 403)
MD5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
CRC = base64.b64encode(google_crc32c.Checksum(BODY).digest()).decode()
WRONG_MD5 = base64.b64encode(bytes(16)).decode()


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    with kaggle(monkeypatch) as from_kaggle:
        yield from_kaggle


def goog_hash(*values: str, answer: servers.Answer = servers.with_ranges) -> servers.Answer:
    """The answer with these ``x-goog-hash`` headers."""

    def with_header(handler: servers.Handler, body: bytes) -> None:
        end = handler.end_headers

        def end_headers() -> None:
            for value in values:
                handler.send_header("x-goog-hash", value)
            end()

        handler.end_headers = end_headers  # type: ignore[method-assign]
        answer(handler, body)

    return with_header


# Signed addresses


@pytest.mark.parametrize("code", EXPIRED)
def test_expired_signature_in_a_resume_is_renewed(fetch: Kaggle, code: int) -> None:
    script = (servers.cut_with_ranges, servers.status(code), servers.with_ranges)
    with servers.serve(BODY, *script) as storage:
        assert fetch(storage.root).sha256 == DIGEST
    ranges = [request.get("Range") for request in storage.requests]
    assert ranges == [None, f"bytes={CHUNK_BYTES}-", f"bytes={CHUNK_BYTES}-"]
    assert len(fetch.requests) == 3  # each attempt asks Kaggle for a new signature


@pytest.mark.parametrize("code", EXPIRED)
def test_gives_up_on_signatures_that_are_never_accepted(
    fetch: Kaggle, code: int, cache: Path
) -> None:
    with (
        servers.serve(BODY, servers.status(code)) as storage,
        pytest.raises(DownloadError, match=rf"{code} .*from 127\.0\.0\.1, after 3 attempts"),
    ):
        fetch(storage.root)
    assert len(fetch.requests) == 3
    fetch.assert_nothing_unfinished(cache)


def test_gives_up_on_resume_whose_signatures_are_never_accepted(fetch: Kaggle) -> None:
    with (
        servers.serve(BODY, servers.cut_with_ranges, servers.status(403)) as storage,
        pytest.raises(DownloadError, match="the server refuses access: 403 Forbidden from"),
    ):
        fetch(storage.root)
    assert ["Range" in request for request in storage.requests] == [False, True, True, False]


def test_later_run_resumes_with_a_new_signature(fetch: Kaggle, cache: Path) -> None:
    with servers.serve(BODY, servers.cut_with_ranges) as storage:
        with pytest.raises(DownloadError):
            fetch(storage.root)
        assert all(b"c0ffee" not in path.read_bytes() for path in cache.iterdir())
        storage.script[:] = [servers.with_ranges]
        assert fetch(f"{storage.root}/another").sha256 == DIGEST
    assert "Range" in storage.requests[-1]


def test_does_not_follow_redirect_from_https_to_http(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with servers.serve(BODY, servers.whole) as storage:
        redirect = servers.redirect(f"{storage.root}?X-Goog-Signature=c0ffee")
        with servers.serve(b"", redirect, certificate=certificate) as host:
            monkeypatch.setattr(variants, "KAGGLE_ROOT", host.root)
            with pytest.raises(DownloadError, match="from https to http:.*unsafe") as caught:
                fetch_from("kaggle")
    assert storage.paths == []
    assert "c0ffee" not in str(caught.value)


@pytest.mark.parametrize("target", ["ftp://host/a", "http://[::1/a", "http://a b/c", "file:///x"])
def test_redirect_to_no_address_is_one_sentence(
    target: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect = servers.redirect(f"{target}?X-Goog-Signature=c0ffee")
    with servers.serve(b"", redirect) as host:
        monkeypatch.setattr(variants, "KAGGLE_ROOT", host.root)
        with pytest.raises(DownloadError) as caught:
            fetch_from("kaggle")
    assert "c0ffee" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_redirect_to_host_that_does_not_answer_is_one_sentence(fetch: Kaggle) -> None:
    with pytest.raises(DownloadError, match="Connection refused, after 2 attempts"):
        fetch("http://127.0.0.1:1")


@pytest.mark.parametrize("code", [404, 410])
@pytest.mark.parametrize("by_kaggle", [True, False])
def test_version_that_is_gone_is_one_sentence(
    code: int, by_kaggle: bool, fetch: Kaggle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.serve(BODY, servers.status(code)) as server:
        if by_kaggle:
            monkeypatch.setattr(variants, "KAGGLE_ROOT", server.root)
        with pytest.raises(DownloadError, match=rf"a0-base-kinetics-600.*/3/download.*{code}"):
            fetch(server.root)
    assert len(server.paths) == 1
    fetch.assert_nothing_unfinished(cache)


def test_signature_is_in_no_log_and_no_traceback(
    fetch: Kaggle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with servers.serve(BODY, servers.whole) as storage:
        fetch(storage.root).path.unlink()
    with pytest.raises(DownloadError) as caught:
        fetch("http://127.0.0.1:1")
    assert "c0ffee" not in caplog.text
    chained = traceback.format_exception(caught.value)
    assert "c0ffee" not in "".join(chained)


# Checksums


@pytest.mark.parametrize(
    "values", [(f"crc32c={CRC},md5={MD5}",), (f"crc32c={CRC}", f"md5={MD5}"), ("sha9=x",)], ids=str
)
def test_accepts_right_checksums(fetch: Kaggle, values: tuple[str, ...]) -> None:
    with servers.serve(BODY, goog_hash(*values)) as storage:
        assert fetch(storage.root).sha256 == DIGEST
    assert len(storage.paths) == 1


@pytest.mark.parametrize(
    "values",
    [
        (f"crc32c=AAAAAA==,md5={MD5}",),
        (f"crc32c={CRC}, md5={WRONG_MD5}",),
        (f"crc32c={CRC}", f"md5={WRONG_MD5}"),
        ("md5=?",),
    ],
    ids=str,
)
def test_wrong_checksum_is_a_damaged_transfer(
    fetch: Kaggle, values: tuple[str, ...], cache: Path
) -> None:
    with (
        servers.serve(BODY, goog_hash(*values)) as storage,
        pytest.raises(DownloadError, match=r"do not match.*x-goog-hash\), after 3 attempts"),
    ):
        fetch(storage.root)
    assert len(storage.paths) == 3
    fetch.assert_nothing_unfinished(cache)


def test_damaged_transfer_is_repeated(fetch: Kaggle) -> None:
    right = f"crc32c={CRC}"
    damaged = goog_hash(right, answer=servers.flipped)
    with servers.serve(BODY, damaged, goog_hash(right)) as storage:
        assert fetch(storage.root).sha256 == DIGEST
    assert len(storage.paths) == 2


def test_damaged_first_part_of_a_resume_is_requested_again(fetch: Kaggle) -> None:
    """The second part comes without a checksum, so that of the first must be kept."""
    other = servers.with_a_flipped_bit(BODY[: CHUNK_BYTES * 2]) + BODY[CHUNK_BYTES * 2 :]

    def damaged(handler: servers.Handler, body: bytes) -> None:
        servers.send_range(handler, other, len(body) - 2 * CHUNK_BYTES, servers.entity_tag(body))

    script = (goog_hash(f"md5={MD5}", answer=damaged), servers.with_ranges)
    with servers.serve(BODY, *script) as storage:
        assert fetch(storage.root).sha256 == DIGEST
    assert ["Range" in request for request in storage.requests] == [False, True, False]


def test_checksum_of_compressed_object_is_not_of_the_bytes_received(fetch: Kaggle) -> None:
    def decompressed(handler: servers.Handler, body: bytes) -> None:
        headers = {"x-goog-hash": f"md5={WRONG_MD5}", "x-goog-stored-content-encoding": "gzip"}
        servers.send(handler, 200, body, headers)

    with servers.serve(BODY, decompressed) as storage:
        assert fetch(storage.root).sha256 == DIGEST


# Accounts


def basic(user: str, key: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("environment", "header"),
    [
        ({}, None),
        ({"KAGGLE_API_TOKEN": "KGAT_hush\n"}, "Bearer KGAT_hush"),
        ({"KAGGLE_USERNAME": "ann", "KAGGLE_KEY": "hush"}, basic("ann", "hush")),
        ({"KAGGLE_USERNAME": "ann"}, None),
    ],
    ids=str,
)
def test_account_is_sent_to_kaggle_alone(
    environment: dict[str, str],
    header: str | None,
    fetch: Kaggle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root).path.unlink()
        assert fetch.requests[0].get("Authorization") == header
        fetch_from(server.root)
        monkeypatch.setattr(variants, "MODEL_GARDEN_ROOT", server.root)
        fetch_from("model-garden").path.unlink()
    assert all("Authorization" not in request for request in server.requests)


def test_account_token_may_be_in_a_file(
    fetch: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("KGAT_hush\n")
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(tmp_path / "token"))
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root)
    assert fetch.requests[0]["Authorization"] == "Bearer KGAT_hush"


def test_refused_account_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_hush")
    with servers.serve(BODY, servers.status(401)) as server:
        monkeypatch.setattr(variants, "KAGGLE_ROOT", server.root)
        with pytest.raises(DownloadError, match=r"refuses the account of \$KAGGLE_API_TOKEN: 401"):
            fetch_from("kaggle")


@pytest.mark.parametrize("token", ["two hush", "hüsh", "a\nhush", "hush" * 5000])
def test_text_that_is_no_token_is_a_usage_error(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(UsageError, match=r"\$KAGGLE_API_TOKEN is not what") as caught:
        fetch_from("kaggle")
    assert "hush" not in str(caught.value)


def test_password_in_netrc_is_not_sent_to_the_official_sources(
    fetch: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root)
        monkeypatch.setattr(variants, "MODEL_GARDEN_ROOT", server.root)
        fetch_from("model-garden").path.unlink()
        requests = [*fetch.requests, *server.requests]
        assert all("Authorization" not in request for request in requests)
        fetch_from(server.root)  # a mirror may need it
    assert server.requests[-1]["Authorization"] == basic("me", "hush")


def test_password_in_netrc_is_not_sent_to_target_of_redirect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(target.root)) as server,
    ):
        fetch_from(server.root)
    assert "Authorization" in server.requests[0]
    assert "Authorization" not in target.requests[0]
