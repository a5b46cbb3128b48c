"""Fetching releases: from servers that misbehave, mirrors, and a cache that runs share."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli import main
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.fetch import FetchedRelease, Patience, fetch_release
from movinet_convert.transfer import CHUNK_BYTES
from movinet_convert.variants import RELEASES, Release, get_variant
from tests import fetch_server as servers
from tests.seeded import write_checkpoint

UNKNOWN = get_variant("a0-base")  # nobody recorded the digest of this release
KNOWN = get_variant("a2-base")
IMPATIENT = Patience(
    connect_seconds=10, read_seconds=10, attempts=3, first_pause_seconds=0.01, lock_seconds=30
)
IN_NO_TIME = replace(IMPATIENT, read_seconds=0.5)
BODY = servers.release_tar()
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy_and_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "requests_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("MOVINET_SOURCE_ROOT", raising=False)
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served archive as if it were the one whose digest is known."""
    monkeypatch.setitem(RELEASES, KNOWN.name, Release(len(BODY), DIGEST))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with the openssl command")
    folder = tmp_path_factory.mktemp("certificate")
    key, signed, both = folder / "key.pem", folder / "signed.pem", folder / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    target = ["-keyout", str(key), "-out", str(signed)]
    subprocess.run([*command.split(), *names, *target], check=True, capture_output=True)
    both.write_text(key.read_text() + signed.read_text())
    return both


def fetch(root: object, **options: Any) -> FetchedRelease:
    variant = options.pop("variant", UNKNOWN)
    patience = options.pop("patience", IMPATIENT)
    return fetch_release(variant, source_root=str(root), patience=patience, **options)


def assert_nothing_unfinished(cache: Path) -> None:
    left = {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}
    assert left <= {UNKNOWN.archive_name, KNOWN.archive_name, "recorded_digests.json"}


# What a server may do


