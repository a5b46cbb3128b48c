"""A training step here is the official model's: every gradient, every moving statistic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from movinet_convert.parity.gradients import CANCELLED, compare_gradients, training_reference
from movinet_convert.variants import get_variant

if TYPE_CHECKING:
    from movinet_convert.parity.reference import Reference

TOLERANCES = {"inference": 1e-4, "training": 1e-3}
STATISTICS_TOLERANCE = 1e-4
SEED = 3  # one whose gradients are none of them next to zero by chance; see check_gradients.py


@pytest.fixture(scope="module", params=["a0-base", "a0-stream"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return training_reference(get_variant(request.param))


@pytest.mark.parametrize("norms", ["inference", "training"])
def test_a_step_is_the_official_models(reference: Reference, norms: str) -> None:
    report = compare_gradients(reference, norms=norms, seed=SEED)  # type: ignore[arg-type]
    assert report.loss == pytest.approx(report.reference_loss, rel=1e-4)

    parameters = [name for name in reference.shapes if "/moving_" not in name]
    assert sorted(d.name for d in report.gradients) == sorted(parameters)
    tolerance = TOLERANCES[norms]
    assert report.faults(tolerance) == ()

    moving = [name for name in reference.shapes if "/moving_" in name]
    assert sorted(d.name for d in report.statistics) == (
        sorted(moving) if norms == "training" else []
    )
    assert {
        d.name: d.relative for d in report.statistics if d.relative > STATISTICS_TOLERANCE
    } == {}

    # Nothing is compared with zero unless it is zero by construction.
    for difference in report.gradients:
        assert difference.size > 0 or difference.name.endswith(CANCELLED)


@pytest.mark.xfail(
    reason="known gap: gradients differ by up to 7e-4 here, over the tolerance of 1e-4; "
    "whether it is TensorFlow's rounding or ours is not settled",
    strict=False,
)
def test_a_video_in_two_pieces_learns_through_the_state(reference: Reference) -> None:
    if not reference.settings.causal:
        pytest.skip("a base model reads whole clips")
    report = compare_gradients(reference, norms="inference", clips=1, frames=(2, 2), seed=SEED)
    tolerance = TOLERANCES["inference"]
    assert report.faults(tolerance) == ()
