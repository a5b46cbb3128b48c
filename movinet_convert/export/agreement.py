"""Whether an exported file computes what the model does: exactly, or as well as its kind allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from movinet_convert.errors import ExportError, ParityError
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet

FRAMES_CHECKED = 20  # of each clip of a stream, or a few more where a call takes several
EXACT_CLIPS = {True: 1, False: 2}  # of noise, by whether the model is a stream
LOSSY_CLIPS = 5
TOLERANCE = 1e-4  # of the standard deviation of the reference logits, for full-precision files


@dataclass(frozen=True)
class Floor:
    """The least agreement with the float model that a file of smaller numbers is written with.

    ``top1`` is the share of frames (clips of a base variant) with the same top class,
    ``correlation`` Pearson's over all logits, ``mean_error`` the mean absolute difference of a
    logit relative to the standard deviation of the reference logits.
    """

    top1: float
    correlation: float
    mean_error: float
    help: str


# By the type of the numbers, or the kind of quantization; docs/speed.md has the same table.
FLOORS = {
    "float16": Floor(0.99, 0.9999, 0.01, "use float32"),
    "bfloat16": Floor(0.9, 0.998, 0.06, "use float16 or float32"),
    "dynamic": Floor(0.95, 0.995, 0.06, "leave the quantization out"),
    "int8": Floor(
        0.98, 0.99, 0.12, "calibrate with more clips of your own data, or quantize 'dynamic'"
    ),
}


@dataclass(frozen=True)
class Agreement:
    """Logits of a file beside the eager float model's.

    ``deviation`` is the largest difference of a logit, ``mean_error`` the mean one, both relative
    to the standard deviation of the reference logits.
    """

    frames: int
    clips: int
    deviation: float
    mean_error: float
    correlation: float
    top1: float
    constant: bool  # in every class alike, in some frame

    @property
    def usable(self) -> bool:
        """Whether the logits are finite and say anything at all."""
        finite = torch.tensor((self.deviation, self.mean_error, self.correlation)).isfinite()
        return bool(finite.all()) and not self.constant

    def reaches(self, floor: Floor) -> bool:
        return (
            self.top1 >= floor.top1
            and self.correlation >= floor.correlation
            and self.mean_error <= floor.mean_error
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def noise_clips(program: Program, streams: bool) -> list[Tensor]:
    """Seeded noise, which no two programs of different functions agree on."""
    generator = torch.Generator().manual_seed(0)
    _, channels, _, height, width = program.example[0].shape
    shape = (1, channels, _frames(program, streams), height, width)
    return [torch.rand(shape, generator=generator) for _ in range(EXACT_CLIPS[streams])]


def moving_clips(program: Program, streams: bool) -> list[Tensor]:
    """Seeded smooth pictures that move and fade into each other, as frames of videos do."""
    generator = torch.Generator().manual_seed(0)
    height, width = program.example[0].shape[-2:]
    frames = _frames(program, streams)
    clips = []
    for i in range(LOSSY_CLIPS):
        blobs = 3 + 2 * i  # from large shapes to small ones
        keys = torch.rand(1, 3, 2 + frames // 10, blobs, blobs, generator=generator)
        clip = F.interpolate(keys, (frames, height, width), mode="trilinear", align_corners=True)
        low, high = clip.amin(), clip.amax()
        clips.append((clip - low) / (high - low))
    return clips


def _frames(program: Program, streams: bool) -> int:
    a_call = program.example[0].shape[2]
    return -(-FRAMES_CHECKED // a_call) * a_call if streams else a_call


@torch.no_grad()
def compare(
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    program: Program,
    model: MoViNet,
    clips: Sequence[Tensor],
) -> Agreement:
    """Run a file over clips (1, 3, T, H, W), feeding its states back, beside the eager model.

    Of a stream, frames at the end of a clip that fill no call are left out.
    """
    first = program.example[0]
    streams = model.settings.causal
    expected, found = [], []
    frames_seen = 0
    for clip in clips:
        states, state = list(program.example[1:]), None
        a_call = first.shape[2] if streams else clip.shape[2]
        for frames in torch.split(clip, a_call, dim=2)[: clip.shape[2] // a_call]:
            logits, *states = run([frames.to(first.dtype), *states])
            found.append(logits.float())
            if streams:
                reference, state = model.stream(frames.to(model.dtype), state)
            else:
                reference = model(frames.to(model.dtype))
            expected.append(reference.float())
            frames_seen += a_call
    return agreement_of(torch.cat(found), torch.cat(expected), frames_seen, len(clips))


def agreement_of(found: Tensor, expected: Tensor, frames: int, clips: int) -> Agreement:
    """From logits (calls, classes) in float32."""
    difference = (found - expected).abs().double() / expected.double().std()
    one, other = (x.double().flatten() - x.double().mean() for x in (found, expected))
    correlation = (one @ other / (one.norm() * other.norm())).item()
    constant = any(bool((x.amax(1) == x.amin(1)).any()) for x in (found, expected))
    return Agreement(
        frames,
        clips,
        difference.max().item(),
        difference.mean().item(),
        correlation,
        (found.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item(),
        constant,
    )


def require_exact(agreement: Agreement, what: str) -> None:
    """Raise ParityError for a full-precision file that is off by more than rounding."""
    # Not `>`: a file that answers NaN must fail too.
    if not agreement.deviation <= TOLERANCE or agreement.constant:
        raise ParityError(
            f"The exported {what} differs from the eager model by {agreement.deviation:.1e} of the "
            f"standard deviation of the reference logits over {agreement.frames} frames, where "
            f"{TOLERANCE:.0e} is allowed; nothing was written. Try another version of its "
            "runtime, and report the model."
        )


def require_floor(
    agreement: Agreement, what: str, kind: str, allow_loss: float | None = None
) -> None:
    """Raise ExportError for a file of smaller numbers that lost more than its kind may.

    ``allow_loss`` replaces the floor: the mean error that is accepted, whatever the other figures.
    Logits that are not finite, or the same for all classes, are never accepted.
    """
    if not agreement.usable:
        raise ExportError(
            f"The logits of {what}, or those of the model itself, are not finite or the same for "
            "all classes; nothing was written. Check the weights, or use float32."
        )
    floor = FLOORS[kind]
    if allow_loss is None and agreement.reaches(floor):
        return
    if allow_loss is not None and agreement.mean_error <= allow_loss:
        return
    reached = (
        f"The exported {what} agrees too little with the float model: the same top class in "
        f"{agreement.top1:.1%}, correlation {agreement.correlation:.4f}, mean error "
        f"{agreement.mean_error:.3f} of the standard deviation of the reference logits over "
        f"{agreement.frames} frames"
    )
    if allow_loss is not None:
        raise ExportError(
            f"{reached}, where a mean error of {allow_loss:g} was allowed; nothing was written."
        )
    raise ExportError(
        f"{reached}, where {kind} has to reach {floor.top1:.0%}, {floor.correlation:g} and "
        f"{floor.mean_error:g}; nothing was written: {floor.help}, or accept a mean error with "
        "allow_loss (--allow-loss)."
    )
