"""The same weights in any layout give the same names and values, bit for bit."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from movinet_convert.checkpoint import Checkpoint, open_checkpoint
from movinet_convert.checkpoint.canonical import containers
from movinet_convert.checkpoint.model_garden import write_checkpoint
from movinet_convert.checkpoint.random_access import ByteRange
from movinet_convert.checkpoint.structure import Structure, read_structure
from movinet_convert.checkpoint.tensor_bundle import read_index
from movinet_convert.conversion.pipeline import convert
from movinet_convert.variants import ARCHS
from tests.checkpoint import official, writers
from tests.helpers.seeded import choices

VARIANTS = ("a0-base", "a0-stream", "a3-stream")
LAYOUTS = {
    "keras-tf-format": writers.keras_tf_format,
    "untraced-saved-model": writers.untraced_saved_model,
    "training": writers.training_run,
    "training-3d-2plus1d": writers.training_in_3d,
    "keras-saved-model": writers.listed_variables,
    "tfhub-saved-model": writers.tfhub,
    "keras-h5": writers.keras_h5,
    "keras-weights-h5": writers.keras_weights_h5,
    "pytorch-port": writers.pytorch_port,
}
REPORTED = {"untraced-saved-model": "keras-tf-format", "training-3d-2plus1d": "model-garden"}
ABSENT = {
    ("training-3d-2plus1d", "a0-base"): "base models have no (2+1)D convolutions",
    ("keras-h5", "a3-stream"): "Keras cannot write it: 33 variables are called 'scale'",
    ("pytorch-port", "a3-stream"): "the port has no positional encoding",
}
CASES = [case for case in itertools.product(LAYOUTS, VARIANTS) if case not in ABSENT]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
def model_of(models: dict[str, Any]) -> Any:
    def get(variant: str) -> Any:
        if variant not in models:
            models[variant] = official.build(variant)
        return models[variant]

    return get


@pytest.fixture(scope="module")
def reference_of(model_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Model Garden layout of the weights, and the sha256 that converting it gives."""
    known: dict[str, tuple[Checkpoint, str]] = {}

    def get(variant: str) -> tuple[Checkpoint, str]:
        if variant not in known:
            folder = tmp_path_factory.mktemp(variant)
            prefix = official.save_model_garden(model_of(variant), folder)
            known[variant] = open_checkpoint(prefix), converted_sha256(variant, prefix, folder)
        return known[variant]

    return get


def converted_sha256(variant: str, path: Path, folder: Path) -> str:
    return convert(
        variant, path, **choices(variant, "model-garden"), out=folder / "store", parity=None
    ).stored.entry.sha256


@pytest.mark.parametrize(("layout", "variant"), CASES)
def test_layout_gives_same_weights_as_model_garden(
    layout: str, variant: str, model_of: Any, reference_of: Any, tmp_path: Path
) -> None:
    reference, sha256 = reference_of(variant)
    path = LAYOUTS[layout](model_of(variant), variant, tmp_path)
    opened = open_checkpoint(path)
    assert opened.layout == REPORTED.get(layout, layout)
    assert opened.arch == variant[:2]
    assert_same_weights(opened, reference)
    assert converted_sha256(variant, path, tmp_path) == sha256


def assert_same_weights(ours: Checkpoint, expected: Checkpoint) -> None:
    assert set(ours.variables) == set(expected.variables)
    for name, array in expected.variables.items():
        mine = ours.variables[name]
        assert mine.shape == array.shape == ours.variables.shape(name), name
        assert mine.dtype == array.dtype
        assert mine.tobytes() == array.tobytes(), name


def test_reference_variables_are_all_different(reference_of: Any) -> None:
    """No two variables of the test weights are equal, so that a swap cannot go unseen."""
    for variant in VARIANTS:
        variables = reference_of(variant)[0].variables
        assert len({array.tobytes() for array in variables.values()}) == len(variables)


def test_reads_traced_keras_saved_model(model_of: Any, tmp_path: Path) -> None:
    """Traced, as ``model.save`` does by default; ``listed_variables`` stands for larger ones."""
    model = model_of("t0-base")
    reference = open_checkpoint(official.save_model_garden(model, tmp_path))
    model.save(str(tmp_path / "saved_model"))
    for path in (tmp_path / "saved_model", tmp_path / "saved_model" / "variables" / "variables"):
        opened = open_checkpoint(path)
        assert opened.layout == "keras-saved-model"
        assert_same_weights(opened, reference)


