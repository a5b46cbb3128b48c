"""The yardstick for memory is the same network."""

import pytest
import torch

from scripts.plain_network import plain_forward
from tests.helpers.settled import settled_model


@pytest.mark.parametrize("shape", [(1, 5, 32, 40), (2, 3, 33, 47)], ids=str)
@torch.no_grad()
def test_the_plain_network_computes_what_the_network_does(shape: tuple[int, ...]) -> None:
    model = settled_model("t0-base")
    clip = torch.rand(shape[0], 3, *shape[1:])
    expected = model(clip)
    assert (plain_forward(model, clip) - expected).abs().max() < 1e-4 * expected.std()
