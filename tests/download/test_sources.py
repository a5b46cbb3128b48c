"""The two official sources, played by two servers and a storage host: which one is taken, and why.

``auto`` tries the Model Garden, then Kaggle, which redirects to a signed address.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from movinet_convert import variants
from movinet_convert.cli.app import main
from movinet_convert.conversion.sources import Source, release
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.download import fetch as fetch_module
from movinet_convert.download.fetch import FetchedRelease
from movinet_convert.errors import CacheError, DownloadError
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import KINETICS_600_CLASSES
from tests.download.fetching import (
    ARCHIVE,
    BODY,
    DIGEST,
    KAGGLE_ARCHIVE,
    SHORT_LIMITS,
    SHORT_TIMEOUT,
    SIGNATURE,
    fetch_from,
)
from tests.helpers import fetch_server as servers

FORBIDDEN = servers.status(403)


@dataclass
class Hosts:
    """The Model Garden and Kaggle; ``storage`` is where Kaggle redirects to."""

    model_garden: servers.ReleaseServer
    kaggle: servers.ReleaseServer
    storage: servers.ReleaseServer
    said: list[str] = field(default_factory=list)

    def fetch(self, source: str = "auto", **options: Any) -> FetchedRelease:
        return fetch_from(source, notice=self.said.append, **options)


@contextmanager
def hosts(
    model_garden: servers.Answer = FORBIDDEN,
    storage: servers.Answer = servers.whole,
    kaggle: servers.Answer | None = None,
) -> Iterator[Hosts]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        store = stack.enter_context(servers.serve(BODY, storage))
        redirect = servers.redirect(f"{store.root}/object?{SIGNATURE}")
        front = stack.enter_context(servers.serve(BODY, kaggle or redirect))
        garden = stack.enter_context(servers.serve(BODY, model_garden))
        patch.setattr(variants, "MODEL_GARDEN_ROOT", garden.root)
        patch.setattr(variants, "KAGGLE_ROOT", front.root)
        yield Hosts(garden, front, store)


def unreachable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the host of one source a name that nobody resolves."""
    monkeypatch.setattr(variants, name, "http://models.invalid/x")
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *more: Any, **options: Any) -> Any:
        if host == "models.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_takes_model_garden_if_it_answers(cache: Path) -> None:
    with hosts(model_garden=servers.whole) as official:
        fetched = official.fetch()
    assert fetched.path == cache / ARCHIVE
    assert (fetched.source, fetched.version) == ("model-garden", None)
    assert fetched.address == f"{official.model_garden.root}/{ARCHIVE}"
    assert official.said == ["a0-base: downloading from Model Garden at 127.0.0.1."]
    assert official.kaggle.paths == []


def test_takes_pinned_version_of_kaggle_if_model_garden_refuses(cache: Path) -> None:
    with hosts() as official:
        fetched = official.fetch()
    assert fetched.path == cache / KAGGLE_ARCHIVE
    assert fetched.path.read_bytes() == BODY
    assert (fetched.source, fetched.version, fetched.sha256) == ("kaggle", 3, DIGEST)
    assert fetched.address.endswith("/a0-base-kinetics-600-classification/3/download")
    assert official.said == [
        "a0-base: downloading from Model Garden at 127.0.0.1.",
        "a0-base: downloading from Kaggle, version 3 at 127.0.0.1 (Model Garden failed: the server "
        "refuses access: 403 Forbidden).",
    ]
    assert len(official.model_garden.paths) == 1


@pytest.mark.parametrize("source", ["model-garden", "kaggle"])
def test_named_source_has_no_substitute(source: str) -> None:
    missing = servers.status(404)
    with (
        hosts(model_garden=missing, storage=missing) as official,
        pytest.raises(DownloadError, match="has no such file: 404"),
    ):
        official.fetch(source)
    assert bool(official.model_garden.paths) == (source == "model-garden")
    assert bool(official.kaggle.paths) == (source == "kaggle")


