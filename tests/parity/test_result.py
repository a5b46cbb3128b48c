"""What a comparison says, to people, programs and the manifest."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console

from movinet_convert.errors import ParityError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import parity_cases, random_clips
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.result import CaseResult, Distances, ParityResult
from movinet_convert.parity.table import result_table
from movinet_convert.weights.entries import ParityFigures

GOOD = Distances(5e-6, 4e-6, 2e-6)
BAD = Distances(2e-3, 2e-3, 1e-6)
VARIANT = get_variant("a0-stream")
SETTINGS = VARIANT.settings()


def parity_result(
    *tensors: dict[str, Distances], first_difference: str | None = None
) -> ParityResult:
    cases = tuple(
        CaseResult(f"case {i}", 1, (32, 48), (1, 4), 2.5, named) for i, named in enumerate(tensors)
    )
    return ParityResult("a0-stream", SETTINGS, 600, 0, 1, 1e-4, cases, first_difference)


def printed(result: ParityResult) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(result_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_passed_requires_every_tensor_of_every_case_within_the_tolerance() -> None:
    assert parity_result({"logits": GOOD}, {"logits": GOOD, "head": GOOD}).passed
    assert not parity_result({"logits": GOOD}, {"logits": GOOD, "head": BAD}).passed


def test_nan_never_passes() -> None:
    nothing = Distances(math.nan, math.nan, math.nan)
    result = parity_result({"logits": GOOD}, {"logits": nothing})
    assert not result.passed
    assert math.isnan(result.worst.tf_fp32_pt_fp32)


def test_worst_is_the_largest_difference_of_each_kind() -> None:
    result = parity_result(
        {"logits": Distances(1.0, 5.0, 3.0)}, {"logits": Distances(2.0, 4.0, 1.0)}
    )
    assert result.worst == Distances(2.0, 5.0, 3.0)
    assert result.nearer_than_reference
    assert not parity_result({"logits": Distances(1.0, 1.0, 1.1)}).nearer_than_reference


def test_the_error_names_case_tensor_distance_and_block() -> None:
    result = parity_result(
        {"logits": GOOD, "block1_layer0.pool": BAD}, first_difference="block1_layer0"
    )
    with pytest.raises(ParityError) as caught:
        result.raise_for_failure()
    for word in ("case 0", "block1_layer0.pool", "0.002", "0.0001", "gating"):
        assert word in str(caught.value)


def test_the_manifest_records_the_worst_differences() -> None:
    figures = parity_result({"logits": GOOD, "head": Distances(1e-6, 9e-6, 1e-6)}).figures()
    assert figures.model_dump() == {
        "tolerance": 1e-4,
        "tf_fp32_pt_fp32": 5e-6,
        "tf_fp32_pt_fp64": 9e-6,
        "pt_fp32_pt_fp64": 2e-6,
        "coverage": "partial",
        "cases": ("case 0",),
        "frames": 5,
        "size": (32, 48),
        "clips": 1,
        "seed": 0,
    }


def test_json_has_every_difference_and_the_result() -> None:
    data = json.loads(json.dumps(parity_result({"logits": GOOD, "head": BAD}).to_json()))
    assert data["passed"] is False
    assert data["nearer_than_reference"] is True
    assert data["cases"][0]["tensors"]["head"] == dataclasses.asdict(BAD)
    assert data["worst"]["tf_fp32_pt_fp32"] == 2e-3
    assert data["settings"]["gating"] == "keras"


def test_the_table_fits_a_terminal() -> None:
    text = printed(parity_result({"logits": GOOD, "head": GOOD}))
    assert "5.0e-06" in text
    assert "states" in text
    assert "1 x 5 in 2 x 32 x 48" in text
    assert "Passed: largest difference 5e-06" in text
    assert "…" not in text
    failed = printed(parity_result({"logits": BAD}, first_difference="block2_layer0"))
    assert "FAILED" in failed
    assert "block2_layer0" in failed


@pytest.mark.parametrize("frames", [3, 4, 13])
def test_every_case_of_a_stream_covers_the_whole_clip(frames: int) -> None:
    for case in parity_cases(VARIANT, SETTINGS, ParityOptions(frames=frames, size=(32, 32))):
        assert case.frames == frames


@pytest.mark.parametrize("size", [(32, 32), (45, 64), (172, 224)])
def test_the_odd_size_is_odd_and_the_other_is_not_square(size: tuple[int, int]) -> None:
    cases = {case.name: case for case in parity_cases(VARIANT, SETTINGS, ParityOptions(size=size))}
    assert all(pixels % 2 == 1 for pixels in cases["odd size"].size)
    height, width = cases["not square"].size
    assert height == size[0]
    assert width > size[1]


def test_clips_differ_from_each_other_and_from_frame_to_frame() -> None:
    clips = random_clips(3, 4, 24, 32, seed=1)
    assert clips.shape == (3, 3, 4, 24, 32)
    assert clips.dtype == "float32"
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert abs(clips[0] - clips[1]).mean() > 0.05
    assert abs(clips[0, :, 0] - clips[0, :, 3]).mean() > 0.05
    assert (clips == random_clips(3, 4, 24, 32, seed=1)).all()
    assert (clips[:2] == random_clips(2, 4, 24, 32, seed=1)).all()


def test_figures_of_older_manifests_are_read_under_the_current_names() -> None:
    earlier = {"tolerance": 1e-4, "tf32_ours32": 3e-6, "tf32_ours64": 2e-6, "ours32_ours64": 1e-6}
    figures = ParityFigures.model_validate(earlier)
    assert (figures.tf_fp32_pt_fp32, figures.tf_fp32_pt_fp64, figures.pt_fp32_pt_fp64) == (
        3e-6,
        2e-6,
        1e-6,
    )
    assert figures.coverage == "partial"
    assert figures.frames is figures.size is figures.clips is figures.seed is figures.cases is None


def test_the_table_of_all_cases_fits_a_terminal_and_marks_partial_coverage() -> None:
    cases = tuple(
        CaseResult(case.name, case.batch, case.size, case.chunks, 2.5, {"logits": GOOD})
        for case in parity_cases(get_variant("a5-stream"), SETTINGS, ParityOptions())
    )
    partial = dataclasses.replace(parity_result({"logits": GOOD}), cases=cases)
    full = dataclasses.replace(partial, coverage="full")
    assert "…" not in printed(full)
    assert "1 x 65 in 4 x 36 x 36" in printed(full)
    assert "Partial coverage" in printed(partial)
    assert "Partial coverage" not in printed(full)


def test_only_logits_are_compared_for_rounded_weights() -> None:
    (case,) = parity_result({"logits": GOOD, "block1_layer0.pool": BAD}).cases
    assert case.beyond(1e-4) == ["block1_layer0.pool"]
    assert case.of_logits().beyond(1e-4) == []
