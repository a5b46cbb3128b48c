"""The way back to a TensorFlow checkpoint; ``test_all_variants.py`` takes all twelve there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.export.tensorflow import export_checkpoint
from movinet_convert.model import create_model
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import random_clips
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.weights.tf_variables import tf_variables
from tests.helpers.parity_tools import converted, forget, restore

CLASSES = 7


def reference_with_weights(name: str) -> Reference:
    variant = get_variant(name)
    reference = Reference(variant, variant.settings(), CLASSES)
    reference.load(synthetic_variables(variant, reference.shapes))
    return reference


@pytest.mark.parametrize("name", ["t0-base", "t0-stream"])
def test_the_restored_official_model_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    reference = reference_with_weights(name)
    clip = random_clips(2, 3, 40, 32, seed=1)
    before = reference.logits(clip)
    model = converted(name, reference.save(tmp_path / "tensorflow"))
    prefix = export_checkpoint(model, tmp_path / "ours")
    forget(reference)
    assert not np.array_equal(reference.logits(clip), before)
    restore(reference, prefix)
    assert np.array_equal(reference.logits(clip), before)


def test_the_backbone_can_be_restored_alone(tmp_path: Path) -> None:
    """As who fine-tunes in TensorFlow does, with another classifier on top."""
    import tensorflow as tf

    reference = reference_with_weights("t0-stream")
    prefix = export_checkpoint(
        converted("t0-stream", reference.save(tmp_path / "tensorflow")), tmp_path / "ours"
    )
    backbone = reference.model.backbone
    expected = [variable.numpy() for variable in backbone.variables]
    forget(reference)
    holder = tf.train.Checkpoint(_backbone=backbone)
    status = tf.train.Checkpoint(model=holder).restore(str(prefix))
    status.assert_existing_objects_matched().expect_partial()
    for variable, value in zip(backbone.variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_trained_checkpoint_round_trips_bit_for_bit(tmp_path: Path) -> None:
    root = os.environ.get("MOVINET_CHECKPOINTS")
    folder = Path(root or "") / "movinet_a0_stream_cattle7"
    if not root or not folder.is_dir():
        pytest.skip("MOVINET_CHECKPOINTS holds no movinet_a0_stream_cattle7")
    before = open_checkpoint(folder)
    converted = convert_checkpoint(given(folder), gating="model-garden", head_activation="swish")
    model = converted.to_model()
    after = open_checkpoint(export_checkpoint(model, tmp_path / "ours"))
    assert set(after.variables) == set(before.variables)
    for key in before.variables:
        assert after.variables[key].tobytes() == before.variables[key].tobytes(), key


def test_a_network_created_in_pytorch_can_be_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("t0-base", num_classes=3)
    opened = open_checkpoint(export_checkpoint(model, tmp_path / "ours"))
    assert opened.arch == "t0"
    expected = tf_variables(model)
    assert set(opened.variables) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(opened.variables[key], array)


def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    model = create_model("t0-stream", num_classes=3).to(torch.bfloat16)
    variables = open_checkpoint(export_checkpoint(model, tmp_path / "ours")).variables
    assert {variables[key].dtype for key in variables} == {np.dtype("float32")}


def test_weights_that_are_not_finite_are_rejected_and_nothing_is_written(tmp_path: Path) -> None:
    model = create_model("t0-stream", num_classes=3)
    with torch.no_grad():
        model.classifier.output.bias[1] = float("nan")
    with pytest.raises(WeightsError, match=r"classifier\.output\.bias.*not finite"):
        export_checkpoint(model, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_fused_network_is_rejected(tmp_path: Path) -> None:
    model = create_model("t0-stream", num_classes=3)
    model.stem.norm = torch.nn.Identity()  # type: ignore[assignment]
    model.stem.conv.bias = torch.nn.Parameter(torch.zeros(8))
    with pytest.raises(UsageError, match="without fuse=True"):
        export_checkpoint(model, tmp_path / "ours")
