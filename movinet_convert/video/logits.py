"""Logits that judge nothing: they would pass for a prediction all the same."""

from __future__ import annotations

import os

from torch import Tensor

from movinet_convert.errors import WeightsError


def check_logits(logits: Tensor, source: str | os.PathLike[str]) -> None:
    """WeightsError where logits (…, classes) of a video are not finite, or all classes have one.

    ``softmax`` makes numbers like probabilities of both, and the first class wins.
    """
    wrong = int((~logits.isfinite()).sum())
    if wrong:
        raise WeightsError(
            f"{wrong} of {logits.numel()} logits for {source} are not finite; the weights are "
            "damaged or their precision is too low for them: verify them, or convert in float32."
        )
    if logits.shape[-1] > 1 and bool((logits.amax(-1) == logits.amin(-1)).any()):
        raise WeightsError(
            f"All {logits.shape[-1]} logits for {source} are the same; these weights tell no class "
            "from another: verify them, or train the classifier."
        )
