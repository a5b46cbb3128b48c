"""What frames go through before the network."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from movinet_convert.errors import UsageError
from movinet_convert.model.settings import get_variant
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_transform_to_its_own_size(name: str) -> None:
    variant = get_variant(name)
    frames = torch.randint(0, 256, (2, 3, 120, 160), dtype=torch.uint8)
    size = variant.input.size
    assert ClipTransform.of(variant)(frames).shape == (3, 2, size, size)


def test_uint8_frames_give_the_clip_of_float_frames_in_whole_levels() -> None:
    frames = torch.randint(0, 256, (3, 3, 70, 80), dtype=torch.uint8)
    transform = ClipTransform(64, 48)
    truncated = (transform(frames.float() / 255) * 255 + 1e-3).floor() / 255
    torch.testing.assert_close(transform(frames), truncated)


def test_a_batch_equals_its_clips_stacked() -> None:
    frames = torch.rand(2, 4, 3, 70, 80)
    transform = ClipTransform(64, 48)
    batch = transform(frames)
    assert batch.shape == (2, 3, 4, 48, 48)
    assert torch.equal(batch[1], transform(frames[1]))


@pytest.mark.parametrize("shape", [(3, 70, 80), (4, 70, 80, 3), (0, 3, 70, 80)])
def test_another_order_of_axes_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\(T, 3, H, W\)"):
        ClipTransform(64, 48)(torch.rand(shape))


def test_integers_other_than_uint8_are_rejected() -> None:
    with pytest.raises(UsageError, match="uint8"):
        ClipTransform(64, 48)(torch.zeros(1, 3, 70, 80, dtype=torch.int64))


def test_variants_does_not_import_torch() -> None:
    code = "import sys, movinet_convert.variants; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