def test_tfhub_layout_has_keys_and_shapes_of_published_model(
    trained_folder: Path, tmp_path: Path
) -> None:
    published = trained_folder.parent / "tfhub_movinet_a2_base_k600" / "variables"
    if not published.is_dir():
        pytest.skip("no published index at hand")
    model = official.build("a2-base", classes=600)
    ours = writers.tfhub(model, "a2-base", tmp_path) / "variables"
    assert shapes_of_list_keys(ours) == shapes_of_list_keys(published)


def shapes_of_list_keys(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read from the index alone: the published one comes without its data."""
    _, entries = read_index(ByteRange.of_path(folder / "variables.index"))
    pattern = re.compile(r"(trainable_)?variables/\d+/.*")
    return {name: entry.shape for name, entry in entries.items() if pattern.fullmatch(name)}


def test_backbone_without_classifier_lacks_only_the_classifier(
    model_of: Any, reference_of: Any, tmp_path: Path
) -> None:
    import tensorflow as tf

    backbone = model_of("a0-stream").backbone
    backbone.save_weights(str(tmp_path / "keras"))
    backbone.save_weights(str(tmp_path / "x.weights.h5"))
    backbone.save_weights(str(tmp_path / "x.h5"))
    garden = tf.train.Checkpoint(backbone=backbone).save(str(tmp_path / "garden"))
    whole = reference_of("a0-stream")[0].variables
    expected = {name: array for name, array in whole.items() if "classifier" not in name}
    for path in (tmp_path / "keras", tmp_path / "x.weights.h5", tmp_path / "x.h5", garden):
        opened = open_checkpoint(path)
        assert set(opened.variables) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(opened.variables[name], array)
        assert read_structure(opened).classes is None


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("a0-base", Structure("a0", "3d", "3d", False, 7, None)),
        ("a0-stream", Structure("a0", "2plus1d", "2plus3d", False, 7, True)),
        ("a3-stream", Structure("a3", "2plus1d", "2plus3d", True, 7, True)),
    ],
)
def test_infers_settings_of_released_model_from_weights(
    variant: str, expected: Structure, reference_of: Any
) -> None:
    assert read_structure(reference_of(variant)[0]) == expected


@pytest.mark.parametrize(
    ("se_type", "encoded"), [("3d", True), ("3d", False), ("2plus3d", False)], ids=str
)
def test_infers_settings_of_causal_3d_model_from_weights(
    se_type: str, encoded: bool, tmp_path: Path
) -> None:
    """Without running context in its shapes, nothing tells such a model from a base model."""
    options = {"conv_type": "3d", "se_type": se_type, "positional_encoding": encoded}
    prefix = official.save_model_garden(official.build("t0-stream", **options), tmp_path)
    causal = True if encoded or se_type == "2plus3d" else None
    assert read_structure(open_checkpoint(prefix)) == Structure(
        "t0", "3d", se_type, encoded, 7, causal
    )


def test_causal_3d_model_may_be_base_or_legacy() -> None:
    undecided = Structure("a0", "3d", "3d", False, 600, None)
    assert undecided.may_be_base
    assert undecided.may_be_legacy
    encoded = Structure("a3", "3d", "3d", True, 600, True)
    assert not encoded.may_be_base
    assert encoded.may_be_legacy
    stream = Structure("a0", "2plus1d", "2plus3d", False, 600, True)
    assert not stream.may_be_base
    assert not stream.may_be_legacy


@pytest.mark.parametrize("classes", [1, 600])
def test_reads_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    block = "block0_layer0/_attention/_se_reduce/_conv/kernel"
    weights = {
        **{f"{container}/_stem/x": np.zeros(1, np.float32) for container in containers("t0")},
        block: np.zeros((1, 1, 1, ARCHS["t0"].blocks[0].expanded, 8), np.float32),
        "classifier_head/_classifier/_conv/bias": np.zeros(classes, np.float32),
    }
    prefix = write_checkpoint(tmp_path / "written", "t0", weights)
    assert read_structure(open_checkpoint(prefix)).classes == classes


def test_reads_whole_keras_hdf5_model_and_ignores_optimizer(model_of: Any, tmp_path: Path) -> None:
    model = model_of("t0-base")
    reference = open_checkpoint(official.save_model_garden(model, tmp_path))
    model.compile("sgd", "mse")
    model.save(str(tmp_path / "whole.h5"))
    opened = open_checkpoint(tmp_path / "whole.h5")
    assert opened.layout == "keras-h5"
    assert_same_weights(opened, reference)
    assert set(opened.ignored.values()) <= {"optimizer variable", "training step counter"}
