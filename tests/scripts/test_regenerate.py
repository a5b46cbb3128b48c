"""The script that regenerates all weights, run on a local mirror."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import list_variants
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights.store import Store
from scripts.regenerate_weights import Result, Task, default_jobs, regenerate, tasks, updated
from scripts.rehearse_regeneration import damage, pin, serve
from tests.helpers.fetch_server import release_tar

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

    def damage(self, name: str) -> None:
        damage(self.folder / get_variant(name).archive_name)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name in NAMES:
        write_archive(folder, name)
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    catalogue = tmp_path / "catalogue.yaml"
    pin(NAMES, folder, catalogue)
    with serve(folder) as url:
        yield Mirror(folder, url, catalogue)


def run(mirror: Mirror, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    where = ("--source-root", mirror.url, "--manifest", str(mirror.catalogue))
    return subprocess.run(
        [sys.executable, str(SCRIPT), *NAMES, *where, "--weights-dir", str(store), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def todo(mirror: Mirror, store: Path, *names: str) -> list[Task]:
    catalogue = manifests.read(mirror.catalogue)
    return tasks(names, catalogue, store, source_root=mirror.url, parity=PARITY)


def test_it_converts_compares_records_and_then_has_nothing_to_do(
    mirror: Mirror, tmp_path: Path
) -> None:
    store, page = tmp_path / "store", tmp_path / "report.html"
    start = time.monotonic()
    first = run(mirror, store, *OPTIONS, "--update", "--report", str(page))
    took = time.monotonic() - start
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 as expected" in first.stdout
    assert "2 of 2 within tolerance" in page.read_text("utf-8")
    pinned = manifests.read(mirror.catalogue)
    for name in NAMES:
        (entry,) = pinned.variants[name].versions
        assert Store(store).is_intact(entry)
        assert entry.parity is not None
        assert entry.parity.tf_fp32_pt_fp32 < 1e-4

    before = mirror.catalogue.read_bytes()
    again = run(mirror, store, *OPTIONS, "--update", "--report", str(page))
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("unchanged") == 2
    assert mirror.catalogue.read_bytes() == before
    results = regenerate(todo(mirror, store, *NAMES), jobs=1)
    assert [result.state for result in results] == ["unchanged"] * 2
    assert sum(result.seconds for result in results) < took / 10

    # A digest that is pinned otherwise is a difference, whoever is wrong.
    yaml = YAML()
    data = yaml.load(mirror.catalogue)
    data["variants"]["a0-base"]["versions"][0]["sha256"] = "0" * 64
    yaml.dump(data, mirror.catalogue)
    results = regenerate(todo(mirror, store, *NAMES), jobs=1)
    assert [result.state for result in results] == ["differs", "unchanged"]
    assert f"the catalogue pins {'0' * 64}" in (results[0].problem or "")
    differing = run(mirror, store, *OPTIONS)
    assert differing.returncode == 1
    assert "1 of 2 as expected" in differing.stdout


def test_a_damaged_archive_fails_alone(mirror: Mirror, tmp_path: Path) -> None:
    mirror.damage("a0-base")
    store = tmp_path / "store"
    result = run(mirror, store, *OPTIONS, "--update")
    assert result.returncode == 1
    assert "1 of 2 as expected" in result.stdout
    assert "movinet_a0_base.tar.gz has sha256" in result.stdout.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert Store(store).manifest().versions("a0-base") == ()
    assert len(Store(store).manifest().versions("a0-stream")) == 1
    recorded = manifests.read(mirror.catalogue)
    assert recorded.variants["a0-base"].versions == ()
    assert len(recorded.variants["a0-stream"].versions) == 1


def test_a_process_that_is_killed_is_one_failure(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scripts.regenerate_weights"]
    monkeypatch.setattr(module, "_work", die)
    (result,) = regenerate(todo(mirror, tmp_path / "store", "a0-base"), jobs=1)
    assert result.state == "failed"
    assert "was killed" in (result.problem or "")


def die(*_: object) -> None:
    os._exit(9)


def test_every_release_is_a_task_with_what_the_catalogue_pins(tmp_path: Path) -> None:
    made = tasks(list_variants(), manifests.read(ROOT / manifests.MANIFEST_NAME), tmp_path)
    assert [task.name for task in made] == list_variants()
    pinned = {task.name for task in made if task.release is not None}
    assert pinned >= {"a1-base", "a2-base", "a3-base", "a2-stream"}


def test_variants_that_failed_stay_as_they_are_pinned() -> None:
    catalogue = manifests.catalogue()
    assert updated(catalogue, [Result("a0-base", "failed", problem="no")]) == catalogue


def test_there_is_always_room_for_one_job() -> None:
    assert 1 <= default_jobs() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("name", ["tests.yml", "weights.yml"])
def test_workflows_run_scripts_of_the_repository(name: str) -> None:
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / name)
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    scripts = [word for line in commands for word in line.split() if word.startswith("scripts/")]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "tests.yml")
    assert workflow["jobs"]["pinned"]["steps"][-1]["run"] in readme
