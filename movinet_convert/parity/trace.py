"""Where two networks begin to differ: their activations, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.model import MoViNet
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.result import LOGITS, CaseResult
from movinet_convert.parity.spread import spread

HEAD = "head"
CLASSIFIER = "classifier_head"
# Rounding in TensorFlow is up to a few times ours; a fault is orders of magnitude above it.
ROUNDINGS = 20.0
FLOOR = 1e-6  # of the spread of an activation


def find_first_difference(
    pt_fp32: MoViNet,
    pt_fp64: MoViNet,
    reference: Reference,
    clip: NDArray[np.float32],
    failed: CaseResult,
    tolerance: float,
) -> str:
    """Name the first of stem, blocks, head and classifier at which the activations differ.

    The whole ``clip`` (B, 3, T, H, W) runs through all three; a layer differs where TF float32 is
    further from PyTorch float32 than rounding explains. A fault that shows only when a video is
    cut into calls leaves all layers equal: then the first state tensor that is off tells the block.
    """
    exact = activations(pt_fp64, clip)
    ours = activations(pt_fp32, clip)
    for name, theirs in reference.endpoints(clip).items():
        rounding = np.abs(ours[name] - exact[name]).max()
        allowed = ROUNDINGS * rounding + FLOOR * spread(theirs)
        if not np.abs(theirs - ours[name]).max() <= allowed:
            return name
    states = [name for name in failed.beyond(tolerance) if name != LOGITS]
    return states[0].split(".")[0] if states else CLASSIFIER


@torch.inference_mode()
def activations(model: MoViNet, clip: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Outputs (B, C, T, H, W) of stem, blocks and head, the last averaged over T, H and W."""
    layers = {"stem": model.stem, **model.blocks, HEAD: model.head}
    outputs: dict[str, NDArray[Any]] = {}

    def keep(name: str, output: Any) -> None:
        frames = output[0] if isinstance(output, tuple) else output
        videos = frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)
        outputs[name] = videos.numpy()

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, layer in layers.items()
    ]
    try:
        model(torch.from_numpy(clip).to(model.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    outputs[HEAD] = outputs[HEAD].mean(axis=(2, 3, 4), keepdims=True)
    return outputs
