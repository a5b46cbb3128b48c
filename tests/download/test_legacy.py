"""The older releases of stream models, with 3D convolutions: the Model Garden's alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from movinet_convert import variants
from movinet_convert.cli.app import main
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.model.settings import get_variant
from tests.download.fetching import fetch_from
from tests.helpers import fetch_server as servers

STREAM = get_variant("a0-stream")


@pytest.fixture
def garden(monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.ReleaseServer]:
    """A Model Garden whose legacy A0 has, like the real one, the variables of a base model."""
    with servers.serve(servers.release_tar("a0-base"), servers.whole) as server:
        monkeypatch.setattr(variants, "MODEL_GARDEN_ROOT", server.root)
        yield server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_fetch_downloads_legacy_release(garden: servers.ReleaseServer, cache: Path) -> None:
    done = run("fetch", "a0-stream", "--legacy", "--json")
    assert done.exit_code == 0, done.output
    assert garden.paths == ["/models/movinet_a0_stream_legacy.tar.gz"]
    assert "a0-stream (legacy): downloading from Model Garden at 127.0.0.1." in done.stderr
    (row,) = json.loads(done.stdout)["fetched"]
    assert (row["variant"], row["legacy"], row["source"]) == ("a0-stream", True, "model-garden")
    assert row["path"] == str(cache / "movinet_a0_stream_legacy.tar.gz")


def test_main_command_downloads_legacy_release(
    garden: servers.ReleaseServer, tmp_path: Path
) -> None:
    job = ("--arch", "a0", "--causal", "--legacy", "--no-verify", "--json", "--out", str(tmp_path))
    done = run(*job)
    assert done.exit_code == 0, done.output
    entry = json.loads(done.stdout)
    assert (entry["settings"]["conv_type"], entry["settings"]["gating"]) == ("3d", "sigmoid")
    assert entry["settings"]["causal"]
    assert entry["source"]["url"] == f"{garden.root}/movinet_a0_stream_legacy.tar.gz"
    assert entry["source"]["kind"] == "unpinned"
    assert not json.loads(run(*job, "--offline").stdout)["created"]


def test_legacy_release_of_another_network_is_refused(garden: servers.ReleaseServer) -> None:
    garden.body = servers.release_tar("a0-stream")
    with pytest.raises(DownloadError, match=r"not a release of a0-stream \(legacy\)"):
        fetch_from("auto", None, variant=STREAM, legacy=True)


def test_digest_of_release_does_not_pin_the_legacy_one(garden: servers.ReleaseServer) -> None:
    a2 = get_variant("a2-stream")
    garden.body = servers.release_tar("a2-base")
    assert not fetch_from("auto", None, variant=a2, legacy=True).pinned


def test_mirror_may_have_legacy_release(tmp_path: Path) -> None:
    (tmp_path / STREAM.legacy_archive_name).write_bytes(servers.release_tar("a0-base"))
    fetched = fetch_from(tmp_path, None, variant=STREAM, legacy=True)
    assert (fetched.source, fetched.legacy) == ("mirror", True)


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("a0-stream", "kaggle", "Kaggle has no legacy release of a0-stream"),
        ("a0-base", "auto", "a0-base has no legacy release, only stream models have"),
        ("t0-stream", "auto", "t0-stream was never released"),
    ],
)
def test_legacy_release_that_is_nowhere_is_a_usage_error(
    name: str, source: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        fetch_from(source, variant=get_variant(name), legacy=True)


def test_all_legacy_releases_are_those_of_stream_models(garden: servers.ReleaseServer) -> None:
    assert run("fetch", "--all", "--legacy").exit_code == 1  # the others are not A0
    assert garden.paths == [f"/models/movinet_a{n}_stream_legacy.tar.gz" for n in range(6)]