def test_a_plain_tar_under_a_tar_gz_name_is_kept_as_it_is(cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        fetched = fetch(server.root)
    assert server.paths == ["/models/movinet_a0_base.tar.gz"]
    assert fetched.path == cache / "movinet_a0_base.tar.gz"
    assert fetched.path.read_bytes() == BODY
    assert (fetched.sha256, fetched.bytes) == (DIGEST, len(BODY))
    assert fetched.downloaded
    assert_nothing_unfinished(cache)


@pytest.mark.parametrize("answer", [servers.gzip_encoding, servers.gzip_file])
def test_a_compressed_archive_is_unpacked_and_has_the_digest_of_the_tar(
    answer: servers.Answer, published: None
) -> None:
    with servers.serve(BODY, answer) as server:
        fetched = fetch(server.root, variant=KNOWN)
    assert fetched.path.read_bytes() == BODY
    assert fetched.sha256 == DIGEST


def test_a_server_error_is_tried_again() -> None:
    with servers.serve(BODY, servers.status(500), servers.status(503), servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert len(server.paths) == 3


def test_a_server_that_keeps_failing_is_given_up_after_the_attempts_allowed(cache: Path) -> None:
    with (
        servers.serve(BODY, servers.status(500)) as server,
        pytest.raises(DownloadError, match=r"answered 500 Internal Server Error, after 3 tries"),
    ):
        fetch(server.root)
    assert len(server.paths) == 3
    assert not (cache / UNKNOWN.archive_name).exists()


def test_a_missing_file_is_not_tried_again(cache: Path) -> None:
    with (
        servers.serve(BODY, servers.status(404)) as server,
        pytest.raises(DownloadError, match=r"movinet_a0_base\.tar\.gz .*answered 404 Not Found"),
    ):
        fetch(server.root)
    assert len(server.paths) == 1
    assert_nothing_unfinished(cache)


def test_a_cut_transfer_goes_on_where_it_stopped() -> None:
    with servers.serve(BODY, servers.cut_with_ranges, servers.with_ranges) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[0]
    whole_chunks = len(BODY) // 2 // CHUNK_BYTES * CHUNK_BYTES
    assert server.requests[1]["Range"] == f"bytes={whole_chunks}-"


def test_a_cut_transfer_starts_again_where_the_server_knows_no_ranges() -> None:
    with servers.serve(BODY, servers.cut_without_ranges, servers.whole) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[1]


def test_a_cut_transfer_starts_again_where_the_file_changed_in_between() -> None:
    other = servers.release_tar(b"other weights")

    def changed(handler: servers.Handler, _: bytes) -> None:
        servers.with_ranges(handler, other)

    with servers.serve(BODY, servers.cut_with_ranges, changed) as server:
        assert fetch(server.root).path.read_bytes() == other


def test_a_cut_transfer_starts_again_where_the_server_encodes() -> None:
    with servers.serve(BODY, servers.cut_gzip_encoding, servers.gzip_encoding) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[1]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up() -> None:
    with servers.serve(BODY, servers.cut_with_ranges) as server:
        with pytest.raises(DownloadError):
            fetch(server.root)
        server.script[:] = [servers.with_ranges]
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" in server.requests[-1]


def test_bytes_kept_from_an_earlier_run_that_went_bad_are_fetched_again(
    cache: Path, published: None
) -> None:
    with servers.serve(BODY, servers.cut_with_ranges) as server:
        with pytest.raises(DownloadError):
            fetch(server.root, variant=KNOWN)
        partial = cache / f"{KNOWN.archive_name}.partial"
        partial.write_bytes(bytes(partial.stat().st_size))
        server.script[:] = [servers.with_ranges]
        assert fetch(server.root, variant=KNOWN).sha256 == DIGEST
    assert "Range" in server.requests[-2]
    assert "Range" not in server.requests[-1]


def test_a_range_that_the_server_refuses_leads_to_a_clean_start() -> None:
    script = (servers.cut_with_ranges, servers.status(416), servers.with_ranges)
    with servers.serve(BODY, *script) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert "Range" not in server.requests[2]


def test_an_end_that_nothing_on_the_wire_tells_is_not_trusted(cache: Path) -> None:
    with (
        servers.serve(BODY, servers.cut_without_length) as server,
        pytest.raises(DownloadError, match=r"movinet_a0_base"),
    ):
        fetch(server.root)
    assert_nothing_unfinished(cache)
    assert not (cache / "recorded_digests.json").exists()


def test_a_login_page_in_place_of_the_file_is_not_trusted(cache: Path) -> None:
    with (
        servers.serve(BODY, servers.error_page) as server,
        pytest.raises(DownloadError, match=r"is not a tar archive.*no proxy answers"),
    ):
        fetch(server.root)
    assert_nothing_unfinished(cache)


def test_wrong_bytes_are_refused_with_both_digests(cache: Path, published: None) -> None:
    with (
        servers.serve(BODY, servers.flipped) as server,
        pytest.raises(DownloadError, match=rf"has sha256 [0-9a-f]{{64}} where .* has {DIGEST}"),
    ):
        fetch(server.root, variant=KNOWN)
    assert_nothing_unfinished(cache)
    assert not (cache / KNOWN.archive_name).exists()


def test_a_stalled_transfer_is_tried_again() -> None:
    release = threading.Event()
    with servers.serve(BODY, servers.stalled(release), servers.whole) as server:
        assert fetch(server.root, patience=IN_NO_TIME).sha256 == DIGEST
        release.set()


def test_a_server_that_stays_silent_is_given_up() -> None:
    release = threading.Event()
    with servers.serve(BODY, servers.stalled(release)) as server:
        with pytest.raises(DownloadError, match="the server went silent, after 3 tries"):
            fetch(server.root, patience=IN_NO_TIME)
        release.set()


def test_a_server_that_is_not_there_is_reported_in_one_sentence() -> None:
    with servers.serve(BODY, servers.whole) as server:
        root = server.root
    with pytest.raises(DownloadError, match=r"\(.*Connection refused.*after 3 tries\)") as caught:
        fetch(root)
    assert "\n" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_a_redirect_is_followed() -> None:
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(f"{target.root}/elsewhere.tar")) as server,
    ):
        assert fetch(server.root).sha256 == DIGEST
    assert target.paths == ["/models/elsewhere.tar"]


