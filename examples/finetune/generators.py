"""The random generators of a run: kept in its checkpoints, so that a resumed one draws the same.

Dropout and stochastic depth draw from PyTorch's generator of the device they run on. Nothing else
is kept: videos are ordered and cut by generators made of the seed, the epoch and the video.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def random_state() -> dict[str, Any]:
    """The states of the generators of this process: the CPU's, and those of all its GPUs."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": list(gpus)}


def restore(state: Mapping[str, Any]) -> None:
    """Put back what ``random_state`` returned, as far as this machine has the GPUs."""
    torch.set_rng_state(state["cpu"])
    gpus = state["cuda"][: torch.cuda.device_count()] if torch.cuda.is_available() else []
    for device, generator in enumerate(gpus):
        torch.cuda.set_rng_state(generator, device)
