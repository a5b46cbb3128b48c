"""Running the official model and the PyTorch network on the same clips, and comparing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.model import MoViNet
from movinet_convert.parity.cases import Case, parity_cases
from movinet_convert.parity.layers import first_different_layer
from movinet_convert.parity.models import Models, run
from movinet_convert.parity.options import DEFAULT_PARITY, ParityOptions
from movinet_convert.parity.reference import Reference, shared_reference
from movinet_convert.parity.result import LOGITS, CaseResult, Distances, ParityResult
from movinet_convert.parity.scales import element_scales, logits_std, state_std

Array = NDArray[Any]
Stage = Callable[[str], object]  # is told what is being done, such as "case 2 of 7: one clip"

# If all logits are this many std from zero, float32 has too few digits left.
MAX_OFFSET = 10.0


def silent(stage: str) -> None:
    """A ``Stage`` that shows nothing."""


def verify_model(
    model: MoViNet,
    variables: Mapping[str, Array],
    options: ParityOptions = DEFAULT_PARITY,
    *,
    dtype: str | None = None,
    reference: Reference | None = None,
    stage: Stage = silent,
) -> ParityResult:
    """Compare ``model`` with the official model that has ``variables`` (canonical TF paths).

    ``dtype`` is what the weights of ``model``, unlike ``variables``, were rounded to: by default
    the model's own. It determines the tolerance unless ``options`` do; for rounded weights only the
    logits are compared, since states amplify rounding. If both have the same values, rounded or
    not, pass "float32". ``reference`` is an official model of the same variant, settings and class
    count to use instead of building one. ``stage`` is called before each step.

    Raises CheckpointError if the variables do not match, UsageError if the tolerance is too wide
    for ``dtype``, MissingExtraError without TensorFlow.
    """
    dtype = dtype or str(model.dtype).removeprefix("torch.")
    tolerance = options.tolerance_for(dtype)
    stage("building the official model")
    reference = reference or shared_reference(model.variant, model.settings, model.num_classes)
    reference.load(variables)
    models = Models.of(model, reference)
    cases = parity_cases(model.variant, model.settings, options)
    results = tuple(compare_cases(models, cases, options, stage))
    if dtype != "float32":
        results = tuple(result.of_logits() for result in results)
    first_difference = None
    failed = next((result for result in results if result.beyond(tolerance)), None)
    if failed is not None:
        stage("finding the first layer that differs")
        clip = failed.clip(options.seed)
        first_difference = first_different_layer(models, clip, failed, tolerance)
    return ParityResult(
        model.variant.name,
        model.settings,
        model.num_classes,
        options.seed,
        options.clips,
        tolerance,
        results,
        first_difference,
        options.coverage,
    )


def compare_cases(
    models: Models, cases: Sequence[Case], options: ParityOptions, stage: Stage = silent
) -> Iterator[CaseResult]:
    """Compare case by case, after running the official model on all: its logits give the scale."""
    clips = [[case.clip(options.seed + i) for i in range(options.clips)] for case in cases]
    reference = []
    for number, (case, case_clips) in enumerate(zip(cases, clips, strict=True), 1):
        stage(f"official model, case {number} of {len(cases)}: {case.name}")
        reference.append([run(models.tf_fp32, clip, case.chunks) for clip in case_clips])
    classes = models.tf_fp32.num_classes
    logits = [tensors[LOGITS].reshape(-1, classes) for runs in reference for tensors in runs]
    std = logits_std(np.concatenate(logits), models.tf_fp32.classifier_bias)
    for number, (case, case_clips, runs) in enumerate(zip(cases, clips, reference, strict=True), 1):
        stage(f"this network, case {number} of {len(cases)}: {case.name}")
        yield _compare_case(models, case, case_clips, runs, std)


def _compare_case(
    models: Models,
    case: Case,
    clips: Sequence[Array],
    reference: Sequence[Mapping[str, Array]],
    logits_std: float | None,
) -> CaseResult:
    """Compare one case: the largest distances over the clips for every tensor."""
    distances: dict[str, list[Distances]] = {}
    problems: dict[str, str] = {}
    for clip, tf_fp32 in zip(clips, reference, strict=True):
        pt_fp32, pt_fp64 = (run(m, clip, case.chunks) for m in (models.pt_fp32, models.pt_fp64))
        for name in [*tf_fp32, *sorted(pt_fp32.keys() - tf_fp32.keys())]:
            distance, problem = _compare_tensors(
                name, tf_fp32.get(name), pt_fp32.get(name), pt_fp64.get(name), logits_std
            )
            distances.setdefault(name, []).append(distance)
            if problem is not None:
                problems.setdefault(name, problem)
    tensors = {name: Distances.largest(of_clips) for name, of_clips in distances.items()}
    return CaseResult(**vars(case), spread=logits_std or 0.0, tensors=tensors, problems=problems)


def _compare_tensors(
    name: str,
    tf_fp32: Array | None,
    pt_fp32: Array | None,
    pt_fp64: Array | None,
    logits_std: float | None,
) -> tuple[Distances, str | None]:
    """The distances and, for tensors that cannot be compared, the reason: the end of a sentence."""
    if tf_fp32 is None or pt_fp32 is None or pt_fp64 is None:
        owner = "this network" if tf_fp32 is None else "the official model"
        return Distances(np.inf, np.inf, np.inf), f"exist only in {owner}"
    std = (logits_std or 0.0) if name == LOGITS else state_std(tf_fp32, logits_std)
    scales = element_scales(tf_fp32, std)
    distances = Distances(
        _distance(tf_fp32, pt_fp32, scales),
        _distance(tf_fp32, pt_fp64, scales),
        _distance(pt_fp32, pt_fp64, scales),
    )
    problem = _unequal(tf_fp32, pt_fp32)
    if problem is None and name == LOGITS:
        problem = _hidden_by_bias(tf_fp32, scales, logits_std)
    return distances, problem


def _unequal(tf_fp32: Array, pt_fp32: Array) -> str | None:
    if tf_fp32.shape != pt_fp32.shape:
        return f"have the shape {pt_fp32.shape} where the official model's have {tf_fp32.shape}"
    for tensor, owner in ((tf_fp32, "the official model"), (pt_fp32, "this network")):
        if count := int((~np.isfinite(tensor)).sum()):
            return (
                f"of {owner} are not all finite ({count} of {tensor.size} are NaN or infinite); "
                "look for NaN, infinite or huge values among the weights"
            )
    return None


def _hidden_by_bias(logits: Array, scales: Array, std: float | None) -> str | None:
    if std is None:
        return "do not depend on the clip: all weights are zero, or the biases hide the rest"
    if scales.min() > MAX_OFFSET * std:
        return (
            f"are all at least {np.abs(logits).min():.2g} from zero with a standard deviation of "
            f"{std:.2g}, so float32 has no digits left to compare them by"
        )
    return None


def _distance(a: Array, b: Array, scales: Array) -> float:
    # Two shapes that broadcast would hide a tensor of the wrong shape.
    if not a.shape == b.shape == scales.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which never passes
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    # Where the scale is zero, any difference is infinitely large.
    infinite = np.where(difference > 0, np.inf, 0.0)
    return float(np.divide(difference, scales, out=infinite, where=scales > 0).max())
