"""How well an exported file agrees with the eager model, and how well it must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from movinet_convert.errors import ExportError, ParityError
from movinet_convert.export.exported import ExportedModel
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet

FRAMES_CHECKED = 20  # per clip of a stream, rounded up to whole calls
EXACT_CLIPS = {True: 1, False: 2}  # of noise, by whether the model is a stream
LOSSY_CLIPS = 5
TOLERANCE = 1e-4  # relative to the std of the reference logits, for full-precision files


@dataclass(frozen=True)
class Floor:
    """The least agreement with the float model for a file of reduced precision to be written.

    ``top1`` is the share of calls with the same top class, ``correlation`` Pearson's over all
    logits, ``mean_error`` the mean absolute error relative to the std of the reference logits.
    """

    top1: float
    correlation: float
    mean_error: float
    help: str


# By dtype, or kind of quantization; docs/speed.md has the same table.
FLOORS = {
    "float16": Floor(0.99, 0.9999, 0.01, "use float32"),
    "bfloat16": Floor(0.9, 0.998, 0.06, "use float16 or float32"),
    "dynamic": Floor(0.95, 0.995, 0.06, "leave the quantization out"),
    "weights": Floor(0.98, 0.9995, 0.03, "use float16"),
    "int8": Floor(
        0.98, 0.99, 0.12, "calibrate with more clips of your own data, or quantize 'weights'"
    ),
}


@dataclass(frozen=True)
class Agreement:
    """The logits of a file compared with those of the eager float model.

    ``deviation`` is the largest absolute error and ``mean_error`` the mean one, both relative to
    the std of the reference logits; ``correlation`` is Pearson's over all logits; ``top1`` is the
    share of calls with the same top class. ``constant``: all logits of some call are equal.
    """

    frames: int
    clips: int
    deviation: float
    mean_error: float
    correlation: float
    top1: float
    constant: bool

    @property
    def usable(self) -> bool:
        """Whether the logits are finite and distinguish classes at all."""
        figures = torch.tensor((self.deviation, self.mean_error, self.correlation))
        return bool(figures.isfinite().all()) and not self.constant

    def reaches(self, floor: Floor) -> bool:
        return (
            self.top1 >= floor.top1
            and self.correlation >= floor.correlation
            and self.mean_error <= floor.mean_error
        )

    def as_json(self, kind: str, allow_loss: float | None) -> dict[str, Any]:
        """For the metadata of a file, with the floor of its ``kind``."""
        floor = {key: value for key, value in asdict(FLOORS[kind]).items() if key != "help"}
        return {"kind": kind, **asdict(self), "floor": floor, "allow_loss": allow_loss}


def noise_clips(program: Program, causal: bool) -> list[Tensor]:
    """Seeded noise, on which different networks give different logits."""
    generator = torch.Generator().manual_seed(0)
    shape = (program.batch, 3, _clip_frames(program, causal), *program.size)
    return [torch.rand(shape, generator=generator) for _ in range(EXACT_CLIPS[causal])]


def moving_clips(program: Program, causal: bool) -> list[Tensor]:
    """Seeded smooth images that move and fade into each other, like the frames of videos."""
    return moving_images((program.batch, 3, _clip_frames(program, causal), *program.size))


def moving_images(shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """``moving_clips`` of a shape (B, 3, T, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    frames = shape[2]
    clips = []
    for i in range(LOSSY_CLIPS):
        blobs = 3 + 2 * i  # from large shapes to small ones
        keys = torch.rand(*shape[:2], 2 + frames // 10, blobs, blobs, generator=generator)
        clip = F.interpolate(keys, shape[2:], mode="trilinear", align_corners=True)
        low, high = clip.amin(), clip.amax()
        clips.append((clip - low) / (high - low))
    return clips


def _clip_frames(program: Program, causal: bool) -> int:
    calls = -(-FRAMES_CHECKED // program.frames) if causal else 1
    return calls * program.frames


@torch.no_grad()
def measure(exported: ExportedModel, model: MoViNet, clips: Sequence[Tensor]) -> Agreement:
    """Run a file and the eager model over clips (B, 3, T, H, W), each passing on its own states.

    Frames at the end of a clip that do not fill a call of a stream are ignored.
    """
    found, expected = [], []
    total = 0
    for clip in clips:
        after, state = None, None
        frames = exported.frames or clip.shape[2]
        for chunk in torch.split(clip, frames, dim=2)[: clip.shape[2] // frames]:
            if model.settings.causal:
                logits, after = exported.stream(chunk, after)
                reference, state = model.stream(chunk.to(model.dtype), state)
            else:
                logits, reference = exported(chunk), model(chunk.to(model.dtype))
            found.append(logits.float())
            expected.append(reference.float())
            total += frames * len(chunk)
    videos = sum(len(clip) for clip in clips)
    return agreement_of(torch.cat(found), torch.cat(expected), total, videos)


def agreement_of(found: Tensor, expected: Tensor, frames: int, clips: int) -> Agreement:
    """From float32 logits (calls, classes)."""
    error = (found - expected).abs().double() / expected.double().std()
    x, y = (logits.double().flatten() - logits.double().mean() for logits in (found, expected))
    return Agreement(
        frames,
        clips,
        deviation=error.max().item(),
        mean_error=error.mean().item(),
        correlation=(x @ y / (x.norm() * y.norm())).item(),
        top1=(found.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item(),
        constant=any(bool((x.amax(1) == x.amin(1)).any()) for x in (found, expected)),
    )


def require(agreement: Agreement, what: str, kind: str | None, allow_loss: float | None) -> None:
    """``require_floor`` for a ``kind`` of reduced precision, ``require_exact`` for None."""
    if kind is None:
        require_exact(agreement, what)
    else:
        require_floor(agreement, what, kind, allow_loss)


def require_exact(agreement: Agreement, what: str) -> None:
    """Raise ParityError for a full-precision file that differs by more than rounding."""
    # Not `>`: NaN must fail too.
    if not agreement.deviation <= TOLERANCE or agreement.constant:
        raise ParityError(
            f"The exported {what} differs from the eager model by {agreement.deviation:.1e} of the "
            f"standard deviation of the reference logits over {agreement.frames} frames, where "
            f"{TOLERANCE:.0e} is allowed; nothing was written. Try another version of its runtime."
        )


def require_floor(
    agreement: Agreement, what: str, kind: str, allow_loss: float | None = None
) -> None:
    """Raise ExportError for a file that loses more accuracy than its kind of precision may.

    ``allow_loss`` replaces the floor by a limit on the mean error alone. Logits that are not
    finite, or the same for all classes, are never accepted.
    """
    if not agreement.usable:
        raise ExportError(
            f"The logits of {what}, or those of the model itself, are not finite or the same for "
            "all classes; nothing was written. Check the weights, or use float32."
        )
    floor = FLOORS[kind]
    if allow_loss is None:
        accepted = agreement.reaches(floor)
        required = (
            f"{kind} must reach {floor.top1:.0%}, {floor.correlation:g} and "
            f"{floor.mean_error:g}; nothing was written: {floor.help}, or accept a mean error with "
            "allow_loss (--allow-loss)."
        )
    else:
        accepted = agreement.mean_error <= allow_loss
        required = f"a mean error of {allow_loss:g} was allowed; nothing was written."
    if not accepted:
        raise ExportError(
            f"The exported {what} does not agree with the float model: the same top class in "
            f"{agreement.top1:.1%}, correlation {agreement.correlation:.4f}, mean error "
            f"{agreement.mean_error:.3f} of the standard deviation of the reference logits over "
            f"{agreement.frames} frames, where {required}"
        )
