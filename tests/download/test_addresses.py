"""Where a release may come from: URLs, redirects, proxies, folders; and what stays secret."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from movinet_convert.download.fetch import fetch_release
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.model.settings import get_variant
from tests.download.fetching import (
    ARCHIVE,
    BODY,
    DIGEST,
    PINNED,
    SHORT_LIMITS,
    VARIANT,
    fetch_from,
)
from tests.helpers import fetch_server as servers


def test_follows_redirect() -> None:
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(f"{target.root}/elsewhere.tar")) as server,
    ):
        assert fetch_from(server.root).sha256 == DIGEST
    assert target.paths == ["/models/elsewhere.tar"]


def test_gives_up_on_redirect_loop() -> None:
    with (
        servers.serve(b"", servers.redirect("/models/movinet_a0_base.tar.gz")) as server,
        pytest.raises(DownloadError, match="redirects"),
    ):
        fetch_from(server.root)


@pytest.mark.parametrize("target", ["ftp://host/a?sig=secret", "file:///etc/passwd", "gopher:x"])
def test_does_not_follow_redirect_to_other_scheme(target: str) -> None:
    with (
        servers.serve(b"", servers.redirect(target)) as server,
        pytest.raises(DownloadError, match="redirects from http to .* not followed") as caught,
    ):
        fetch_from(server.root)
    assert "secret" not in str(caught.value)
    assert len(server.paths) == 1


def test_does_not_read_body_of_redirect() -> None:
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect_with_endless_body(f"{target.root}/x")) as server,
    ):
        assert fetch_from(server.root).sha256 == DIGEST


def test_does_not_forward_password_to_another_server() -> None:
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(target.root)) as server,
    ):
        fetch_from(server.root.replace("//", "//user:secret@"))
    assert "Authorization" in server.requests[0]
    assert "Authorization" not in target.requests[0]


def test_does_not_follow_redirect_from_https_to_http(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(target.root), certificate=certificate) as server,
        pytest.raises(DownloadError, match=r"from https to http:.*not followed"),
    ):
        fetch_from(server.root)
    assert target.paths == []


def test_refuses_untrusted_certificate_without_retry(certificate: Path) -> None:
    with (
        servers.serve(BODY, servers.whole, certificate=certificate) as server,
        pytest.raises(DownloadError, match="certificate of 127.0.0.1 is not trusted: self-signed"),
    ):
        fetch_from(server.root)
    assert server.paths == []


def test_uses_proxy_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serve(BODY, servers.whole) as proxy:
        monkeypatch.setenv("http_proxy", proxy.root.removesuffix("/models"))
        assert fetch_from("http://models.invalid/movinet").sha256 == DIGEST
    assert proxy.paths == ["http://models.invalid/movinet/movinet_a0_base.tar.gz"]


def test_sends_query_of_source_root_but_never_shows_it() -> None:
    with (
        servers.serve(BODY, servers.status(403)) as server,
        pytest.raises(DownloadError) as caught,
    ):
        fetch_from(f"{server.root}?token=secret")
    assert server.paths == ["/models/movinet_a0_base.tar.gz?token=secret"]
    assert "secret" not in str(caught.value)


def test_never_shows_password_of_source_root(cache: Path) -> None:
    with servers.serve(servers.release_tar(), servers.whole) as server:
        fetched = fetch_from(server.root.replace("//", "//user:secret@"), None)
    assert "Authorization" in server.requests[0]
    assert "secret" not in fetched.address
    assert "secret" not in (cache / "recorded_digests.json").read_text()


def test_accepts_folder_as_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "Spiegel der Gewichte ü"
    mirror.mkdir()
    (mirror / ARCHIVE).write_bytes(BODY)
    fetched = fetch_from(mirror)
    assert fetched.sha256 == DIGEST
    assert fetched.path.parent == tmp_path / "cache"


def test_accepts_file_url_as_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    (mirror / ARCHIVE).write_bytes(BODY)
    assert fetch_from(mirror.as_uri()).sha256 == DIGEST


def test_refuses_pipe_in_place_of_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ARCHIVE)
    with pytest.raises(DownloadError, match=r"movinet_a0_base\.tar\.gz is a named pipe"):
        fetch_from(tmp_path)


def test_folder_without_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"No such file.*published names"):
        fetch_from(tmp_path)


@pytest.mark.parametrize("variable", ["MOVINET_SOURCE", "MOVINET_SOURCE_ROOT"])
def test_reads_mirror_from_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = {"model-garden": PINNED}
    with servers.serve(BODY, servers.whole) as server:
        monkeypatch.setenv(variable, server.root)
        assert fetch_release(VARIANT, known=pins, limits=SHORT_LIMITS).sha256 == DIGEST


def test_source_root_is_an_alias_of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVINET_SOURCE", "model-garden")  # an argument comes first
    (tmp_path / ARCHIVE).write_bytes(BODY)
    found = fetch_release(VARIANT, source_root=tmp_path, known={"model-garden": PINNED})
    assert found.sha256 == DIGEST


def test_two_different_sources_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--source and --source-root name the same thing"):
        fetch_release(VARIANT, source="kaggle", source_root="mirror")
    monkeypatch.setenv("MOVINET_SOURCE", "auto")
    monkeypatch.setenv("MOVINET_SOURCE_ROOT", "mirror")
    with pytest.raises(UsageError, match=r"\$MOVINET_SOURCE and \$MOVINET_SOURCE_ROOT name the"):
        fetch_release(VARIANT)


@pytest.mark.parametrize("root", ["ftp://host/x", "http://", "http://[bad/x", "file://far/x"])
def test_source_root_that_is_neither_url_nor_folder_is_a_usage_error(root: str) -> None:
    with pytest.raises(UsageError, match=r"\(--source or \$MOVINET_SOURCE\) must be auto"):
        fetch_from(root)


def test_variant_without_release_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="t0-base was never released"):
        fetch_from("http://127.0.0.1:1", variant=get_variant("t0-base"))


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (socket.gaierror(socket.EAI_NONAME, "No such name"), 1),
        (socket.gaierror(socket.EAI_AGAIN, "No such name"), 2),
        (OSError(errno.ENETUNREACH, "No such name"), 2),
    ],
)
def test_fails_fast_without_network_or_host(
    error: OSError, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unresolved(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(DownloadError, match=r"No such name.*\); check the network"):
        fetch_from("http://models.invalid", limits=replace(SHORT_LIMITS, attempts=5))
    assert asked == ["models.invalid"] * tries
