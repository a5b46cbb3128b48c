"""The three models that a comparison runs, each on the same NumPy clips."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.model import MoViNet
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.result import LOGITS

Array = NDArray[Any]


@dataclass(frozen=True)
class Models:
    """All in inference mode, on the CPU, with the same weights or those of two files."""

    tf_fp32: Reference
    pt_fp32: MoViNet
    pt_fp64: MoViNet

    @staticmethod
    def of(model: MoViNet, reference: Reference) -> Models:
        pt_fp32 = copy.deepcopy(model).cpu().float().eval()
        return Models(reference, pt_fp32, copy.deepcopy(pt_fp32).double())


@torch.inference_mode()
def run(model: Reference | MoViNet, clip: Array, chunks: Sequence[int]) -> dict[str, Array]:
    """Logits of a clip (B, 3, T, H, W); of a stream after each of its ``chunks``, and the state."""
    frames: Any = clip
    if isinstance(model, MoViNet):
        frames = torch.from_numpy(clip).to(model.dtype)
    if not model.settings.causal:
        whole = model(frames) if isinstance(model, MoViNet) else model.logits(frames)
        return {LOGITS: np.asarray(whole)}
    logits, state, start = [], None, 0
    for length in chunks:
        latest, state = model.stream(frames[:, :, start : start + length], state)
        logits.append(np.asarray(latest))
        start += length
    assert state is not None, "a case has at least one frame"
    return {LOGITS: np.stack(logits), **{name: t.numpy() for name, t in state.tensors()}}


@torch.inference_mode()
def activations(model: MoViNet, clip: Array) -> dict[str, Array]:
    """Outputs (B, C, T, H, W) of stem, blocks and head, the head's averaged over T, H and W."""
    layers = {"stem": model.stem, **model.blocks, "head": model.head}
    outputs: dict[str, Array] = {}

    def record(name: str, output: Any) -> None:
        frames = output[0] if isinstance(output, tuple) else output
        videos = frames.unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)
        outputs[name] = videos.numpy()

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, layer in layers.items()
    ]
    try:
        model(torch.from_numpy(clip).to(model.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    outputs["head"] = outputs["head"].mean(axis=(2, 3, 4), keepdims=True)
    return outputs
