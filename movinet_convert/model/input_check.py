"""Frames that a network would take without an error, and answer with nonsense."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from movinet_convert.errors import MovinetWarning, UsageError

LOWEST, HIGHEST = -0.5, 1.5  # interpolation and colour jitter overshoot [0, 1] by less
HIGHEST_NORMALIZED = 16.0
ROW_STEP = 8  # every eighth row is looked at

# What to do about a clip with 3 channels on another axis than the second of five: by the number of
# axes and that of the channels.
ORDERS = {
    (4, 0): ", without the batch: use clip[None]",
    (4, 1): ", without the batch and with the frames first: use clip.transpose(0, 1)[None]",
    (5, 2): ", with the frames before the channels: use clip.transpose(1, 2)",
    (5, 4): ", with the channels last: use clip.permute(0, 4, 1, 2, 3)",
}


class RangeCheck:
    """Warns of frames (..., H, W) that are not RGB in [0, 1].

    Reading values from a GPU waits for it, so only the calls number 1, 2, 4, 8, ... are looked at;
    not the first alone, as a video may begin with black frames. Graphs that are compiled, exported
    or traced have no such check.
    """

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, frames: Tensor) -> None:
        if _has_values(frames):
            self._calls += 1
            if self._calls & (self._calls - 1) == 0:
                warn_of_range(frames)


def warn_of_range(frames: Tensor) -> None:
    """Warn, once a process, if values are far outside [0, 1]."""
    if not _has_values(frames):
        return
    try:
        rows = frames.detach()[..., ::ROW_STEP, :].float()
        low, high = torch.stack(torch.aminmax(rows)).tolist()
    except RuntimeError:  # a tensor without values, on the meta device or within torch.func
        return
    if high > HIGHEST_NORMALIZED:
        warnings.warn(
            "The frames have values far above 1, as if in 0..255, but the network takes RGB in "
            "[0, 1]: divide them by 255, or pass uint8 frames through model.transforms().",
            MovinetWarning,
            stacklevel=1,  # one place for all callers: Python shows a warning once a place
        )
    elif low < LOWEST or high > HIGHEST:
        warnings.warn(
            "The frames have values outside [0, 1], as if normalized by mean and standard "
            "deviation, but the network takes RGB in [0, 1]: leave the normalization out.",
            MovinetWarning,
            stacklevel=1,
        )


def require_float(clip: Tensor) -> None:
    """Raise UsageError for a clip of integers."""
    if not clip.is_floating_point():
        raise UsageError(f"A clip is float, RGB in [0, 1]; got {clip.dtype}: divide by 255.")


def order_advice(shape: tuple[int, ...]) -> str:
    """What to do about a clip of this shape where its order of axes can be told, else nothing."""
    found = (ORDERS.get((len(shape), axis)) for axis, side in enumerate(shape) if side == 3)
    return next(filter(None, found), "")


def _has_values(frames: Tensor) -> bool:
    # First, so that torch.compile takes no other line of the check.
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if not isinstance(frames, Tensor):  # torch.fx traces with a stand-in
        return False
    return not (frames.is_cuda and torch.cuda.is_current_stream_capturing())