def test_a_circle_of_redirects_is_given_up() -> None:
    with (
        servers.serve(b"", servers.redirect("/models/movinet_a0_base.tar.gz")) as server,
        pytest.raises(DownloadError, match="redirects"),
    ):
        fetch(server.root)


def test_a_redirect_from_https_to_http_is_not_followed(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        servers.serve(BODY, servers.whole) as target,
        servers.serve(b"", servers.redirect(target.root), certificate=certificate) as server,
        pytest.raises(DownloadError, match=r"from https to http.*is not followed"),
    ):
        fetch(server.root)
    assert target.paths == []


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(certificate: Path) -> None:
    with (
        servers.serve(BODY, servers.whole, certificate=certificate) as server,
        pytest.raises(DownloadError, match="certificate verify failed"),
    ):
        fetch(server.root)
    assert server.paths == []


def test_more_bytes_than_were_published_are_refused(published: None, cache: Path) -> None:
    with (
        servers.serve(BODY + bytes(512), servers.whole) as server,
        pytest.raises(DownloadError, match=f"larger than the {len(BODY):,} bytes"),
    ):
        fetch(server.root, variant=KNOWN)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(published: None, cache: Path) -> None:
    with (
        servers.serve(BODY, servers.gzip_bomb) as server,
        pytest.raises(DownloadError, match=f"larger than the {len(BODY):,} bytes"),
    ):
        fetch(server.root, variant=KNOWN)
    assert_nothing_unfinished(cache)


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serve(BODY, servers.whole) as proxy:
        monkeypatch.setenv("http_proxy", proxy.root.removesuffix("/models"))
        assert fetch("http://models.invalid/movinet").sha256 == DIGEST
    assert proxy.paths == ["http://models.invalid/movinet/movinet_a0_base.tar.gz"]


def test_the_query_of_a_source_root_is_sent_and_stays_secret() -> None:
    with (
        servers.serve(BODY, servers.status(403)) as server,
        pytest.raises(DownloadError) as caught,
    ):
        fetch(f"{server.root}?token=secret")
    assert server.paths == ["/models/movinet_a0_base.tar.gz?token=secret"]
    assert "secret" not in str(caught.value)


def test_the_password_of_a_source_root_stays_secret(cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        fetched = fetch(server.root.replace("//", "//user:secret@"))
    assert "Authorization" in server.requests[0]
    assert "secret" not in fetched.source
    assert "secret" not in (cache / "recorded_digests.json").read_text()


def test_progress_rises_to_the_announced_size() -> None:
    seen: list[tuple[int, int | None]] = []
    with servers.serve(BODY, servers.cut_with_ranges, servers.with_ranges) as server:
        fetch(server.root, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(BODY), len(BODY))


# Mirrors


def test_a_folder_serves_as_a_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "Spiegel der Gewichte ü"
    mirror.mkdir()
    (mirror / UNKNOWN.archive_name).write_bytes(BODY)
    fetched = fetch(mirror)
    assert fetched.sha256 == DIGEST
    assert fetched.path.parent == tmp_path / "cache"


def test_a_file_url_serves_as_a_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    (mirror / UNKNOWN.archive_name).write_bytes(BODY)
    assert fetch(mirror.as_uri()).sha256 == DIGEST


def test_a_folder_without_the_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"No such file.*published names"):
        fetch(tmp_path)


