"""Runs the official model and ours on the same clips, and measures how far apart they are."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from movinet_convert.parity.cases import Case, parity_cases
from movinet_convert.parity.clips import random_clips
from movinet_convert.parity.options import TOLERANCES, ParityOptions
from movinet_convert.parity.reference import Reference, official_model
from movinet_convert.parity.result import LOGITS, CaseResult, Distances, ParityReport
from movinet_convert.parity.trace import find_first_difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from movinet_convert.model import MoViNet

Tensors = dict[str, "NDArray[Any]"]


def verify_model(
    model: MoViNet,
    variables: Mapping[str, NDArray[Any]],
    *,
    seed: int = 0,
    clips: int = 1,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    tolerance: float | None = None,
    reference: Reference | None = None,
) -> ParityReport:
    """Compare ``model`` with the official model that holds ``variables`` (canonical TF paths).

    Every case runs on ``clips`` seeded random clips; ``frames`` and ``size`` (height, width)
    replace the defaults of ``cases.py``. A ``reference`` that is at hand is used; it must be of the
    model's variant, settings and class count. Without a ``tolerance``, that of the type in which
    the model keeps its weights applies.

    Raises CheckpointError where the variables do not fit, MissingExtraError without TensorFlow.
    """
    if tolerance is None:
        tolerance = TOLERANCES[str(model.dtype).removeprefix("torch.")]
    options = ParityOptions(seed, clips, frames, size, tolerance)
    reference = reference or official_model(model.variant, model.settings, model.num_classes)
    reference.load(variables)
    trio = Trio.of(model, reference)
    cases = parity_cases(model.settings, options)
    results = tuple(_compare(trio, case, options) for case in cases)
    failed = next((r for r in results if r.beyond(tolerance)), None)
    first_difference = None
    if failed is not None:
        clip = _clip(failed.batch, sum(failed.chunks), failed.size, seed)
        first_difference = find_first_difference(
            trio.pt_fp32, trio.pt_fp64, reference, clip, failed, tolerance
        )
    return ParityReport(
        model.variant.name,
        model.settings,
        model.num_classes,
        seed,
        clips,
        tolerance,
        results,
        first_difference,
    )


@dataclass(frozen=True)
class Trio:
    """The three that are compared, all in inference mode."""

    tf_fp32: Reference
    pt_fp32: MoViNet
    pt_fp64: MoViNet

    @staticmethod
    def of(model: MoViNet, reference: Reference) -> Trio:
        pt_fp32 = copy.deepcopy(model).cpu().float().eval()
        return Trio(reference, pt_fp32, copy.deepcopy(pt_fp32).double())

    def pt_fp32_logits(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Our float32 logits (B, classes) of whole clips."""
        logits: NDArray[np.float32] = _run_ours(self.pt_fp32, clip, (clip.shape[2],))[LOGITS]
        return logits.reshape(clip.shape[0], -1)


def _compare(trio: Trio, case: Case, options: ParityOptions) -> CaseResult:
    """Run one case on its clips; the distances are the largest over the clips."""
    runs = []
    for i in range(options.clips):
        clip = _clip(case.batch, case.frames, case.size, options.seed + i)
        runs.append(
            (
                _run_reference(trio.tf_fp32, clip, case.chunks),
                _run_ours(trio.pt_fp32, clip, case.chunks),
                _run_ours(trio.pt_fp64, clip, case.chunks),
            )
        )
    deviation = _deviation(np.concatenate([tf_fp32[LOGITS] for tf_fp32, _, _ in runs]))
    tensors = {
        name: Distances.largest(
            [
                _distances(tf[name], ours[name], exact[name], _yardstick(tf[name], deviation))
                for tf, ours, exact in runs
            ]
        )
        for name in runs[0][1]
    }
    return CaseResult(case.name, case.batch, case.size, case.chunks, deviation, tensors)


def _clip(batch: int, frames: int, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    return random_clips(batch, frames, *size, seed=seed)


def _run_reference(model: Reference, clip: NDArray[np.float32], chunks: tuple[int, ...]) -> Tensors:
    if not model.settings.causal:
        return {LOGITS: model.logits(clip)}
    logits, state = [], None
    for frames in _split(clip, chunks):
        latest, state = model.stream(frames, state)
        logits.append(latest)
    assert state is not None, "a case has at least one frame"
    return {LOGITS: np.stack(logits), **dict(state.tensors())}


@torch.inference_mode()
def _run_ours(model: MoViNet, clip: NDArray[np.float32], chunks: tuple[int, ...]) -> Tensors:
    if not model.settings.causal:
        return {LOGITS: model(torch.from_numpy(clip).to(model.dtype)).numpy()}
    logits, state = [], None
    for frames in _split(clip, chunks):
        latest, state = model.stream(torch.from_numpy(frames).to(model.dtype), state)
        logits.append(latest.numpy())
    assert state is not None, "a case has at least one frame"
    return {LOGITS: np.stack(logits), **{name: t.numpy() for name, t in state.tensors()}}


def _split(clip: NDArray[np.float32], chunks: tuple[int, ...]) -> list[NDArray[np.float32]]:
    return np.split(clip, np.cumsum(chunks)[:-1], axis=2)


def _deviation(logits: NDArray[np.float32]) -> float:
    """The yardstick; where all logits are equal, as with one class, their size stands in."""
    return float(logits.std(dtype=np.float64)) or float(np.abs(logits).max()) or 1.0


def _yardstick(tensor: NDArray[Any], deviation: float) -> float:
    """What a tensor's distances are counted in: the logits' deviation, or its own if larger.

    A sum over frames or a wide activation can be a hundred times the logits of a well trained
    model, and its rounding is as many times larger: in deviations of the logits alone, the
    official model in float32 is beyond 1e-4 of itself in float64.
    """
    return max(deviation, float(tensor.std(dtype=np.float64)))


def _distances(
    tf_fp32: NDArray[Any], pt_fp32: NDArray[Any], pt_fp64: NDArray[Any], yardstick: float
) -> Distances:
    return Distances(
        _distance(tf_fp32, pt_fp32) / yardstick,
        _distance(tf_fp32, pt_fp64) / yardstick,
        _distance(pt_fp32, pt_fp64) / yardstick,
    )


def _distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    # Two shapes that broadcast would hide a tensor of the wrong shape.
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
