"""``movinet-convert fetch``, and the download as a step of a conversion."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli.app import main
from movinet_convert.variants import RELEASES
from tests.download.fetching import ARCHIVE, BODY, DIGEST, PINNED, VARIANT
from tests.helpers import fetch_server as servers


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served archive as if its digest were published."""
    monkeypatch.setitem(RELEASES, VARIANT.name, PINNED)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_command_downloads_and_reports_recorded_digest(cache: Path) -> None:
    body = servers.release_tar(VARIANT.name)
    digest = hashlib.sha256(body).hexdigest()
    with servers.serve(body, servers.whole) as server:
        first = command("fetch", "a0-base", "--source-root", server.root)
        again = command("fetch", "a0-base", "--offline")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout == again.stdout == f"a0-base  {digest}  {cache / ARCHIVE}\n"
    assert f"{digest} is recorded and trusted" in first.stderr
    assert again.stderr == ""


def test_command_reports_downloads_as_json(cache: Path, published: None) -> None:
    with servers.serve(BODY, servers.whole) as server:
        done = command("fetch", "a0-base", "--source-root", server.root, "--json")
    (row,) = json.loads(done.stdout)["fetched"]
    assert row["path"] == str(cache / ARCHIVE)
    assert (row["sha256"], row["bytes"], row["pinned"]) == (DIGEST, len(BODY), True)
    assert not row["first_use"]


def test_command_fails_with_one_sentence() -> None:
    with servers.serve(BODY, servers.status(404)) as server:
        done = command("fetch", "a0-base", "--source-root", server.root)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def mirror(tmp_path: Path, published: None) -> str:
    """A folder that lacks a0-stream."""
    (tmp_path / ARCHIVE).write_bytes(BODY)
    return str(tmp_path)


def test_failed_release_does_not_stop_the_others(mirror: str, cache: Path) -> None:
    done = command("fetch", "a0-stream", "a0-base", "--source-root", mirror)
    assert done.exit_code == 1
    assert done.stdout == f"a0-base  {DIGEST}  {cache / ARCHIVE}\n"
    first, last = done.stderr.splitlines()
    assert "movinet_a0_stream.tar.gz cannot be read (No such file or directory)" in first
    assert last == "Error: 1 of 2 releases could not be fetched: a0-stream."


def test_reports_failures_as_json(mirror: str) -> None:
    done = command("fetch", "a0-stream", "a0-base", "--source-root", mirror, "--json")
    output = json.loads(done.stdout)
    assert done.exit_code == output["exit_code"] == 1
    assert [row["variant"] for row in output["fetched"]] == ["a0-base"]
    assert list(output["failed"]) == ["a0-stream"]
    assert "No such file" in output["failed"]["a0-stream"]


def test_command_announces_retry(published: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("movinet_convert.download.http.time.sleep", lambda _: None)
    with servers.serve(BODY, servers.status(503), servers.whole) as server:
        done = command("fetch", "a0-base", "--source-root", server.root)
    assert done.exit_code == 0
    assert (
        "the server failed: 503 Service Unavailable; trying again in 1 s (attempt 2 of 5)."
        in done.stderr
    )


def test_main_command_downloads_release_to_convert(tmp_path: Path) -> None:
    options = ["--arch", "a0", "--causal", "--no-verify", "--out", str(tmp_path), "--json"]
    with servers.serve(servers.release_tar("a0-stream"), servers.whole) as server:
        done = command(*options, "--source-root", server.root)
    assert done.exit_code == 0, done.stderr
    source = json.loads(done.stdout)["source"]
    assert source["name"] == "movinet_a0_stream.tar.gz"
    assert source["archive_sha256"] == hashlib.sha256(server.body).hexdigest()
    assert command(*options, "--offline").exit_code == 0
