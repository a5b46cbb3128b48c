"""What a network computes with: its variables with normalisation folded into the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def folded(variables: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Kernels and biases with normalisation folded in, and scales: what a network computes with."""
    found = {}
    for name, value in variables.items():
        exact, (layer, _, leaf) = value.astype(np.float64), name.partition("/_conv")
        if leaf.endswith("kernel"):
            norm = f"{layer}/_batch_norm{'_temporal' if leaf.startswith('_temporal') else ''}"
            scale = _fold(found, name, norm, variables)
            depthwise = leaf.endswith("depthwise_kernel")
            exact = exact * (scale.reshape(-1, 1) if depthwise else scale)
        elif "_batch_norm" in name:
            continue
        found[name] = exact
    return found


def _fold(
    found: dict[str, NDArray[np.float64]], name: str, norm: str, variables: dict[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """The scale of the normalisation behind a kernel; its bias goes into ``found``."""
    if f"{norm}/gamma" not in variables:
        return np.ones(1)
    gamma, beta, mean, variance = (
        variables[f"{norm}/{leaf}"].astype(np.float64)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale: NDArray[np.float64] = gamma / np.sqrt(variance + 1e-3)
    found[f"{name} (bias)"] = beta - mean * scale
    return scale
