"""Every tensor that the reader yields is bit-equal to what TensorFlow's own reader yields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.random_access import Folder
from movinet_convert.checkpoint.tensor_bundle import OBJECT_GRAPH_KEY, BundleReader
from tests.checkpoint import official

if TYPE_CHECKING:
    from pathlib import Path

RMSPROP = {"optimizer": {"type": "rmsprop", "rmsprop": {"momentum": 0.9, "rho": 0.9}}}
ADAM = {"optimizer": {"type": "adam_experimental"}}
MOVING_AVERAGE = {
    "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
    "ema": {"average_decay": 0.99},
}
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def assert_reads_like_tensorflow(prefix: Path) -> None:
    import tensorflow as tf

    theirs = tf.train.load_checkpoint(str(prefix))
    ours = BundleReader(Folder(prefix.parent).open, prefix.name)
    assert set(ours.entries) == set(theirs.get_variable_to_shape_map())
    for name, entry in ours.entries.items():
        expected = theirs.get_tensor(name)
        if entry.is_string:
            assert ours.read_string(name) == expected
            continue
        array = ours.read(name)
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.tobytes() == expected.tobytes(), name


def test_reads_released_checkpoint_like_tensorflow(released: Path) -> None:
    assert_reads_like_tensorflow(released)


def test_reads_trained_checkpoint_like_tensorflow(trained_folder: Path) -> None:
    assert_reads_like_tensorflow(trained_folder / "ckpt-1")


def test_reads_sharded_checkpoint_like_tensorflow(released: Path, tmp_path: Path) -> None:
    sharded = official.save_in_shards(released, tmp_path, shards=3)
    assert len(list(tmp_path.glob("sharded.data-*-of-00003"))) == 3
    assert_reads_like_tensorflow(sharded)


@pytest.mark.parametrize(
    "optimizer", [RMSPROP, ADAM, MOVING_AVERAGE], ids=["rmsprop", "adam", "moving-average"]
)
def test_reads_training_run_like_tensorflow_with_same_weights(
    optimizer: dict[str, Any], tmp_path: Path
) -> None:
    model = official.build("t0-stream")
    run = official.save_training_run(model, tmp_path / "run", optimizer)
    plain = official.save_model_garden(model, tmp_path / "plain")

    assert_reads_like_tensorflow(run)
    trained, saved = open_checkpoint(run), open_checkpoint(plain)
    assert trained.layout == "training"
    assert trained.arch == "t0"
    assert_same_weights(trained.variables, saved.variables)


def test_reports_ignored_variables_of_training_run(tmp_path: Path) -> None:
    model = official.build("t0-stream")
    run = official.save_training_run(model, tmp_path, MOVING_AVERAGE)
    opened = open_checkpoint(run)
    kernel = "backbone/layer_with_weights-0/_stem/_conv/_conv/kernel/.OPTIMIZER_SLOT/optimizer"
    said = opened.ignored
    assert "moving average" in said[f"{kernel}/average{SUFFIX}"]
    assert "slot" in said[f"{kernel}/ema_base_optimizer/momentum{SUFFIX}"]
    assert "step" in said[f"global_step{SUFFIX}"]
    assert "saved" in said[f"save_counter{SUFFIX}"]

    stored = {opened.variables.stored_name(name) for name in opened.variables}
    bundle = BundleReader(Folder(run.parent).open, run.name)
    assert stored | set(said) == set(bundle.entries) - {OBJECT_GRAPH_KEY}
    assert not stored & set(said)


def test_keras_save_weights_gives_same_weights(
    a0_stream: Any, released: Path, tmp_path: Path
) -> None:
    a0_stream.save_weights(str(tmp_path / "weights"))
    assert_reads_like_tensorflow(tmp_path / "weights")
    opened = open_checkpoint(tmp_path / "weights")
    assert opened.layout == "keras-tf-format"
    assert_same_weights(opened.variables, open_checkpoint(released).variables)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32", "int64", "bool"])
def test_reads_other_dtypes_like_tensorflow(dtype: str, tmp_path: Path) -> None:
    import tensorflow as tf

    values = tf.cast(tf.constant([[0.0, 1.5, -2.25], [3e4, 1e-3, 7.0]]), dtype)
    prefix = tmp_path / "x"
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=["t"], shape_and_slices=[""], tensors=[values]
    )
    ours = BundleReader(Folder(tmp_path).open, "x").read("t")
    expected = tf.cast(values, "float32") if dtype == "bfloat16" else values
    assert ours.dtype == expected.dtype.as_numpy_dtype
    np.testing.assert_array_equal(ours, expected.numpy())


def test_reads_bfloat16_scalar_as_array(tmp_path: Path) -> None:
    import tensorflow as tf

    value = tf.constant(1.5, tf.bfloat16)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"), tensor_names=["t"], shape_and_slices=[""], tensors=[value]
    )
    ours = BundleReader(Folder(tmp_path).open, "x").read("t")
    assert isinstance(ours, np.ndarray)
    assert ours.shape == ()
    assert ours == 1.5


def assert_same_weights(ours: Any, expected: Any) -> None:
    assert set(ours) == set(expected)
    for name in expected:
        assert ours[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)