STATUSES = {
    401: "the server asks for an account: 401 Unauthorized",
    403: "the server refuses access: 403 Forbidden",
    404: "the server has no such file: 404 Not Found",
    410: "the server has removed the file: 410 Gone",
    429: "the server accepts no more requests for now: 429 Too Many Requests, after 2 attempts",
    503: "the server failed: 503 Service Unavailable, after 2 attempts",
}


@pytest.mark.parametrize(("status", "reason"), STATUSES.items())
def test_each_status_has_its_sentence(status: int, reason: str) -> None:
    with hosts(model_garden=servers.status(status)) as official:
        official.fetch()
    assert f"(Model Garden failed: {reason})." in official.said[-1]


def test_unresolved_host_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts() as official, monkeypatch.context() as patch:
        unreachable(patch, "MODEL_GARDEN_ROOT")
        official.fetch()
    reason = "the name models.invalid cannot be resolved: Name or service not known"
    assert f"(Model Garden failed: {reason})." in official.said[-1]


def test_untrusted_certificate_has_its_sentence(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        hosts() as official,
        servers.serve(BODY, servers.whole, certificate=certificate) as server,
        monkeypatch.context() as patch,
    ):
        patch.setattr(variants, "MODEL_GARDEN_ROOT", server.root)
        official.fetch()
    assert "the certificate of 127.0.0.1 is not trusted: self-signed" in official.said[-1]


def test_server_without_tls_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts() as official, monkeypatch.context() as patch:
        root = official.model_garden.root.replace("http:", "https:")
        patch.setattr(variants, "MODEL_GARDEN_ROOT", root)
        official.fetch()
    assert "no TLS connection to 127.0.0.1" in official.said[-1]


def test_error_names_why_both_sources_failed(cache: Path) -> None:
    with hosts(kaggle=servers.status(410)) as official, pytest.raises(DownloadError) as caught:
        official.fetch()
    assert str(caught.value) == (
        "a0-base could not be downloaded from any official source (Model Garden: the server "
        "refuses access: 403 Forbidden; Kaggle, version 3: the server has removed the file: 410 "
        "Gone); check the network and the proxy settings, pass a mirror with --source, or download "
        "the file yourself and pass it with --checkpoint."
    )
    assert [path.suffix for path in cache.iterdir()] in ([], [".lock"], [".lock", ".lock"])


def test_silent_first_source_does_not_hold_up_the_second() -> None:
    release = threading.Event()
    start = time.monotonic()
    with hosts(model_garden=servers.stalled(release)) as official:
        assert official.fetch(limits=SHORT_TIMEOUT).source == "kaggle"
        release.set()
    assert len(official.model_garden.paths) == 2
    assert time.monotonic() - start < 5


def test_limits_of_a_source_with_substitute_stay_below_a_minute() -> None:
    limits = fetch_module.Limits().with_fallback()
    attempt = max(limits.connect_seconds + limits.read_seconds, limits.rate_seconds)
    pause = max(limits.first_pause_seconds, limits.longest_retry_after)
    assert limits.attempts * attempt + (limits.attempts - 1) * pause < 60


