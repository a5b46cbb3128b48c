"""Names and versions in a store: ``NAME@N``, names of one's own, and their removal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from movinet_convert import load_converted
from movinet_convert.cli.app import main
from movinet_convert.conversion.pipeline import convert
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.weights.manifest import MANIFEST_NAME
from movinet_convert.weights.naming import check_own_name, split_version, stored_names
from movinet_convert.weights.store import Store
from tests.helpers.seeded import choices, variables, write_checkpoint

NAME = "a0-stream"
OTHER = "a0-base"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "one", NAME, variables(NAME, 1))


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of ``cattle``, and one of the variant with the same weights."""
    store = tmp_path_factory.mktemp("store")
    given = {**choices(NAME), "out": store, "parity": None}
    convert(NAME, checkpoint, **given, store_as="cattle")
    convert(NAME, checkpoint, **given, store_as="cattle", dtype="float16")
    convert(NAME, checkpoint, **given)
    return store


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "store"))


def run(store: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--weights-dir", str(store)])


def test_a_version_is_loaded_by_its_number_in_the_name(store: Path) -> None:
    first, second = (load_converted(f"cattle@{n}", weights_dir=store) for n in (1, 2))
    newest, variant = (load_converted(name, weights_dir=store) for name in ("cattle", NAME))
    weight = "classifier.output.weight"
    assert torch.equal(newest.state_dict()[weight], second.state_dict()[weight])
    assert torch.equal(variant.state_dict()[weight], first.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], second.state_dict()[weight])
    assert first.variant.name == NAME


@pytest.mark.parametrize(
    ("name", "version", "problem"),
    [
        ("cattle@3", None, r"no version 3 of cattle, only 1, 2\."),
        ("cattle@1", 2, "cattle@1 and version 2 contradict each other"),
        ("cattle@0", None, "'0'; a version is a number from 1, as in cattle@1"),
        ("cattle@x", None, "'x'; a version is a number"),
        (f"{OTHER}@1", None, "has no weights of a0-base; convert them"),
        ("catle", None, r"no MoViNet variant 'catle' \(did you mean cattle\?\)"),
        ("catle@1", None, r"no MoViNet variant 'catle' \(did you mean cattle\?\)"),
    ],
)
def test_what_is_not_in_the_store_is_refused_with_what_is(
    store: Path, name: str, version: int | None, problem: str
) -> None:
    with pytest.raises((UsageError, WeightsError), match=problem):
        load_converted(name, weights_dir=store, version=version)


@pytest.mark.parametrize(
    "path",
    [
        "a/b@1",
        "hf://org/name@main",
        "weights.safetensors",
        "cattle@2.safetensors",
        "./cattle",
        "C:\\cattle@1",
    ],
)
def test_a_path_has_no_version(path: str) -> None:
    assert split_version(path) is None


