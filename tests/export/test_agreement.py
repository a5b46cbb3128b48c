"""How far a file may be from the float model."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from movinet_convert.errors import ExportError, ParityError
from movinet_convert.export.agreement import (
    FLOORS,
    Agreement,
    agreement_of,
    require_exact,
    require_floor,
)

FRAMES, CLASSES = 50, 20


def logits() -> Tensor:
    return torch.randn(FRAMES, CLASSES, generator=torch.Generator().manual_seed(0))


def noisy(share: float) -> Agreement:
    noise = torch.randn(FRAMES, CLASSES, generator=torch.Generator().manual_seed(1))
    return agreement_of(logits() + share * noise, logits(), FRAMES, 1)


def test_agreement_is_computed_from_the_logits() -> None:
    expected = torch.tensor([[0.0, 2.0], [4.0, 2.0]])
    found = agreement_of(torch.tensor([[3.0, 2.0], [4.0, 2.0]]), expected, 2, 1)
    spread = expected.std().item()
    assert found.deviation == pytest.approx(3 / spread)
    assert found.mean_error == pytest.approx(3 / 4 / spread)
    assert found.top1 == 0.5
    both = torch.stack((torch.tensor([3.0, 2.0, 4.0, 2.0]), expected.flatten()))
    assert found.correlation == pytest.approx(torch.corrcoef(both)[0, 1].item())


@pytest.mark.parametrize("kind", FLOORS)
def test_small_errors_pass_and_larger_ones_are_rejected(kind: str) -> None:
    require_floor(noisy(1e-4), "it", kind)
    with pytest.raises(ExportError, match=f"where {kind} must reach"):
        require_floor(noisy(0.3), "it", kind)


@pytest.mark.parametrize("figure", ["top1", "correlation", "mean_error"])
@pytest.mark.parametrize("kind", FLOORS)
def test_each_metric_alone_can_reject(kind: str, figure: str) -> None:
    floor = FLOORS[kind]
    figures = {"top1": floor.top1, "correlation": floor.correlation, "mean_error": floor.mean_error}
    require_floor(Agreement(20, 1, 1.0, **figures, constant=False), "it", kind)
    figures[figure] += 1e-3 if figure == "mean_error" else -1e-3
    with pytest.raises(ExportError, match="does not agree"):
        require_floor(Agreement(20, 1, 1.0, **figures, constant=False), "it", kind)


def test_allow_loss_limits_the_mean_error() -> None:
    lossy = noisy(0.3)
    require_floor(lossy, "it", "int8", allow_loss=lossy.mean_error)
    with pytest.raises(ExportError, match="was allowed"):
        require_floor(lossy, "it", "int8", allow_loss=0.99 * lossy.mean_error)


@pytest.mark.parametrize(
    "found",
    [
        torch.full((FRAMES, CLASSES), math.nan),
        torch.full((FRAMES, CLASSES), 1.0),
        logits().masked_fill(torch.arange(FRAMES)[:, None] == 7, 0.0),
        logits().masked_fill(torch.arange(FRAMES)[:, None] == 7, math.inf),
    ],
    ids=["NaN", "constant", "constant in a frame", "infinite in a frame"],
)
def test_degenerate_logits_are_never_accepted(found: Tensor) -> None:
    degenerate = agreement_of(found, logits(), FRAMES, 1)
    with pytest.raises(ExportError, match="not finite or the same for all classes"):
        require_floor(degenerate, "it", "int8", allow_loss=1e9)
    with pytest.raises(ParityError):
        require_exact(degenerate, "it")
    same = agreement_of(found, found, FRAMES, 1)
    with pytest.raises(ParityError):
        require_exact(same, "it")


def test_full_precision_may_differ_only_by_rounding() -> None:
    require_exact(noisy(1e-6), "it")
    with pytest.raises(ParityError, match="differs from the eager model"):
        require_exact(noisy(1e-3), "it")


def test_the_documented_floors_are_up_to_date() -> None:
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    for kind, floor in FLOORS.items():
        figures = f"{floor.top1:.0%} | {floor.correlation:g} | {floor.mean_error:g} |"
        assert re.search(rf'"{kind}"` \| {re.escape(figures)}', text), kind
