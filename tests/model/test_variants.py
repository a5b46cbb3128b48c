"""The family as data agrees with the official code and the published figures."""

from __future__ import annotations

import pytest

from movinet_convert.errors import UsageError
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import get_variant, released_settings
from movinet_convert.variants import ARCHS, VARIANTS, list_variants, squeeze_width

# Variables and float32 values of every released model.
PUBLISHED_SIZES = {
    "a0-base": (334, 3_126_071),
    "a1-base": (514, 4_717_912),
    "a2-base": (554, 5_280_922),
    "a3-base": (699, 7_443_289),
    "a4-base": (974, 11_422_727),
    "a5-base": (1219, 18_763_355),
    "a0-stream": (389, 3_765_983),
    "a1-stream": (599, 6_481_560),
    "a2-stream": (649, 7_366_050),
    "a3-stream": (847, 11_043_146),
    "a4-stream": (1196, 18_228_326),
    "a5-stream": (1493, 31_636_734),
}


def test_twelve_variants_are_released_and_t0_is_not() -> None:
    assert sorted(list_variants()) == sorted(PUBLISHED_SIZES)
    assert set(list_variants(released=False)) - set(list_variants()) == {"t0-base", "t0-stream"}


@pytest.mark.parametrize("arch", ARCHS)
def test_block_specs_equal_those_of_the_official_code(arch: str) -> None:
    pytest.importorskip("tensorflow")
    from official.projects.movinet.modeling.movinet import BLOCK_SPECS

    stem, *stages, head = BLOCK_SPECS[arch]
    spec = ARCHS[arch]
    assert spec.stem == stem.filters
    assert (spec.head, spec.classifier) == (head.project_filters, head.head_filters)
    ours = [(block.expanded, block.outputs, block.kernel, block.stride) for block in spec.blocks]
    theirs = [
        (expanded, stage.base_filters, kernel, strides[1])
        for stage in stages
        for expanded, kernel, strides in zip(
            stage.expand_filters, stage.kernel_sizes, stage.strides, strict=True
        )
    ]
    assert ours == theirs


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_network_has_the_published_number_of_variables_and_values(name: str) -> None:
    variant = get_variant(name)
    shapes = tensor_shapes(variant, variant.settings(), 600)
    values = 0
    for shape in shapes.values():
        size = 1
        for axis in shape:
            size *= axis
        values += size
    assert (len(shapes), values) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize("se_type", ["3d", "2plus3d"])
def test_squeeze_width_equals_that_of_the_official_code(se_type: str) -> None:
    pytest.importorskip("tensorflow")
    from official.vision.modeling.layers.nn_layers import make_divisible

    factor = 2 if se_type == "2plus3d" else 1
    for expanded in range(8, 1000, 8):
        expected = make_divisible(0.25 * expanded * factor, divisor=8)
        assert squeeze_width(expanded, se_type) == expected


def test_positional_encoding_is_for_the_large_stream_models() -> None:
    encoding = [name for name, v in VARIANTS.items() if v.settings().positional_encoding]
    assert encoding == ["a3-stream", "a4-stream", "a5-stream"]


def test_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'a6-base'.*a0-base"):
        get_variant("a6-base")


def test_base_models_have_no_hard_gating() -> None:
    with pytest.raises(UsageError, match="base model"):
        released_settings(get_variant("a0-base"), "keras")
