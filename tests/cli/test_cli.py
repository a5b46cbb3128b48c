"""The command: exit codes, errors as one sentence, --json prints nothing but JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from movinet_convert.cli import app as cli
from tests.helpers.seeded import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "a checkpoint, Größe 0", "a0-stream")


def convert_arguments(checkpoint: Path, store: Path) -> list[Any]:
    main_job = [
        "--arch",
        "a0",
        "--causal",
        "--checkpoint",
        checkpoint,
        "--gating",
        "keras",
        "--head-activation",
        "swish",
    ]
    return [*main_job, "--no-verify", "--out", store]


def test_without_arguments_the_help_is_shown() -> None:
    result = run()
    assert result.exit_code == 0
    assert "movinet-convert --arch a2 --causal" in result.output


def test_convert_writes_a_file_and_prints_its_path(checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run(*convert_arguments(checkpoint, store))
    assert result.exit_code == 0, result.output
    assert f"Wrote {store / 'movinet-a0-stream-v1.safetensors'}" in result.output
    assert "ignored: save_counter" in result.output
    assert "Unchanged" in run(*convert_arguments(checkpoint, store)).output


def test_json_output_is_one_object_on_stdout(checkpoint: Path, tmp_path: Path) -> None:
    result = run(*convert_arguments(checkpoint, tmp_path / "store"), "--json")
    written = json.loads(result.stdout)
    assert written["variant"] == "a0-stream"
    assert written["num_classes"] == 7
    assert Path(written["path"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--causal"], "--arch"),
        (["--causal", "--checkpoint", "x"], "both or neither"),
        (["--arch", "a9"], "a9"),
        (["--arch", "a0", "--size", "big"], "height x width"),
        (["--arch", "a0", "--checkpoint", "x", "--synthetic"], "choose one"),
        (["--arch", "a0", "--tolerance", "0"], "tolerance"),
        (["--arch", "a0", "--tolerance", "0.5"], "wrong networks"),
        (["--arch", "a0", "--frames", "2"], "at least 3 frames"),
        (["verify", "a0-base", "--size", "16x16"], "at least 32x32"),
        (["verify", "a9-base"], "no MoViNet variant 'a9-base'"),
        (["fetch"], "--all"),
        (["fetch", "a9-base"], "a9-base"),
        (["--arch", "a0", "--synthetic", "--gating", "keras"], "base model"),
    ],
)
def test_a_usage_error_exits_with_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_gating_is_required_for_a_stream_checkpoint_that_is_not_a_release(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = run("--arch", "a0", "--causal", "--checkpoint", checkpoint, "--out", tmp_path / "s")
    assert result.exit_code == 2
    assert "--gating keras for" in result.stderr
    assert not (tmp_path / "s").exists()


def test_a_failure_prints_one_sentence_and_exits_with_1(tmp_path: Path) -> None:
    arguments = convert_arguments(tmp_path / "nothing", tmp_path / "store")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "nothing" in result.stderr
    assert not (tmp_path / "store").exists()
    as_json = run(*arguments, "--json")
    assert json.loads(as_json.stdout)["exit_code"] == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run(*convert_arguments(tmp_path / "nothing", tmp_path / "store"), "--debug")
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_list_shows_the_converted_weights(checkpoint: Path, tmp_path: Path) -> None:
    run(*convert_arguments(checkpoint, tmp_path / "store"))
    result = run("list", "--weights-dir", tmp_path / "store")
    assert result.exit_code == 0
    assert "a0-stream@1: 7 classes, float32, from " in result.output
    assert "(checkpoint)" in result.output
    catalogue = json.loads(run("list", "--weights-dir", tmp_path / "empty", "--json").stdout)
    assert len(catalogue["variants"]) == 12


def test_a_synthetic_checkpoint_is_converted_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    small = ["--frames", "3", "--size", "40x40"]
    monkeypatch.setenv("MOVINET_WEIGHTS_DIR", str(tmp_path))
    result = run("--arch", "a0", "--causal", "--synthetic", *small)
    assert result.exit_code == 0, result.output
    assert "Passed" in result.output
    strict = run("verify", "a0-stream", *small, "--tolerance", "1e-12", "--json")
    assert strict.exit_code == 1
    again = json.loads(strict.stdout)
    assert not again["passed"]
    assert again["worst"]["tf_fp32_pt_fp32"] <= 1e-5


def test_weights_of_another_gating_fail_verification(
    synthetic_archive: Callable[[str], Path], tmp_path: Path
) -> None:
    """The weights are right, but the reference has the other gating."""
    pytest.importorskip("tensorflow")
    from movinet_convert.conversion.sources import Source
    from movinet_convert.conversion.tensors import convert_checkpoint
    from movinet_convert.model.settings import get_variant
    from movinet_convert.parity.comparison import verify_model
    from movinet_convert.parity.options import ParityOptions
    from movinet_convert.parity.reference import Reference

    variant = get_variant("a0-stream")
    source = Source(synthetic_archive("a0-stream"), "synthetic", "synthetic")
    converted = convert_checkpoint(source)
    reference = Reference(variant, variant.settings("model-garden"), 600)
    result = verify_model(
        converted.to_model(),
        converted.variables,
        ParityOptions(frames=3, size=(40, 40)),
        reference=reference,
    )
    assert not result.passed
    assert result.first_difference == "block0_layer0"


def test_convert_says_how_to_name_classes_and_writes_names(
    checkpoint: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    store = tmp_path / "store"
    plain = run(*convert_arguments(checkpoint, store))
    assert plain.stderr.count("--labels FILE") == 1
    named = run(*convert_arguments(checkpoint, store), "--labels", names)
    assert "--labels" not in named.stderr
    assert "movinet-a0-stream-v2.safetensors" in named.stdout
    inspected = run("inspect", store / "movinet-a0-stream-v2.safetensors")
    assert "a, b, c, d, e, f, g" in inspected.stdout


def test_unusable_labels_are_refused_before_any_work(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\n\ndog\n")
    result = run(*convert_arguments(tmp_path / "nothing", tmp_path / "store"), "--labels", names)
    assert result.exit_code == 2
    assert "names.txt, line 2: the name is missing" in result.stderr
