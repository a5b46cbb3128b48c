"""The script that publishes weights, on a server that plays the Hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import HfApi, ModelCard

from movinet_convert import load_converted
from movinet_convert.files.reading import file_sha256
from movinet_convert.weights.hub import HubMoViNet
from movinet_convert.weights.hub_files import FILE_NAME
from movinet_convert.weights.labels import kinetics_600
from movinet_convert.weights.load import locate
from movinet_convert.weights.manifest import MANIFEST_NAME
from movinet_convert.weights.store import Store
from movinet_convert.weights.transformers_files import CODE_NAME, CONFIG_NAME, PROCESSOR_NAME
from scripts.publish_weights import main
from tests.helpers.hub_repositories import Hub
from tests.helpers.hub_server import as_the_hub, serve_hub
from tests.helpers.verified_store import add_verified

NAMES = ("a0-base", "a0-stream")
ORG = "people"
FILES = {
    *("README.md", "labels.txt", FILE_NAME, "parity_report.html", "parity_report.json"),
    *(MANIFEST_NAME, CONFIG_NAME, PROCESSOR_NAME, CODE_NAME),
}


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    for name in NAMES:
        add_verified(folder, name)
    return folder / "store"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as hub, as_the_hub(hub, tmp_path / "hub-cache"):
        yield hub


@pytest.fixture(scope="module")
def published(verified: Path) -> Iterator[Hub]:
    """A Hub to which all was published."""
    folder = verified.parent
    with serve_hub(folder / "hub") as hub, as_the_hub(hub, folder / "hub-cache"):
        done = run(verified, "--org", ORG)
        assert done.exit_code == 0, done.output
        yield hub


def run(store: Store | Path, *options: str) -> Result:
    folder = store.folder if isinstance(store, Store) else store
    done = CliRunner().invoke(main, [*options, "--weights-dir", str(folder)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def repository(name: str) -> str:
    return f"{ORG}/movinet-{name}"


def test_published_weights_load_by_name(published: Hub, verified: Path) -> None:
    for name in NAMES:
        assert set(published.repository(repository(name)).tree()) == {".gitattributes", *FILES}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_converted(f"hf://{repository(name)}")
        located, entry = locate(f"hf://{repository(name)}"), Store(verified).find(name)
        assert file_sha256(located.path) == entry.sha256
        assert located.entry == entry.model_copy(update={"file": FILE_NAME})
    assert HubMoViNet.from_pretrained(repository("a0-base")).num_classes == 600


def test_one_commit_and_none_for_what_is_unchanged(hub: Hub, verified: Path) -> None:
    run(verified, "a0-base", "--org", ORG)
    there = hub.repository(repository("a0-base"))
    assert len(there.commits()) == 2
    assert "a0-base  unchanged" in run(verified, "a0-base", "--org", ORG).stderr
    assert len(there.commits()) == 2
    # What differs there, a large file and a small one, is written again, in one commit.
    for file in (FILE_NAME, "README.md"):
        content = b"---\nlicense: mit\n---\n"
        HfApi().upload_file(
            path_or_fileobj=content, path_in_repo=file, repo_id=repository("a0-base")
        )
    done = run(verified, "a0-base", "--org", ORG)
    assert re.findall(r"changed +(\S+)", done.stderr) == ["README.md", FILE_NAME]
    assert len(there.commits()) == 5
    assert there.tree()[FILE_NAME]["lfs"] == Store(verified).find("a0-base").sha256


def test_dry_run_writes_nothing(hub: Hub, verified: Path, tmp_path: Path) -> None:
    done = run(verified, "a0-base", "--org", ORG, "--dry-run")
    assert done.exit_code == 0
    assert set(re.findall(r"new +(\S+)", done.stderr)) == FILES
    assert {request.split()[0] for request in hub.requests} == {"GET"}
    assert run(verified, "--folder", str(tmp_path / "release"), "--dry-run").exit_code == 0
    assert not (tmp_path / "release").exists()


def test_card_is_made_from_the_data(published: Hub, verified: Path) -> None:
    there, entry = published.repository(repository("a0-stream")), Store(verified).find("a0-stream")
    card = ModelCard(there.content("README.md").decode())
    assert card.data.to_dict()["license"] == "apache-2.0"
    assert card.data.pipeline_tag == "video-classification"
    results = {result.metric_name: result for result in card.data.eval_results}
    assert [result.metric_value for result in results.values()] == [72.05, 90.63]
    assert all("projects/movinet" in result.source_url for result in results.values())
    assert "72.05% | 90.63%" in card.text
    assert f'load_converted("hf://{repository("a0-stream")}")' in card.text
    assert "| gating | keras (release) |" in card.text
    assert "4.5e-06" in card.text
    assert entry.source.digest in card.text
    digests = dict(re.findall(r"^\| (\S+) \| `([0-9a-f]{64})` \|$", card.text, re.MULTILINE))
    for file in FILES - {"README.md"}:
        oid = there.tree()[file]
        assert digests[file] == file_sha256(there.objects / (oid["lfs"] or oid["oid"]))


def code_in_card(hub: Hub, name: str) -> list[str]:
    card = hub.repository(repository(name)).content("README.md").decode()
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_usage_in_the_card_runs(published: Hub) -> None:
    for name in NAMES:
        code, _ = code_in_card(published, name)
        assert len(code.strip().splitlines()) <= 6
        clip = torch.rand(1, 3, 2, 32, 32)
        given: dict[str, Any] = {"clip": clip, "frames": clip}
        exec(code, given)
        assert given["logits"].shape == (1, 600)


def test_usage_with_transformers_runs(
    published: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    modules = transformers.dynamic_module_utils
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    _, code = code_in_card(published, "a0-base")
    given: dict[str, Any] = {}
    exec(code.replace('classify("video.mp4")', ""), given)
    given["classify"].model.config.num_frames = 2
    frames = np.zeros((2, 40, 40, 3), np.uint8)
    found = given["classify"](frames, top_k=1)
    assert found[0]["label"] in kinetics_600()


def test_folder_has_the_same_files(hub: Hub, verified: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    assert run(verified, "a0-base", "--folder", str(release)).exit_code == 0
    folder = release / "movinet-a0-base"
    assert {path.name for path in folder.iterdir()} == FILES
    load_converted(folder / FILE_NAME)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "unchanged" in run(verified, "a0-base", "--folder", str(release)).stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_failure_of_one_does_not_stop_the_others(hub: Hub, verified: Path) -> None:
    hub.refuse[f"POST /api/models/{repository('a0-base')}/commit"] = 403
    done = run(verified, "--org", ORG)
    assert done.exit_code == 1
    assert "1 of 2 as expected" in done.stdout
    assert "people/movinet-a0-base cannot be published on the Hub" in done.stderr
    load_converted(f"hf://{repository('a0-stream')}")


def test_wrong_token_is_one_sentence(
    hub: Hub, verified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = run(verified, "a0-base", "--org", ORG)
    assert done.exit_code == 1
    assert "$HF_TOKEN" in done.stderr
    assert "Traceback" not in done.output


def test_rehearses_with_other_weights_and_says_so(tmp_path: Path, hub: Hub) -> None:
    store = add_verified(tmp_path, "a0-base", "mirror", coverage="partial")
    done = run(store, "--org", ORG)
    assert done.exit_code == 1
    assert re.search("from a mirror.*--allow-synthetic", done.stderr)
    assert run(store, "--org", ORG, "--allow-synthetic").exit_code == 0
    card = ModelCard(hub.repository(repository("a0-base")).content("README.md").decode())
    assert "rehearsal" in card.data.tags
    assert "**Rehearsal.**" in card.text
    assert "None is stated" in card.text
    assert not {"license", "model-index"} & card.data.to_dict().keys()


def test_wrong_options_are_usage_errors(tmp_path: Path, verified: Path) -> None:
    for options in ((), ("--org", "x", "--folder", "y"), ("--folder", "y", "--private")):
        assert run(verified, *options).exit_code == 2
    empty = run(tmp_path / "empty", "--folder", str(tmp_path / "f"))
    assert (empty.exit_code, "has no weights" in empty.stderr) == (2, True)