def test_slow_source_that_fails_is_tried_last_from_then_on(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(fetch_module, "SLOW_SECONDS", 0.0)
    failing: dict[str, str] = {}
    with hosts() as official:
        for _ in range(2):
            official.fetch(failing=failing).path.unlink()
    assert len(official.model_garden.paths) == 1
    assert official.said[1] == official.said[2]


@pytest.mark.parametrize("first", ["model-garden", "kaggle"])
def test_auto_takes_what_is_in_the_cache_from_either_source(first: str) -> None:
    with hosts(model_garden=servers.whole) as official:
        fetched = official.fetch(first)
    with hosts(model_garden=FORBIDDEN, kaggle=FORBIDDEN) as official:
        assert official.fetch().path == fetched.path
        assert official.fetch(offline=True).path == fetched.path
    assert official.said == official.model_garden.paths == official.kaggle.paths == []


def test_auto_offline_names_both_files_that_are_missing() -> None:
    pattern = rf"{ARCHIVE} and .*{KAGGLE_ARCHIVE} do not exist and downloads are off"
    with hosts() as official, pytest.raises(DownloadError, match=pattern):
        official.fetch(offline=True)


def test_unusable_cache_is_reported_without_trying_the_other_source(cache: Path) -> None:
    cache.mkdir()
    (cache / "recorded_digests.json").write_text("[")
    with hosts(model_garden=servers.whole) as official, pytest.raises(CacheError):
        official.fetch(known=None)
    assert official.kaggle.paths == []


def test_removes_partial_file_of_a_source_that_failed(cache: Path) -> None:
    with hosts(model_garden=servers.cut_with_ranges) as official:
        assert official.fetch(limits=replace(SHORT_LIMITS, attempts=1)).source == "kaggle"
    assert {path.name for path in cache.iterdir() if path.suffix != ".lock"} == {KAGGLE_ARCHIVE}


def test_cached_release_says_where_it_came_from() -> None:
    body = servers.release_tar()
    with hosts() as official:
        official.storage.body = body
        first = official.fetch(known=None)
        again = official.fetch(known=None, offline=True)
    assert again == replace(first, first_use=False, downloaded=False)
    assert not first.pinned


def test_command_prints_source_and_why() -> None:
    with hosts(model_garden=servers.status(404)) as official:
        official.storage.body = servers.release_tar()
        done = CliRunner().invoke(main, ["fetch", "a0-base", "--json"])
    assert done.exit_code == 0, done.stderr
    assert (
        "a0-base: downloading from Kaggle, version 3 at 127.0.0.1 (Model Garden failed: "
        in done.stderr
    )
    (row,) = json.loads(done.stdout)["fetched"]
    assert (row["source"], row["version"]) == ("kaggle", 3)
    assert "c0ffee" not in done.output


@pytest.mark.parametrize(
    "options", [("--source", "kaggle", "--source-root", "mirror"), ("--source", "ftp://host")]
)
def test_bad_source_options_are_usage_errors(options: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["fetch", "a0-base", *options]).exit_code == 2


def converted(source: str, folder: Path) -> dict[str, Any]:
    options = ["--arch", "a0", "--no-verify", "--out", str(folder), "--json", "--source", source]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    output: dict[str, Any] = json.loads(done.stdout)
    return output


@pytest.mark.parametrize("name", ["a0-base", "a0-stream"])
def test_official_saved_model_from_kaggle_has_the_tensors_of_the_checkpoint(
    name: str, synthetic_archive: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    from movinet_convert.parity.reference import shared_reference
    from tests.checkpoint.writers import kaggle_archive

    variant = get_variant(name)
    garden = convert_checkpoint(Source(synthetic_archive(name), "synthetic", "synthetic"))
    reference = shared_reference(variant, variant.settings(), KINETICS_600_CLASSES)
    reference.load(garden.variables)
    with hosts() as official:
        official.storage.body = kaggle_archive(reference.model, name, tmp_path).read_bytes()
        fetched = official.fetch(known=None, variant=variant)
    from_kaggle = convert_checkpoint(release(fetched), name=name)
    assert from_kaggle.checkpoint.layout == "tfhub-saved-model"
    assert from_kaggle.digest == garden.digest


def test_both_sources_convert_to_the_same_bytes(tmp_path: Path) -> None:
    with hosts(model_garden=servers.whole) as official:
        official.storage.body = official.model_garden.body = servers.release_tar()
        garden = converted("model-garden", tmp_path / "garden")
        kaggle = converted("kaggle", tmp_path / "kaggle")
    assert garden["sha256"] == kaggle["sha256"]
    assert (garden["source"]["fetched_from"], garden["source"]["version"]) == ("model-garden", None)
    assert (kaggle["source"]["fetched_from"], kaggle["source"]["version"]) == ("kaggle", 3)
    assert kaggle["source"]["url"].endswith("/a0-base-kinetics-600-classification/3/download")
    assert "c0ffee" not in (tmp_path / "kaggle" / "weights_manifest.yaml").read_text()
