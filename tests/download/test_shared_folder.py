"""A cache folder into which others may write: no link or pipe in it is written through."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from movinet_convert.errors import DownloadError
from tests.download.fetching import ARCHIVE, BODY, DIGEST, SHORT_LIMITS, Mirror
from tests.helpers import fetch_server as servers

Trap = Callable[[Path, Path], None]


def symbolic_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "diary.txt"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("trap", [symbolic_link, hard_link, pipe])
@pytest.mark.parametrize("suffix", ["", ".partial", ".partial.json", ".unpacked"])
def test_does_not_write_through_link_or_pipe(
    fetch: Mirror, suffix: str, trap: Trap, cache: Path, victim: Path
) -> None:
    cache.mkdir()
    trap(cache / f"{fetch.file_name}{suffix}", victim)
    with servers.serve(BODY, servers.gzip_file) as server:
        assert fetch(server.root).sha256 == DIGEST
    assert victim.read_text() == "precious"
    fetch.assert_nothing_unfinished(cache)


@pytest.mark.parametrize("trap", [symbolic_link, hard_link])
def test_does_not_resume_partial_file_replaced_by_link(
    fetch: Mirror, trap: Trap, cache: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "theirs"
    with servers.serve(BODY, servers.cut_with_ranges) as server:
        with pytest.raises(DownloadError):
            fetch(server.root, limits=replace(SHORT_LIMITS, attempts=1))
        partial = cache / f"{fetch.file_name}.partial"
        content = partial.read_bytes()
        partial.rename(victim)
        trap(partial, victim)
        server.script[:] = [servers.with_ranges]
        assert fetch(server.root).sha256 == DIGEST
    assert victim.read_bytes() == content


@pytest.mark.parametrize("name", ["recorded_digests.json", "recorded_digests.json.unfinished"])
def test_replaces_record_instead_of_writing_through_link(
    fetch: Mirror, name: str, cache: Path, tmp_path: Path
) -> None:
    cache.mkdir()
    victim = tmp_path / "theirs.json"
    victim.write_text("{}")
    (cache / name).symlink_to(victim)
    (tmp_path / ARCHIVE).write_bytes(servers.release_tar())
    assert fetch.unpinned(tmp_path).first_use
    assert victim.read_text() == "{}"
    assert not fetch.unpinned(tmp_path).first_use


@pytest.mark.parametrize("name", ["release", "recorded_digests.json"])
def test_refuses_lock_that_is_a_link(fetch: Mirror, name: str, cache: Path, victim: Path) -> None:
    cache.mkdir()
    (cache / f"{name.replace('release', fetch.file_name)}.lock").symlink_to(victim)
    (cache.parent / ARCHIVE).write_bytes(servers.release_tar())
    with pytest.raises(DownloadError, match="symbolic links"):
        fetch.unpinned(cache.parent)
    assert victim.read_text() == "precious"
