"""Runs the official model and ours on the same clips, and measures how far apart they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.model import MoViNet
from movinet_convert.parity.cases import Case, parity_cases
from movinet_convert.parity.clips import random_clips
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.reference import Reference, official_model
from movinet_convert.parity.result import LOGITS, CaseResult, Distances, ParityReport
from movinet_convert.parity.spread import element_scales, logit_spread, state_spread
from movinet_convert.parity.trace import find_first_difference

Tensors = dict[str, "NDArray[Any]"]

# Logits that are all this many spreads apart from zero leave float32 too few digits to judge.
BLUNT = 10.0


def verify_model(
    model: MoViNet,
    variables: Mapping[str, NDArray[Any]],
    *,
    seed: int = 0,
    clips: int = 1,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    tolerance: float | None = None,
    dtype: str | None = None,
    reference: Reference | None = None,
) -> ParityReport:
    """Compare ``model`` with the official model that holds ``variables`` (canonical TF paths).

    Every case runs on ``clips`` seeded random clips; ``frames`` and ``size`` (height, width)
    replace the defaults of ``cases.py``. ``dtype`` is what the weights of ``model`` were rounded
    to and those of ``variables`` were not, by default the type that the model keeps them in. It
    decides the tolerance where None is given; and of rounded weights the logits alone are compared,
    since states amplify rounding beyond use. Where both hold the same values, rounded or not, pass
    "float32". A ``reference`` that is at hand is used; it must be of the model's variant, settings
    and class count.

    Raises CheckpointError where the variables do not fit, UsageError where the options make the
    comparison empty, MissingExtraError without TensorFlow.
    """
    dtype = dtype or str(model.dtype).removeprefix("torch.")
    options = ParityOptions(seed, clips, frames, size, tolerance)
    allowed = options.tolerance_for(dtype)
    reference = reference or official_model(model.variant, model.settings, model.num_classes)
    reference.load(variables)
    trio = Trio.of(model, reference)
    cases = parity_cases(model.variant, model.settings, options)
    results = tuple(compare_cases(trio, cases, options))
    if dtype != "float32":
        results = tuple(result.of_logits() for result in results)
    failed = next((result for result in results if result.beyond(allowed)), None)
    return ParityReport(
        model.variant.name,
        model.settings,
        model.num_classes,
        seed,
        clips,
        allowed,
        results,
        None if failed is None else trio.first_difference(failed, seed, allowed),
        options.coverage,
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

    def first_difference(self, failed: CaseResult, seed: int, tolerance: float) -> str:
        """The layer at which the activations of a case begin to differ."""
        clip = _clip(failed.batch, sum(failed.chunks), failed.size, seed)
        return find_first_difference(
            self.pt_fp32, self.pt_fp64, self.tf_fp32, clip, failed, tolerance
        )


def compare_cases(
    trio: Trio, cases: Sequence[Case], options: ParityOptions
) -> Iterator[CaseResult]:
    """Run the cases; the official model runs them all first, for the spread of its logits."""
    clips = [
        [_clip(case.batch, case.frames, case.size, options.seed + i) for i in range(options.clips)]
        for case in cases
    ]
    reference = [
        [_run_reference(trio.tf_fp32, clip, case.chunks) for clip in its_clips]
        for case, its_clips in zip(cases, clips, strict=True)
    ]
    classes = trio.tf_fp32.num_classes
    logits = [run[LOGITS].reshape(-1, classes) for runs in reference for run in runs]
    logits_spread = logit_spread(np.concatenate(logits), trio.tf_fp32.classifier_bias)
    for case, its_clips, theirs in zip(cases, clips, reference, strict=True):
        yield _compare(trio, case, its_clips, theirs, logits_spread)


def _compare(
    trio: Trio,
    case: Case,
    clips: Sequence[NDArray[np.float32]],
    reference: Sequence[Tensors],
    logits_spread: float | None,
) -> CaseResult:
    """Measure one case on its clips; the distances are the largest over the clips."""
    distances: dict[str, list[Distances]] = {}
    problems: dict[str, str] = {}
    for clip, theirs in zip(clips, reference, strict=True):
        ours = _run_ours(trio.pt_fp32, clip, case.chunks)
        exact = _run_ours(trio.pt_fp64, clip, case.chunks)
        for name in theirs.keys() | ours.keys():
            problem = _problem(name, theirs.get(name), ours.get(name), logits_spread)
            if problem is not None:
                problems.setdefault(name, problem)
            found = _distances(
                name, theirs.get(name), ours.get(name), exact.get(name), logits_spread
            )
            distances.setdefault(name, []).append(found)
    order = [*reference[0], *sorted(distances.keys() - reference[0].keys())]
    return CaseResult(
        case.name,
        case.batch,
        case.size,
        case.chunks,
        logits_spread or 0.0,
        {name: Distances.largest(distances[name]) for name in order},
        problems,
    )


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


def _scales(name: str, reference: NDArray[Any], logits_spread: float | None) -> NDArray[Any]:
    if name == LOGITS:
        return element_scales(reference, logits_spread or 0.0)
    return element_scales(reference, state_spread(reference, logits_spread))


def _problem(
    name: str,
    reference: NDArray[Any] | None,
    ours: NDArray[Any] | None,
    logits_spread: float | None,
) -> str | None:
    """Why two tensors cannot be compared at all, as the end of a sentence about them."""
    if reference is None or ours is None:
        return f"are of {'this network' if reference is None else 'the official model'} alone"
    if reference.shape != ours.shape:
        return f"have the shape {ours.shape} where the official model's have {reference.shape}"
    for tensor, whose in ((reference, "the official model"), (ours, "this network")):
        if not np.isfinite(tensor).all():
            return (
                f"of {whose} are not all finite ({_not_finite(tensor)}); "
                "look for NaN, infinity or enormous numbers among the weights"
            )
    if name != LOGITS:
        return None
    if logits_spread is None:
        return "do not depend on the clip: all weights are zero, or the biases hide the rest"
    if _scales(name, reference, logits_spread).min() > BLUNT * logits_spread:
        return (
            f"are all at least {np.abs(reference).min():.2g} from zero where they spread by "
            f"{logits_spread:.2g}, so float32 has no digits left to compare them by"
        )
    return None


def _not_finite(tensor: NDArray[Any]) -> str:
    count = int((~np.isfinite(tensor)).sum())
    return f"{count} of {tensor.size} are NaN or infinite"


def _distances(
    name: str,
    tf_fp32: NDArray[Any] | None,
    pt_fp32: NDArray[Any] | None,
    pt_fp64: NDArray[Any] | None,
    logits_spread: float | None,
) -> Distances:
    if tf_fp32 is None or pt_fp32 is None or pt_fp64 is None:
        return Distances(np.inf, np.inf, np.inf)
    scales = _scales(name, tf_fp32, logits_spread)
    return Distances(
        _distance(tf_fp32, pt_fp32, scales),
        _distance(tf_fp32, pt_fp64, scales),
        _distance(pt_fp32, pt_fp64, scales),
    )


def _distance(a: NDArray[Any], b: NDArray[Any], scales: NDArray[Any]) -> float:
    # Two shapes that broadcast would hide a tensor of the wrong shape.
    if not a.shape == b.shape == scales.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinity less infinity is no number, and no agreement
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    # Where nothing tells the scale, any difference at all is infinitely large.
    relative = np.divide(
        difference, scales, out=np.where(difference > 0, np.inf, 0.0), where=scales > 0
    )
    return float(relative.max())
