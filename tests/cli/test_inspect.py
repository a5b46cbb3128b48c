"""``inspect``: what it reports about checkpoints and converted files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from movinet_convert import convert, create_model
from movinet_convert.cli.app import main
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from tests.helpers.seeded import choices, variables, write_checkpoint


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "variants", "gating"),
    [
        ("a0-stream", ["a0-stream"], None),
        ("a0-base", ["a0-base", "a0-stream (legacy, 3D)"], "sigmoid"),
    ],
)
def test_a_checkpoint_lists_the_variants_that_fit(
    tmp_path: Path, name: str, variants: list[str], gating: str | None
) -> None:
    found = json.loads(run(write_checkpoint(tmp_path, name), "--json").stdout)
    arrays = variables(name)
    assert found["variants"] == variants
    assert found["gating"] == gating
    assert found["num_classes"] == 7
    assert found["variables"] == len(arrays)
    assert found["values"] == sum(array.size for array in arrays.values())
    assert list(found["ignored"]) == ["save_counter/.ATTRIBUTES/VARIABLE_VALUE"]


def test_variables_lists_every_weight_with_its_shape(tmp_path: Path) -> None:
    result = run(write_checkpoint(tmp_path, "a0-base"), "--variables")
    for name, array in variables("a0-base").items():
        shape = " x ".join(map(str, array.shape)) or "scalar"
        assert f"  {name}  {shape}\n" in result.stdout


def test_a_stream_checkpoint_asks_for_its_gating(tmp_path: Path) -> None:
    assert "choose it with --gating" in run(write_checkpoint(tmp_path, "a0-stream")).stdout


def test_a_converted_file_shows_gating_and_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("a0-stream", num_classes=2, gating="model-garden")
    path = tmp_path / "mine.safetensors"
    write_weights(path, model.state_dict(), Header.of_model(model, labels=("cat", "dog")))
    result = run(path)
    for words in ("movinet-convert", "a0-stream", "model-garden (user)", "verified", "cat, dog"):
        assert words in result.stdout


def test_a_file_that_is_not_a_checkpoint_prints_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing here")
    result = run(path)
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_is_looked_up_in_the_store_unless_a_checkpoint_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "a0-stream", "a0-stream")
    store = tmp_path / "store"
    path = convert(None, checkpoint, **choices("a0-stream"), out=store, parity=None).stored.path
    found = json.loads(run("a0-stream", "--weights-dir", store, "--json").stdout)
    assert (found["path"], found["layout"]) == (str(path), "movinet-convert")
    monkeypatch.chdir(tmp_path)
    found = json.loads(run("a0-stream", "--weights-dir", store, "--json").stdout)
    assert (found["path"], found["layout"]) == ("a0-stream", "model-garden")
    result = run("a1-stream", "--weights-dir", store)
    assert result.exit_code == 1
    assert "has no weights of a1-stream" in result.stderr
