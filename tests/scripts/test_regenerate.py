"""The script that regenerates all weights, run on a local mirror."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from movinet_convert import variants
from movinet_convert.errors import CheckpointError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import Release, SourceName, list_variants
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.manifest import Manifest
from movinet_convert.weights.store import Store
from scripts.publishing.candidates import candidate
from scripts.regenerate_weights import (
    Result,
    Task,
    default_jobs,
    from_all_sources,
    regenerate,
    tasks,
    updated,
)
from scripts.rehearse_regeneration import damage, pin, serve
from tests.helpers.fetch_server import release_tar, whole
from tests.helpers.fetch_server import serve as serve_body

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "regenerate_weights.py"
NAMES = ("a0-base", "a0-stream")
PARITY = ParityOptions(frames=3, size=(32, 32))
OPTIONS = ("--frames", "3", "--size", "32x32", "--jobs", "2")


def write_archive(folder: Path, name: str) -> Path:
    """A seeded release: an uncompressed tar in spite of its name, like Google's."""
    path = folder / get_variant(name).archive_name
    path.write_bytes(release_tar(name))
    return path


@dataclass(frozen=True)
class Mirror:
    """Archives on a web server of this machine, and the catalogue that pins their digests."""

    folder: Path
    url: str
    catalogue: Path
    store: Path


