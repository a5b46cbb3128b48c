"""A base variant as 2D convolutions equals its 3D convolutions."""

from pathlib import Path

import pytest
import torch

from movinet_convert.errors import UsageError
from movinet_convert.export import export_model, load_exported
from movinet_convert.export.flat_clip import flat_clip_program
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from tests.export.conftest import SIZE, require_runtime
from tests.helpers.settled import settled_model


@torch.no_grad()
def difference(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> float:
    """Relative to the standard deviation of the logits."""
    clips = torch.rand(batch, 3, frames, *size)
    expected = model(clips)
    found = flat_clip_program(fuse(model), frames, size, batch).module(clips)
    return ((found - expected).abs().max() / expected.std()).item()


@pytest.mark.parametrize("frames", [2, 3, 8])  # fewer than the longest kernel sees, and more
def test_clips_of_any_length(frames: int) -> None:
    assert difference(settled_model("t0-base"), frames, (33, 46)) < 1e-4


@pytest.mark.parametrize("name", [f"a{i}-base" for i in range(3)])
def test_released_variants(name: str) -> None:
    assert difference(settled_model(name), 6, (40, 32)) < 1e-4


def test_a_batch_of_clips() -> None:
    assert difference(settled_model("t0-base"), 3, (33, 46), batch=2) < 1e-4


def test_a_clip_of_a_single_frame_is_rejected() -> None:
    with pytest.raises(UsageError, match="from 2 to 1024 frames; got 1"):
        flat_clip_program(fuse(settled_model("t0-base")), 1, SIZE)


@pytest.mark.parametrize("format", ["executorch", "litert"])
def test_a_base_model_runs_on_clips_of_one_length(
    format: str, base_model: MoViNet, short_t0: None, tmp_path: Path
) -> None:
    require_runtime(format)
    report = export_model(base_model, tmp_path / "clip", format, frames=6, size=SIZE)
    assert report.agreement.deviation < 1e-4
    exported = load_exported(report.path)
    clips = torch.rand(2, 1, 3, 6, *SIZE)
    with torch.no_grad():
        expected = [base_model(clip) for clip in clips]
    found = [exported(clip) for clip in clips]
    for logits, reference in zip(found, expected, strict=True):
        assert (logits - reference).abs().max() < 1e-4 * reference.std()
    with pytest.raises(UsageError, match="takes clips of 6 frames; got 7: .*export t0-base"):
        exported(torch.rand(1, 3, 7, *SIZE))
    assert exported.shortest == 6