def test_the_environment_names_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serve(BODY, servers.whole) as server:
        monkeypatch.setenv("MOVINET_SOURCE_ROOT", server.root)
        assert fetch_release(UNKNOWN, patience=IMPATIENT).sha256 == DIGEST


@pytest.mark.parametrize("root", ["ftp://host/x", "http://", "http://[bad/x", "file://far/x"])
def test_a_source_root_that_is_neither_url_nor_folder_is_a_usage_error(root: str) -> None:
    with pytest.raises(UsageError, match="source root"):
        fetch(root)


def test_an_architecture_without_a_release_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="t0-base was never released"):
        fetch("http://127.0.0.1:1", variant=get_variant("t0-base"))


# The cache


def test_a_cached_release_needs_no_server() -> None:
    with servers.serve(BODY, servers.whole) as server:
        first = fetch(server.root)
    again = fetch("http://127.0.0.1:1", offline=True)
    assert first.first_use
    assert not again.first_use
    assert not again.downloaded
    assert again.path == first.path


def test_offline_without_the_release_is_an_error_and_asks_no_server() -> None:
    with (
        servers.serve(BODY, servers.whole) as server,
        pytest.raises(DownloadError, match="is not there and downloads are off"),
    ):
        fetch(server.root, offline=True)
    assert server.paths == []


def test_offline_takes_a_folder_as_mirror(tmp_path: Path) -> None:
    (tmp_path / UNKNOWN.archive_name).write_bytes(BODY)
    assert fetch(tmp_path, offline=True).sha256 == DIGEST


def test_a_damaged_cached_file_is_replaced(published: None) -> None:
    with servers.serve(BODY, servers.whole) as server:
        path = fetch(server.root, variant=KNOWN).path
        path.write_bytes(bytes(100))
        assert fetch(server.root, variant=KNOWN).path.read_bytes() == BODY


def test_offline_a_damaged_cached_file_is_an_error(published: None) -> None:
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root, variant=KNOWN).path.write_bytes(bytes(100))
    with pytest.raises(DownloadError, match="is damaged and downloads are off"):
        fetch(server.root, variant=KNOWN, offline=True)