@dataclass(frozen=True)
class Run:
    """One run of the script, and the manifests as it left them."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    catalogue: Manifest
    stored: Manifest


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    root = tmp_path_factory.mktemp("regeneration")
    folder, catalogue = root / "mirror", root / "catalogue.yaml"
    folder.mkdir()
    for name in NAMES:
        write_archive(folder, name)
    pin(NAMES, folder, catalogue)
    with pytest.MonkeyPatch.context() as patch, serve(folder) as url:
        patch.setenv("MOVINET_CACHE_DIR", str(root / "cache"))
        yield Mirror(folder, url, catalogue, root / "store")


def run(mirror: Mirror, *options: str) -> Run:
    where = ("--source", mirror.url, "--manifest", str(mirror.catalogue))
    command = [sys.executable, str(SCRIPT), *NAMES, *where, "--weights-dir", str(mirror.store)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *OPTIONS, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds = time.monotonic() - start
    manifest, stored = manifests.read(mirror.catalogue), Store(mirror.store).manifest()
    return Run(done.returncode, done.stdout, done.stderr, seconds, manifest, stored)


def todo(mirror: Mirror, *names: str) -> list[Task]:
    catalogue = manifests.read(mirror.catalogue)
    return tasks(names, catalogue, mirror.store, source=mirror.url, parity=PARITY)


@pytest.fixture(scope="module")
def damaged_run(mirror: Mirror) -> Run:
    """A first run, with a damaged a0-base on the mirror."""
    damage(mirror.folder / get_variant("a0-base").archive_name)
    try:
        return run(mirror, "--update")
    finally:
        write_archive(mirror.folder, "a0-base")


@pytest.fixture(scope="module")
def complete_run(mirror: Mirror, damaged_run: Run) -> Run:
    """A second run, with the mirror repaired."""
    return run(mirror, "--update", "--report", str(mirror.store / "report.html"))


def test_a_damaged_archive_does_not_stop_the_others(damaged_run: Run) -> None:
    assert damaged_run.code == 1
    assert "1 of 2 as expected" in damaged_run.stdout
    assert "movinet_a0_base.tar.gz has sha256" in damaged_run.stdout.replace("\n", " ")
    assert "Traceback" not in damaged_run.stderr
    for manifest in (damaged_run.stored, damaged_run.catalogue):
        assert manifest.versions("a0-base") == ()
        assert len(manifest.versions("a0-stream")) == 1


def test_a_later_run_converts_the_missing_variants(mirror: Mirror, complete_run: Run) -> None:
    assert complete_run.code == 0, complete_run.stdout + complete_run.stderr
    assert "2 of 2 as expected" in complete_run.stdout
    states = dict(re.findall(r"(a0-\w+)\s*│[^│]*│\s*(\w+)", complete_run.stdout))
    assert states == {"a0-base": "converted", "a0-stream": "unchanged"}
    assert "2 of 2 within tolerance" in (mirror.store / "report.html").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_converted_variants_are_compared_and_recorded(
    name: str, mirror: Mirror, complete_run: Run
) -> None:
    (entry,) = complete_run.catalogue.versions(name)
    assert Store(mirror.store).is_intact(entry)
    assert entry.parity is not None
    assert entry.parity.tf_fp32_pt_fp32 < 1e-4
    assert complete_run.catalogue.variants[name].tensors_sha256 == entry.source.digest


def test_a_run_after_a_complete_one_converts_nothing(mirror: Mirror, complete_run: Run) -> None:
    again = run(mirror, "--update")
    assert again.code == 0, again.stdout + again.stderr
    assert again.stdout.count("unchanged") == 2
    assert again.catalogue == complete_run.catalogue
    results = regenerate(todo(mirror, *NAMES), jobs=1)
    assert [result.state for result in results] == ["unchanged"] * 2
    assert sum(result.seconds for result in results) < complete_run.seconds / 10


def test_a_digest_other_than_the_pinned_one_is_reported(
    mirror: Mirror, complete_run: Run, tmp_path: Path
) -> None:
    yaml = YAML()
    data = yaml.load(mirror.catalogue)
    data["variants"]["a0-base"]["versions"][0]["sha256"] = "0" * 64
    otherwise = replace(mirror, catalogue=tmp_path / "catalogue.yaml")
    yaml.dump(data, otherwise.catalogue)
    results = regenerate(todo(otherwise, *NAMES), jobs=1)
    assert [result.state for result in results] == ["differs", "unchanged"]
    assert f"the catalogue pins {'0' * 64}" in (results[0].problem or "")
    differing = run(otherwise)
    assert differing.code == 1
    assert "1 of 2 as expected" in differing.stdout


def from_both(model_garden: bytes, kaggle: bytes, task: Task) -> dict[str, Release]:
    """What two servers that send these archives were seen to send."""
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_body(model_garden, whole) as garden,
        serve_body(kaggle, whole) as other,
    ):
        patch.setattr(variants, "MODEL_GARDEN_ROOT", garden.root)
        patch.setattr(variants, "KAGGLE_ROOT", other.root)
        _, seen = from_all_sources(task)
    return seen


def test_both_sources_must_have_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    (task,) = tasks(["a0-base"], manifests.catalogue(), tmp_path, all_sources=True)
    body = release_tar("a0-base")
    seen = from_both(body, body, task)
    assert list(seen) == ["model-garden", "kaggle"]
    assert {release.bytes for release in seen.values()} == {len(body)}
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "another"))
    with pytest.raises(CheckpointError, match="is the first that differs, by up to"):
        from_both(body, release_tar("a0-base", seed=1), task)
    with pytest.raises(CheckpointError, match=f"instead of {'0' * 64}"):
        from_both(body, body, replace(task, tensors="0" * 64))


def test_a_killed_process_is_reported_as_one_failure(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scripts.regenerate_weights"]
    monkeypatch.setattr(module, "_work", die)
    (result,) = regenerate(todo(replace(mirror, store=tmp_path), "a0-base"), jobs=1)
    assert result.state == "failed"
    assert "was killed" in (result.problem or "")


def die(*_: object) -> None:
    os._exit(9)


def test_every_release_is_a_task_with_its_pinned_digests(tmp_path: Path) -> None:
    made = tasks(list_variants(), manifests.read(ROOT / manifests.MANIFEST_NAME), tmp_path)
    assert [task.name for task in made] == list_variants()
    pinned = {task.name for task in made if task.releases}
    assert pinned >= {"a1-base", "a2-base", "a3-base", "a2-stream"}


@pytest.mark.parametrize(("source", "field"), [("kaggle", "kaggle"), ("model-garden", "source")])
def test_digest_is_recorded_for_the_source_that_it_was_fetched_from(
    source: SourceName, field: str, complete_run: Run
) -> None:
    (entry,) = complete_run.catalogue.versions("a0-base")
    seen = Release(10240, "5" * 64)
    result = Result("a0-base", "converted", entry=entry, seen={source: seen})
    before = manifests.catalogue()
    after = updated(before, [result]).variants["a0-base"]
    assert getattr(after, field).sha256 == seen.sha256
    assert getattr(after, field).url == getattr(before.variants["a0-base"], field).url
    other = {"kaggle": "source", "source": "kaggle"}[field]
    assert getattr(after, other) == getattr(before.variants["a0-base"], other)


def test_failed_variants_keep_their_pinned_digests() -> None:
    catalogue = manifests.catalogue()
    assert updated(catalogue, [Result("a0-base", "failed", problem="no")]) == catalogue


def test_at_least_one_job_runs() -> None:
    assert 1 <= default_jobs() <= (os.cpu_count() or 1)


def test_what_it_makes_may_be_published(mirror: Mirror, complete_run: Run) -> None:
    for name in NAMES:
        chosen = candidate(name, Store(mirror.store), complete_run.catalogue, allow_synthetic=True)
        assert chosen.rehearsal  # from a mirror, and compared in a part of the cases
