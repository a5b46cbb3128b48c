"""The devices on which a network can run here."""

from __future__ import annotations

import torch

from movinet_convert.errors import UsageError


def usable_device(device: torch.device | str) -> torch.device:
    """The device; UsageError for one that is unknown, or that this machine or PyTorch lacks."""
    try:
        found = torch.device(device)
        if found.type != "meta":
            torch.empty(0, device=found)
            return found
    except (AssertionError, RuntimeError, NotImplementedError):  # by device and build of PyTorch
        pass
    raise UsageError(
        f"A network cannot run on {str(device)!r} here; the devices are {', '.join(_present())}."
    )


def _present() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *cuda, *mps]