def test_a_file_with_an_at_sign_in_its_name_is_a_file(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    shutil.copy("movinet-cattle-v1.safetensors", "cattle@2.safetensors")
    shutil.copy("movinet-cattle-v1.safetensors", "run@best")
    for name in ("cattle@2.safetensors", "run@best"):
        assert load_converted(name, weights_dir=store).variant.name == NAME
    assert run(store, "inspect", "cattle@2.safetensors").exit_code == 0


@pytest.mark.parametrize(
    "name", ["Cattle", "a0", "a0_stream", "movinet-a0-stream", "a0-stream-v1", "../x", "x@1"]
)
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot name weights|would be taken for a0-"):
        check_own_name(name)


def test_a_name_is_for_one_variant(store: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", OTHER, variables(OTHER, 1))
    before = (store / MANIFEST_NAME).read_bytes()
    with pytest.raises(UsageError, match="cattle in the store .* is of a0-stream"):
        convert(OTHER, other, out=store, parity=None, store_as="cattle")
    assert (store / MANIFEST_NAME).read_bytes() == before


def test_a_store_without_other_names_is_as_before(checkpoint: Path, tmp_path: Path) -> None:
    convert(NAME, checkpoint, **choices(NAME), out=tmp_path, parity=None)
    assert "named" not in (tmp_path / MANIFEST_NAME).read_text("utf-8")


def test_weights_that_are_converted_again_become_the_current_version(
    store: Path, checkpoint: Path
) -> None:
    again = convert(NAME, checkpoint, **choices(NAME), out=store, parity=None, store_as="cattle")
    assert not again.stored.created
    assert Store(store).find("cattle").version == 1


def test_a_removed_version_leaves_the_others(store: Path) -> None:
    in_use = load_converted("cattle@2", weights_dir=store)
    result = run(store, "remove", "cattle@2", "--json")
    assert json.loads(result.stdout) == {
        "removed": [str(store / "movinet-cattle-v2.safetensors")],
        "current": 1,
    }
    assert stored_names(store) == [NAME, "cattle"]
    assert Store(store).find("cattle").version == 1
    in_use(torch.rand(1, 3, 1, 32, 32))  # mapped, and still there for who has it open


def test_a_removal_says_how_much_was_removed(store: Path) -> None:
    size = (store / "movinet-cattle-v2.safetensors").stat().st_size
    removed = run(store, "remove", "cattle@2").stdout
    assert f"movinet-cattle-v2.safetensors ({size / 1e6:.1f} MB)" in removed
    assert "cattle is version 1 now" in removed


def test_a_removal_creates_no_store(tmp_path: Path) -> None:
    result = run(tmp_path / "none", "remove", NAME)
    assert result.exit_code == 1
    assert "has no weights of a0-stream" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_store_that_cannot_be_written_names_an_option_of_the_command(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    result = run(store, "remove", "cattle", "--all")
    assert result.exit_code == 2
    assert "use another with --weights-dir" in result.stderr


def test_a_name_without_versions_is_free_again(store: Path) -> None:
    assert run(store, "remove", "cattle", "--all").exit_code == 0
    assert Store(store).manifest().converted == {NAME: NAME}
    assert run(store, "remove", NAME).exit_code == 0
    assert Store(store).manifest().converted == {}
    assert not list(store.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["cattle"], "cattle has 2 versions in .*; name one of cattle@1, cattle@2, or pass --all"),
        (["cattle@1", "--all"], "--all removes every version"),
        (["cattle@9"], "no version 9 of cattle"),
        (["horses"], "no MoViNet variant 'horses'"),
        (["./x.safetensors"], "is not a name in a store"),
    ],
)
def test_a_removal_that_is_not_clear_removes_nothing(
    store: Path, arguments: list[str], problem: str
) -> None:
    before = sorted(path.name for path in store.iterdir())
    result = run(store, "remove", *arguments)
    assert result.exit_code in (1, 2)
    assert re.search(problem, result.stderr)
    assert sorted(path.name for path in store.iterdir()) == before


def test_a_kill_between_the_two_steps_of_a_removal_leaves_a_store_that_reads(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(store).remove("cattle", 1)
    assert [entry.version for entry in Store(store).manifest().versions("cattle")] == [2]
    load_converted("cattle", weights_dir=store)


def test_commands_take_a_version(store: Path) -> None:
    listed = run(store, "list").stdout
    assert "cattle@2 (current): a0-stream, " in listed
    for name in (["cattle@1"], ["cattle", "--version", "1"]):
        assert "movinet-cattle-v1.safetensors" in run(store, "inspect", *name).stdout
    for name, out in ((["cattle@1"], "a"), (["cattle", "--version", "1"], "b")):
        done = run(store, "export", *name, "--format", "tf-checkpoint", "--out", str(store / out))
        assert done.exit_code == 0, done.output
    first, second = (next((store / out).glob("*.data-*")).read_bytes() for out in "ab")
    assert first == second
    refused = run(store, "verify", "x.safetensors", "--version", "1")
    assert "--version is for a name in the store, not for x.safetensors" in refused.stderr


def test_a_name_is_for_one_conversion(checkpoint: Path, store: Path) -> None:
    result = run(store, "--arch", "a0", "--arch", "a1", "--name", "cattle", "--no-verify")
    assert result.exit_code == 2
    assert "--name names the weights of one variant" in result.stderr


@pytest.mark.parametrize("option", ["--out", "--weights-dir"])
def test_the_store_of_a_conversion_has_two_options(
    option: str, checkpoint: Path, tmp_path: Path
) -> None:
    given = ["--checkpoint", str(checkpoint), "--arch", "a0", "--causal", "--gating", "keras"]
    given += ["--head-activation", "swish", "--no-verify", "--name", "cattle", option]
    result = CliRunner().invoke(main, [*given, str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert stored_names(tmp_path) == ["cattle"]


@pytest.mark.parametrize(
    "text",
    [
        "named: {a0-base: {variant: a0-base, versions: []}}",
        "named: {cattle: {variant: horses, versions: []}}",
        "named: {../x: {variant: a0-base, versions: []}}",
    ],
)
def test_a_manifest_with_a_wrong_name_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(f"schema_version: 2\nvariants: {{}}\n{text}\n")
    with pytest.raises(WeightsError, match="line 3: named"):
        Store(tmp_path).manifest()


def test_names_are_completed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str) -> list[str]:
        monkeypatch.setenv("_MOVINET_CONVERT_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", f"movinet-convert {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        return CliRunner().invoke(main, prog_name="movinet-convert").output.split()

    monkeypatch.setenv("MOVINET_WEIGHTS_DIR", str(store))
    cattle = ["plain,cattle", "plain,cattle@1", "plain,cattle@2"]
    assert completed("predict cat") == ["file,cat", *cattle]
    assert completed("remove cat") == cattle
    assert completed("predict cattle dan") == ["file,dan"]
    assert completed("fetch a5") == ["plain,a5-base", "plain,a5-stream"]
    monkeypatch.setenv("MOVINET_WEIGHTS_DIR", str(store / "empty"))
    assert completed("verify a5-s") == ["file,a5-s", "plain,a5-stream"]