def test_the_first_use_is_recorded_with_its_source(cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        assert fetch(server.root).first_use
    record = json.loads((cache / "recorded_digests.json").read_text())[UNKNOWN.archive_name]
    assert record["sha256"] == DIGEST
    assert record["bytes"] == len(BODY)
    assert record["source"] == f"{server.root}/{UNKNOWN.archive_name}"


def test_a_known_release_is_never_a_first_use(published: None, cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        assert not fetch(server.root, variant=KNOWN).first_use
    assert not (cache / "recorded_digests.json").exists()


def test_another_digest_than_the_recorded_one_is_an_error_that_says_what_to_do() -> None:
    other = servers.release_tar(b"other weights")
    with servers.serve(BODY, servers.whole) as server:
        fetch(server.root).path.unlink()
        server.body = other
        with pytest.raises(DownloadError) as caught:
            fetch(server.root)
    message = str(caught.value)
    assert DIGEST in message
    assert hashlib.sha256(other).hexdigest() in message
    assert "recorded_digests.json" in message


def test_an_archive_that_was_put_into_the_cache_by_hand_is_checked_and_recorded(
    cache: Path,
) -> None:
    cache.mkdir()
    (cache / UNKNOWN.archive_name).write_bytes(BODY)
    assert fetch("http://127.0.0.1:1", offline=True).first_use
    assert not fetch("http://127.0.0.1:1", offline=True).first_use


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {}}', "\xff", "[" * 100_000])
def test_a_damaged_record_is_an_error_that_names_it(cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "recorded_digests.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DownloadError, match=r"recorded_digests\.json is damaged; delete it"):
        fetch("http://127.0.0.1:1")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": 1}', "[" * 100_000])
def test_a_damaged_note_beside_an_unfinished_download_leads_to_a_clean_start(
    cache: Path, text: str
) -> None:
    cache.mkdir()
    (cache / f"{UNKNOWN.archive_name}.partial").write_bytes(b"junk")
    (cache / f"{UNKNOWN.archive_name}.partial.json").write_text(text)
    with servers.serve(BODY, servers.with_ranges) as server:
        assert fetch(server.root).sha256 == DIGEST


def test_a_cache_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be used .*MOVINET_CACHE_DIR"):
        fetch("http://127.0.0.1:1", cache_dir=tmp_path / "file" / "cache")


def _fetch_in_a_process(root: str, results: Any, name: str = UNKNOWN.name) -> None:
    fetched = fetch(root, variant=get_variant(name))
    results.put((os.getpid(), fetched.sha256, fetched.downloaded))


def test_two_processes_share_one_download() -> None:
    def slowly(handler: servers.Handler, body: bytes) -> None:
        threading.Event().wait(0.2)
        servers.whole(handler, body)

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with servers.serve(BODY, slowly) as server:
        runs = [
            context.Process(target=_fetch_in_a_process, args=(server.root, results))
            for _ in range(2)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(30)
        outcomes = [results.get() for _ in runs]
    assert len(server.paths) == 1
    assert {digest for _, digest, _ in outcomes} == {DIGEST}
    assert sorted(downloaded for _, _, downloaded in outcomes) == [False, True]


def test_first_uses_at_the_same_time_are_all_recorded(cache: Path) -> None:
    names = ["a0-base", "a0-stream", "a1-stream", "a4-base"]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with servers.serve(BODY, servers.whole) as server:
        runs = [
            context.Process(target=_fetch_in_a_process, args=(server.root, results, name))
            for name in names
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(30)
    recorded = json.loads((cache / "recorded_digests.json").read_text())
    assert set(recorded) == {get_variant(name).archive_name for name in names}


# The command


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_fetches_and_says_when_a_digest_was_recorded(cache: Path) -> None:
    with servers.serve(BODY, servers.whole) as server:
        first = command("fetch", "a0-base", "--source-root", server.root)
        again = command("fetch", "a0-base", "--offline")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout == again.stdout == f"a0-base  {DIGEST}  {cache / UNKNOWN.archive_name}\n"
    assert f"{DIGEST} is trusted and recorded" in first.stderr
    assert again.stderr == ""


def test_the_command_reports_what_it_fetched_as_json(cache: Path, published: None) -> None:
    with servers.serve(BODY, servers.whole) as server:
        done = command("fetch", "a2-base", "--source-root", server.root, "--json")
    (row,) = json.loads(done.stdout)["fetched"]
    assert row["path"] == str(cache / KNOWN.archive_name)
    assert (row["sha256"], row["bytes"], row["first_use"]) == (DIGEST, len(BODY), False)


def test_the_command_fails_with_one_sentence() -> None:
    with servers.serve(BODY, servers.status(404)) as server:
        done = command("fetch", "a0-base", "--source-root", server.root)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_the_main_job_downloads_what_it_converts(tmp_path: Path) -> None:
    variant = get_variant("a0-stream")
    folder = write_checkpoint(tmp_path / variant.release_folder, variant.name)
    with tarfile.open(tmp_path / "release.tar", "w") as tar:
        tar.add(folder, folder.name)
    options = [
        "--arch",
        "a0",
        "--causal",
        "--no-verify",
        "--out",
        str(tmp_path / "store"),
        "--json",
    ]
    with servers.serve((tmp_path / "release.tar").read_bytes(), servers.gzip_encoding) as server:
        done = command(*options, "--source-root", server.root)
    assert done.exit_code == 0, done.stderr
    source = json.loads(done.stdout)["source"]
    assert source["name"] == "movinet_a0_stream.tar.gz"
    assert source["archive_sha256"] == hashlib.sha256(server.body).hexdigest()
    assert command(*options, "--offline").exit_code == 0
