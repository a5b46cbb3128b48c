"""``movinet-convert fetch``, and a download as part of the main job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli import main
from movinet_convert.variants import RELEASES
from tests import fetch_server as servers
from tests.fetch.fetching import ARCHIVE, BODY, DIGEST, PINNED, VARIANT


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served archive as if its digest were published."""
    monkeypatch.setitem(RELEASES, VARIANT.name, PINNED)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_fetches_and_says_when_a_digest_was_recorded(cache: Path) -> None:
    body = servers.release_tar(VARIANT.name)
    digest = hashlib.sha256(body).hexdigest()
    with servers.serve(body, servers.whole) as server:
        first = command("fetch", "a0-base", "--source-root", server.root)
        again = command("fetch", "a0-base", "--offline")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout == again.stdout == f"a0-base  {digest}  {cache / ARCHIVE}\n"
    assert f"{digest} is trusted and recorded" in first.stderr
    assert again.stderr == ""


def test_the_command_reports_what_it_fetched_as_json(cache: Path, published: None) -> None:
    with servers.serve(BODY, servers.whole) as server:
        done = command("fetch", "a0-base", "--source-root", server.root, "--json")
    (row,) = json.loads(done.stdout)["fetched"]
    assert row["path"] == str(cache / ARCHIVE)
    assert (row["sha256"], row["bytes"]) == (DIGEST, len(BODY))
    assert not row["first_use"]


def test_the_command_fails_with_one_sentence() -> None:
    with servers.serve(BODY, servers.status(404)) as server:
        done = command("fetch", "a0-base", "--source-root", server.root)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_the_main_job_downloads_what_it_converts(tmp_path: Path) -> None:
    options = ["--arch", "a0", "--causal", "--no-verify", "--out", str(tmp_path), "--json"]
    with servers.serve(servers.release_tar("a0-stream"), servers.whole) as server:
        done = command(*options, "--source-root", server.root)
    assert done.exit_code == 0, done.stderr
    source = json.loads(done.stdout)["source"]
    assert source["name"] == "movinet_a0_stream.tar.gz"
    assert source["archive_sha256"] == hashlib.sha256(server.body).hexdigest()
    assert command(*options, "--offline").exit_code == 0
