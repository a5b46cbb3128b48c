"""Networks made, loaded and fused in inference mode are as good as any others."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from movinet_convert import create_model, load_converted, save_weights
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from movinet_convert.weights.hub import HubMoViNet
from tests.helpers.settled import settled_model

if TYPE_CHECKING:
    from pathlib import Path

CLIP = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> MoViNet:
    return settled_model("t0-stream")


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_a_network_fused_in_inference_mode_runs_inside_and_outside(model: MoViNet) -> None:
    expected = model(CLIP).detach()
    with torch.inference_mode():
        fused = fuse(model)
        assert_close(fused(CLIP), expected)  # packs the weights
        copied = copy.deepcopy(fused)
        assert_close(copied(CLIP), expected)
    assert_close(fused(CLIP), expected)
    assert_close(copied(CLIP), expected)
    fused(CLIP.clone().requires_grad_()).sum().backward()


def test_a_network_fused_outside_runs_in_inference_mode(model: MoViNet) -> None:
    expected = model(CLIP).detach()
    fused = fuse(model)
    assert_close(fused(CLIP), expected)
    with torch.inference_mode():
        assert_close(fused(CLIP), expected)


@pytest.mark.parametrize("way", ["created", "loaded", "with other classes", "from a Hub folder"])
def test_a_network_created_in_inference_mode_can_be_trained(
    way: str, model: MoViNet, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    with torch.inference_mode():
        save_weights(model, path)
        made = {
            "created": lambda: create_model("t0-stream"),
            "loaded": lambda: load_converted(path),
            "with other classes": lambda: load_converted(path, num_classes=3, dtype=torch.float64),
            "from a Hub folder": lambda: HubMoViNet.from_pretrained(tmp_path),
        }[way]()
        made.eval()(CLIP)
    made.train()(CLIP).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_fused_network_can_be_loaded_in_inference_mode(model: MoViNet, tmp_path: Path) -> None:
    path = save_weights(model, tmp_path / "model.safetensors")
    with torch.inference_mode():
        loaded = load_converted(path, fuse=True)
    assert_close(loaded(CLIP), model(CLIP).detach())
