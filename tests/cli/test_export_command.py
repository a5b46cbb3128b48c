"""``export``: the same file as the library writes, and the way back to TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from movinet_convert import convert, export
from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.cli import app as cli
from movinet_convert.cli.export import RUNTIME_FORMATS
from movinet_convert.export import FORMATS, ExportReport, export_model
from tests.helpers.seeded import variables, write_checkpoint


@pytest.fixture
def store(tmp_path: Path) -> Path:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "t0-stream")
    convert(
        None,
        checkpoint,
        gating="keras",
        head_activation="swish",
        out=tmp_path / "store",
        parity=None,
    )
    return tmp_path / "store"


def test_the_command_offers_every_format() -> None:
    assert list(FORMATS) == RUNTIME_FORMATS


def test_an_exported_checkpoint_is_bit_identical_to_the_original(
    store: Path, tmp_path: Path
) -> None:
    arguments = ["export", "t0-stream", "--format", "tf-checkpoint", "--out", tmp_path / "back"]
    result = CliRunner().invoke(
        cli.main, [str(a) for a in [*arguments, "--weights-dir", store, "--json"]]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["format"] == "tf-checkpoint"
    back = open_checkpoint(tmp_path / "back").variables
    expected = variables("t0-stream")
    assert set(back) == set(expected)
    assert all(np.array_equal(back[name], expected[name]) for name in expected)


def test_an_option_that_the_format_lacks_is_rejected(store: Path, tmp_path: Path) -> None:
    arguments = ["export", "t0-stream", "--format", "tf-checkpoint", "--dtype", "float16"]
    arguments += ["--out", str(tmp_path / "back"), "--weights-dir", str(store)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "--dtype is not for --format tf-checkpoint" in result.stderr
    assert not (tmp_path / "back").exists()


def test_int8_requires_calibration_videos_and_vice_versa(store: Path, tmp_path: Path) -> None:
    arguments = ["export", "t0-stream", "--format", "onnx", "--out", str(tmp_path / "step")]
    arguments += ["--weights-dir", str(store)]
    for half in (["--quantize", "int8"], ["--calibration", str(tmp_path)]):
        result = CliRunner().invoke(cli.main, [*arguments, *half])
        assert result.exit_code == 2
        assert "require each other" in result.stderr


def test_a_calibration_folder_without_videos_is_rejected(store: Path, tmp_path: Path) -> None:
    arguments = ["export", "t0-stream", "--format", "openvino", "--out", str(tmp_path / "step")]
    arguments += ["--weights-dir", str(store), "--quantize", "int8"]
    result = CliRunner().invoke(cli.main, [*arguments, "--calibration", str(store)])
    assert result.exit_code == 2
    assert f"{store} has no videos" in result.stderr


def test_reduced_precision_reports_its_loss(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[ExportReport] = []

    def export_once(*arguments: Any, **options: Any) -> ExportReport:
        """The real export, whose report the second call with the same options gets too."""
        if options["allow_loss"] is not None or not reports:
            reports.append(export_model(*arguments, **options))
        return reports[-1]

    monkeypatch.setattr(export, "export_model", export_once)
    arguments = ["export", "t0-stream", "--format", "torch-export", "--dtype", "bfloat16"]
    arguments += ["--size", "34x48", "--out", str(tmp_path / "step"), "--weights-dir", str(store)]
    as_text = CliRunner().invoke(cli.main, arguments)
    assert as_text.exit_code == 0, as_text.output
    assert "Loss, in its own runtime over 100 frames of 5 clips" in as_text.stdout
    result = json.loads(CliRunner().invoke(cli.main, [*arguments, "--json"]).stdout)
    assert (result["dtype"], result["frames_checked"]) == ("bfloat16", 100)
    assert f"{result['mean_error']:.1e}" in as_text.stdout
    refused = CliRunner().invoke(cli.main, [*arguments, "--allow-loss", "1e-9"])
    assert refused.exit_code == 1
    assert "where a mean error of 1e-09 was allowed" in refused.stderr


def test_the_exported_weights_are_not_overwritten(store: Path, tmp_path: Path) -> None:
    source = store / "movinet-t0-stream-v1.safetensors"
    link = tmp_path / "step.onnx"
    link.hardlink_to(source)
    before = source.read_bytes()
    arguments = ["export", str(source), "--format", "onnx", "--out", str(link)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "and would be overwritten" in result.stderr
    assert link.read_bytes() == before
