"""All twelve networks compute what the official ones compute, in every case and every state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from movinet_convert.parity import ParityReport, verify_model
from movinet_convert.variants import list_variants
from tests.parity_tools import synthetic_model

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1e-4  # of the logits' deviation; 1e-5 is the goal
ROUNDING = 1e-5  # of ours in float32 against ours in float64
STREAM_CASES = ["one clip", "frame by frame", "uneven chunks", "batch", "not square", "odd size"]
BASE_CASES = ["one clip", "batch", "not square", "odd size"]


@pytest.fixture(scope="module")
def report() -> Callable[[str], ParityReport]:
    """The report of a variant, made once; small clips, for Conv3D is slow in TensorFlow."""
    reports: dict[str, ParityReport] = {}

    def of(name: str) -> ParityReport:
        if name not in reports:
            model, variables = synthetic_model(name)
            reports[name] = verify_model(model, variables, frames=5, size=(36, 36))
        return reports[name]

    return of


@pytest.mark.parametrize("name", list_variants())
def test_every_case_and_every_state_is_within_the_limit(
    name: str, report: Callable[[str], ParityReport]
) -> None:
    result = report(name)
    assert [case.name for case in result.cases] == (
        STREAM_CASES if name.endswith("stream") else BASE_CASES
    )
    for case in result.cases:
        assert 1 <= case.deviation <= 10
        assert case.beyond(LIMIT) == []
    assert result.passed
    assert result.parts_at is None
    assert result.worst.ours32_ours64 <= ROUNDING


def test_ten_of_the_twelve_are_at_least_as_near_to_float64_as_tensorflow(
    report: Callable[[str], ParityReport],
) -> None:
    nearer = [name for name in list_variants() if report(name).nearer_than_reference]
    assert len(nearer) >= 10
