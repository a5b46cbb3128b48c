"""What differences are relative to, and which settings and values a comparison refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from movinet_convert.errors import UsageError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import parity_cases
from movinet_convert.parity.options import MAX_TOLERANCES, TOLERANCES, ParityOptions
from movinet_convert.parity.scales import (
    LOGITS_SHARE,
    STATE_SHARE,
    element_scales,
    logits_std,
    robust_std,
    state_std,
)
from movinet_convert.variants import list_variants

NORMAL = np.random.default_rng(0).normal(0.0, 3.0, 10_000)


@pytest.mark.parametrize("share", [LOGITS_SHARE, STATE_SHARE])
def test_the_robust_std_of_a_normal_distribution_is_its_std(share: float) -> None:
    assert robust_std(NORMAL + 50.0, share) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("share", [LOGITS_SHARE, STATE_SHARE])
def test_a_few_enormous_values_do_not_change_the_std(share: float) -> None:
    attacked = np.append(NORMAL, [1e6, -1e9, 1e30])
    assert robust_std(attacked, share) == pytest.approx(robust_std(NORMAL, share), rel=0.01)


def test_up_to_half_of_the_logits_can_be_outliers() -> None:
    assert robust_std(np.array([0.5, -1.0, 2.0, 1e6, -1e6])) < 5.0


def test_zeros_that_are_not_activations_do_not_change_the_std() -> None:
    mostly_zero = np.append(NORMAL, np.zeros(90_000))
    assert robust_std(mostly_zero) == pytest.approx(robust_std(NORMAL), rel=0.01)


def test_the_std_of_equal_values_is_their_size() -> None:
    assert robust_std(np.full(7, -2.5)) == 2.5
    assert robust_std(np.zeros(7)) == 0.0


@pytest.mark.parametrize("mask", [1e6, -1e4, -1e9, np.finfo(np.float32).min])
@pytest.mark.parametrize("masked", [1, 590])
def test_masking_classes_keeps_the_std_of_the_others(mask: float, masked: int) -> None:
    computed = NORMAL[:6000].reshape(10, 600).astype(np.float32)
    bias = np.zeros(600, np.float32)
    bias[:masked] = mask
    assert logits_std(computed + bias, bias) == pytest.approx(3.0, rel=0.3)


def test_logits_that_are_all_bias_have_no_std() -> None:
    bias = np.array([1e12, -3e12], np.float32)
    assert logits_std(bias + np.ones((5, 2), np.float32), bias) is None
    assert logits_std(np.zeros((5, 2), np.float32), np.zeros(2, np.float32)) is None


def test_a_state_is_relative_to_its_own_std_or_to_that_of_the_logits_if_larger() -> None:
    own = robust_std(NORMAL, STATE_SHARE)
    assert state_std(NORMAL, own / 2) == own
    assert state_std(NORMAL, own * 2) == own * 2
    assert state_std(NORMAL, own * 1e6) == pytest.approx(own * 32)
    assert state_std(np.zeros(5), own) == own
    assert state_std(np.array([65, 65]), own) == 1.0


def test_only_an_outlier_is_relative_to_its_own_size() -> None:
    scales = element_scales(np.array([1e6, 0.0, -8.0, 20.0]), 3.0)
    assert scales.tolist() == [2.5e5, 3.0, 3.0, 5.0]
    assert element_scales(np.array([65, 65]), 1.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"frames": 2}, "at least 3 frames"),
        ({"size": (31, 64)}, "at least 32x32"),
        ({"clips": 0}, "at least 1 clip"),
        ({"seed": -1}, "seed"),
        ({"tolerance": 0.0}, "above 0"),
        ({"tolerance": math.nan}, "above 0"),
        ({"tolerance": math.inf}, "above 0"),
        ({"tolerance": 1e3}, "wrong networks"),
    ],
)
def test_options_that_would_make_the_comparison_meaningless_are_rejected(
    setting: dict[str, object], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        ParityOptions(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_each_dtype_has_a_tolerance_and_a_bound_on_it(dtype: str) -> None:
    assert ParityOptions().tolerance_for(dtype) == TOLERANCES[dtype] < MAX_TOLERANCES[dtype]
    with pytest.raises(UsageError, match="wrong networks"):
        ParityOptions(tolerance=1.01 * MAX_TOLERANCES[dtype]).tolerance_for(dtype)


@pytest.mark.parametrize("name", list_variants())
def test_the_default_cases_include_a_long_video_and_the_variants_own_size(name: str) -> None:
    variant = get_variant(name)
    cases = parity_cases(variant, variant.settings(), ParityOptions())
    assert max(case.frames for case in cases) == 65
    assert (variant.input.size, variant.input.size) in [case.size for case in cases]


@pytest.mark.parametrize("setting", [{"frames": 8}, {"size": (64, 64)}])
def test_other_frames_or_sizes_are_partial_coverage(setting: dict[str, object]) -> None:
    assert ParityOptions(clips=3, seed=5).coverage == "full"
    assert ParityOptions(**setting).coverage == "partial"  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [3, 4, 8])
def test_no_two_cases_of_a_stream_are_the_same(frames: int) -> None:
    variant = get_variant("a0-stream")
    cases = parity_cases(variant, variant.settings(), ParityOptions(frames=frames, size=(32, 32)))
    assert len({(case.batch, case.size, case.chunks) for case in cases}) == len(cases)
