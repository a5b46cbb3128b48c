"""The mapping table: every variable and every tensor exactly once, both ways."""

from __future__ import annotations

import numpy as np
import pytest

from movinet_convert.checkpoint import mapping
from movinet_convert.checkpoint.mapping import Link
from movinet_convert.errors import CheckpointError
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import list_variants
from tests.helpers.seeded import variables


def pairs_of(name: str, num_classes: int = 7) -> tuple[Link, ...]:
    variant = get_variant(name)
    settings = variant.settings()
    return mapping.links(variant, settings.conv_type, tensor_shapes(variant, settings, num_classes))


@pytest.mark.parametrize("name", list_variants(released=False))
def test_round_trip_is_bitwise_equal(name: str) -> None:
    arrays = variables(name)
    pairs = pairs_of(name)
    tensors = mapping.map_variables(arrays, pairs, name)
    for link in pairs:
        assert tensors[link.torch].shape == link.torch_shape
        assert np.array_equal(link.to_tf(tensors[link.torch]), arrays[link.tf])


def test_layout_changes_move_expected_axes() -> None:
    by_name = {link.torch: link for link in pairs_of("a0-stream")}
    array = np.arange(3 * 3 * 80 * 1).reshape(3, 3, 80, 1)
    depthwise = by_name["blocks.block1_layer0.feature.conv.weight"].to_torch(array)
    assert depthwise.shape == (80, 1, 3, 3)
    assert depthwise[5, 0, 1, 2] == array[1, 2, 5, 0]
    kernel = np.arange(2048 * 7).reshape(1, 1, 2048, 7)
    linear = by_name["classifier.output.weight"].to_torch(kernel)
    assert linear[3, 100] == kernel[0, 0, 100, 3]

    by_name = {link.torch: link for link in pairs_of("a0-base")}
    array = np.arange(5 * 3 * 3 * 184).reshape(5, 3, 3, 1, 184)
    depthwise = by_name["blocks.block2_layer0.feature.conv.weight"].to_torch(array)
    assert depthwise[7, 0, 4, 1, 2] == array[4, 1, 2, 0, 7]


def test_tensor_without_table_row_raises() -> None:
    variant = get_variant("a0-base")
    shapes = tensor_shapes(variant, variant.settings(), 7) | {"blocks.extra": (1,)}
    with pytest.raises(KeyError, match=r"blocks\.extra"):
        mapping.links(variant, "3d", shapes)


def test_names_missing_variable() -> None:
    arrays = variables("a0-base")
    del arrays["block1_layer0/_expansion/_conv/kernel"]
    with pytest.raises(CheckpointError, match="lacks variable block1_layer0/_expansion/_conv/ker"):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")


def test_names_unknown_variable() -> None:
    arrays = variables("a0-base") | {"stem/_stem/_extra": np.zeros(3, np.float32)}
    with pytest.raises(CheckpointError, match="has variable stem/_stem/_extra"):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")


def test_names_variable_of_wrong_shape_with_both_shapes() -> None:
    arrays = variables("a0-base")
    arrays["head/_project/_batch_norm/beta"] = np.zeros(479, np.float32)
    with pytest.raises(CheckpointError, match=r"head/_project/.*\(479,\).*\(480,\)"):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.bool_, np.complex64])
def test_names_weight_that_is_not_floating_point(dtype: type[np.generic]) -> None:
    arrays = variables("a0-base")
    arrays["stem/_stem/_conv/kernel"] = arrays["stem/_stem/_conv/kernel"].astype(dtype)
    name = np.dtype(dtype).name
    with pytest.raises(CheckpointError, match=f"stem/_stem/_conv/kernel is stored as {name}"):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")


def test_rounds_float64_weight_to_nearest_float32() -> None:
    arrays = variables("a0-base")
    exact = arrays["head/_project/_batch_norm/beta"].astype(np.float64) + 1e-12
    arrays["head/_project/_batch_norm/beta"] = exact
    tensors = mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")
    assert tensors["head.norm.bias"].dtype == np.float32
    assert np.array_equal(tensors["head.norm.bias"], exact.astype(np.float32))


def test_refuses_weight_beyond_float32_with_its_value() -> None:
    arrays = variables("a0-base")
    large = arrays["head/_project/_batch_norm/beta"].astype(np.float64)
    large[3] = -1e39
    arrays["head/_project/_batch_norm/beta"] = large
    with pytest.raises(
        CheckpointError, match=r"head/_project/_batch_norm/beta has the value 1e\+39"
    ):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_nan_and_infinity(value: float) -> None:
    arrays = variables("a0-base")
    broken = arrays["head/_project/_batch_norm/beta"].copy()
    broken[3] = value
    arrays["head/_project/_batch_norm/beta"] = broken
    with pytest.raises(CheckpointError, match="head/_project/_batch_norm/beta.*not finite"):
        mapping.map_variables(arrays, pairs_of("a0-base"), "a0-base")
