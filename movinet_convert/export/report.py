"""What an export reports, and the check that its file computes what the model does."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.errors import ParityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from movinet_convert.export.step import Program
    from movinet_convert.model import MoViNet

FRAMES_CHECKED = 20  # of a stream, or a few more where a call takes several
CLIPS_CHECKED = 2
TOLERANCE = 1e-4  # of the logits' deviation, for full-precision files


@dataclass(frozen=True)
class ExportReport:
    """A written export: where it is, and how far its logits are from the eager model's.

    ``deviation`` is the largest difference of a logit over ``frames_checked`` frames of noise,
    over the deviation of the eager logits; ``agreement`` the share of calls whose top class is the
    same.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    bytes: int
    dtype: str
    quantize: str | None
    frames_checked: int
    deviation: float
    agreement: float
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "path": str(self.path),
            "files": [str(file) for file in self.files],
        }


@dataclass(frozen=True)
class Agreement:
    frames: int
    deviation: float
    top1: float


@torch.no_grad()
def compare(
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]], program: Program, model: MoViNet
) -> Agreement:
    """Run a file over seeded random frames, feeding its states back, beside the eager model."""
    generator = torch.Generator().manual_seed(0)
    first = program.example[0]
    frames_per_call = first.shape[2]
    streams = model.settings.causal
    calls = -(-FRAMES_CHECKED // frames_per_call) if streams else CLIPS_CHECKED
    states = list(program.example[1:])
    state = None
    expected, found = [], []
    for _ in range(calls):
        frames = torch.rand(first.shape, generator=generator)
        logits, *states = run([frames.to(first.dtype), *states])
        found.append(logits.float())
        if streams:
            reference, state = model.stream(frames.to(model.dtype), state)
        else:
            reference = model(frames.to(model.dtype))
        expected.append(reference.float())
    one, other = torch.cat(found), torch.cat(expected)
    deviation = ((one - other).abs().max() / other.std()).item()
    same = (one.argmax(dim=1) == other.argmax(dim=1)).float().mean().item()
    return Agreement(calls * frames_per_call, deviation, same)


def require_agreement(agreement: Agreement, what: str, *, exact: bool = True) -> None:
    """Raise ParityError for a file that is further off than it may be.

    An ``exact`` one may be off by rounding; one of smaller numbers by anything that is a number.
    """
    # Not `>`: a file that answers NaN must fail too.
    if not agreement.deviation <= (TOLERANCE if exact else sys.float_info.max):
        allowed = f"{TOLERANCE:.0e}" if exact else "a number"
        raise ParityError(
            f"The exported {what} differs from the eager model by {agreement.deviation:.1e} of the "
            f"logits' deviation over {agreement.frames} frames, where {allowed} is allowed; "
            "nothing was written. Try another version of its runtime, and report the model."
        )
