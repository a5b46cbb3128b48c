"""The official model behind our names and layouts."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from movinet_convert.errors import CheckpointError, MissingExtraError, StateError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import random_clips
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.variants import Settings
from tests.helpers.parity_tools import restore, variable_shapes

if TYPE_CHECKING:
    from pathlib import Path

STREAM = get_variant("a0-stream")


@pytest.fixture(scope="module")
def reference() -> Reference:
    reference = Reference(STREAM, num_classes=20)
    reference.load(synthetic_variables(STREAM, reference.shapes))
    return reference


def test_variables_equal_those_of_the_mapping_table(reference: Reference) -> None:
    assert reference.shapes == variable_shapes("a0-stream", 20)


def test_variables_are_named_as_in_a_tensorflow_checkpoint(
    reference: Reference, tmp_path: Path
) -> None:
    import tensorflow as tf

    stored = tf.train.load_checkpoint(str(reference.save(tmp_path)))
    tops = ["stem", *(block.name for block in STREAM.spec.blocks), "head"]
    prefixes = {name: f"layer_with_weights-0/layer_with_weights-{i}" for i, name in enumerate(tops)}
    prefixes["classifier_head"] = "layer_with_weights-1"
    for name, array in reference.variables().items():
        top, rest = name.split("/", 1)
        key = f"model/{prefixes[top]}/{rest}/.ATTRIBUTES/VARIABLE_VALUE"
        np.testing.assert_array_equal(stored.get_tensor(key), array)


def test_a_saved_checkpoint_is_restored_completely(reference: Reference, tmp_path: Path) -> None:
    variables = reference.variables()
    prefix = reference.save(tmp_path)
    reference.load({name: np.zeros_like(array) for name, array in variables.items()})
    restore(reference, prefix)
    for name, array in reference.variables().items():
        np.testing.assert_array_equal(array, variables[name], err_msg=name)


def test_restoring_a_checkpoint_of_other_classes_fails(
    reference: Reference, tmp_path: Path
) -> None:
    prefix = Reference(STREAM, num_classes=7).save(tmp_path)
    with pytest.raises((AssertionError, ValueError)):
        restore(reference, prefix)


def test_missing_or_mismatched_variables_are_rejected(reference: Reference) -> None:
    variables = reference.variables()
    name = "head/_project/_batch_norm/gamma"
    lacking = {key: array for key, array in variables.items() if key != name}
    with pytest.raises(CheckpointError, match=f"1 missing.*{name}"):
        reference.load(lacking)
    with pytest.raises(CheckpointError, match="1 unknown.*extra"):
        reference.load({**variables, "extra": np.zeros(1)})
    with pytest.raises(CheckpointError, match=f"{name} has the shape"):
        reference.load({**variables, name: np.zeros(3)})
    reference.load(variables)


def test_a_chunked_stream_gives_the_logits_and_state_of_the_whole_clip(
    reference: Reference,
) -> None:
    clip = random_clips(2, 5, 32, 40, seed=3)
    whole, state = reference.stream(clip)
    _, first = reference.stream(clip[:, :, :2])
    parts, resumed = reference.stream(clip[:, :, 2:], first)
    np.testing.assert_allclose(reference.logits(clip), whole, atol=1e-6)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    assert first.frame_count.tolist() == [2, 2]
    assert state.frame_count.tolist() == [5, 5]
    for (name, array), (_, other) in zip(state.tensors(), resumed.tensors(), strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4, err_msg=name)


def test_a_batch_of_videos_started_at_different_times_is_rejected(reference: Reference) -> None:
    clip = random_clips(2, 1, 32, 32, seed=0)
    _, state = reference.stream(clip)
    mixed = dataclasses.replace(state, frame_count=torch.tensor([1, 5]))
    with pytest.raises(StateError, match="one frame count"):
        reference.stream(clip, mixed)


def test_endpoints_are_ordered_and_channels_first(reference: Reference) -> None:
    endpoints = reference.endpoints(random_clips(1, 3, 33, 48, seed=0))
    assert list(endpoints) == ["stem", *(block.name for block in STREAM.spec.blocks), "head"]
    assert endpoints["stem"].shape == (1, 8, 3, 17, 24)
    assert endpoints["block4_layer3"].shape == (1, 104, 3, 2, 2)
    assert endpoints["head"].shape == (1, 480, 1, 1, 1)


def test_legacy_3d_stream_models_can_be_built() -> None:
    legacy = Settings(True, "3d", "3d", "swish", "sigmoid", False)
    reference = Reference(STREAM, legacy, num_classes=5)
    reference.load(synthetic_variables(STREAM, reference.shapes))
    assert reference.shapes["block1_layer0/_feature/_conv/kernel"] == (3, 3, 3, 1, 80)
    clip = random_clips(1, 4, 32, 32, seed=0)
    whole, _ = reference.stream(clip)
    _, first = reference.stream(clip[:, :, :1])
    parts, _ = reference.stream(clip[:, :, 1:], first)
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_missing_tensorflow_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf_keras", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r"needs the extra \[tf\]"):
        Reference(STREAM)
