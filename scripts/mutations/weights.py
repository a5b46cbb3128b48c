"""Mistakes of a conversion: the correct arithmetic on weights in the wrong places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scripts.mutations.mistake import BASE, EVERY, STREAM, Mistake

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from movinet_convert.model import MoViNet

Change = "Callable[[Tensor], Tensor]"


def twins(model: MoViNet, path: str) -> tuple[Tensor, Tensor]:
    """The tensors of one name in two blocks, of equal shape, as near to each other as there are."""
    tensors = [s[path] for s in (b.state_dict() for b in model.blocks.values()) if path in s]
    return next(
        (a, b)
        for distance in range(1, len(tensors))
        for a, b in zip(tensors, tensors[distance:], strict=False)
        if a.shape == b.shape and not torch.equal(a, b)
    )


def exchange(a: Tensor, b: Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def exchanged(*paths: str) -> Callable[[MoViNet], None]:
    """Exchange tensors of a block with their equal-shaped twins of another."""

    def make(model: MoViNet) -> None:
        for path in paths:
            exchange(*twins(model, path))

    return make


def exchanged_within(first: str, second: str) -> Callable[[MoViNet], None]:
    def make(model: MoViNet) -> None:
        tensors = model.state_dict()
        exchange(tensors[first], tensors[second])

    return make


def changed(path: str, change: Callable[[Tensor], Tensor]) -> Callable[[MoViNet], None]:
    """Replace one tensor of the network."""

    def make(model: MoViNet) -> None:
        tensor = model.state_dict()[path]
        tensor.copy_(change(tensor.clone()))

    return make


def rounded(dtype: torch.dtype) -> Callable[[MoViNet], None]:
    """Weights stored in fewer bits, passed off as float32."""

    def make(model: MoViNet) -> None:
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.to(dtype).to(tensor.dtype))

    return make


def quantized(model: MoViNet) -> None:
    for block in model.blocks.values():
        weight = block.state_dict()["projection.conv.weight"]
        step = weight.abs().max() / 127
        weight.copy_((weight / step).round() * step)


def mean_of_another_block(model: MoViNet) -> None:
    a, b = twins(model, "expansion.norm.running_mean")
    a.copy_(b)


def first_negative_scale(change: Callable[[Tensor], Tensor]) -> Callable[[MoViNet], None]:
    def make(model: MoViNet) -> None:
        scale = next(b.scale for b in model.blocks.values() if float(b.scale.detach()) < 0)
        scale.copy_(change(scale.clone()))

    return make


def one_scale_for_all(model: MoViNet) -> None:
    for block in model.blocks.values():
        block.scale.fill_(float(next(iter(model.blocks.values())).scale))


FIRST, LATER = "blocks.block0_layer0.", "blocks.block2_layer1."
LATER_KERNEL = LATER + "feature.conv.weight"
TIME = LATER + "feature.temporal_conv.weight"  # (C, 1, k, 1)

WEIGHT_MISTAKES = (
    Mistake("expansion kernels of two blocks exchanged", EVERY, exchanged("expansion.conv.weight")),
    Mistake("depthwise kernels of two blocks exchanged", EVERY, exchanged("feature.conv.weight")),
    Mistake(
        "projection kernels of two blocks exchanged", EVERY, exchanged("projection.conv.weight")
    ),
    Mistake(
        "temporal kernels of two blocks exchanged",
        STREAM,
        exchanged("feature.temporal_conv.weight"),
    ),
    Mistake("squeeze kernels of two blocks exchanged", EVERY, exchanged("attention.reduce.weight")),
    Mistake("excitation biases of two blocks exchanged", EVERY, exchanged("attention.expand.bias")),
    Mistake("ReZero scales of two blocks exchanged", EVERY, exchanged("scale")),
    Mistake("gammas of two blocks exchanged", EVERY, exchanged("expansion.norm.weight")),
    Mistake("betas of two blocks exchanged", EVERY, exchanged("projection.norm.bias")),
    Mistake("moving means of two blocks exchanged", EVERY, exchanged("feature.norm.running_mean")),
    Mistake(
        "moving variances of two blocks exchanged", EVERY, exchanged("feature.norm.running_var")
    ),
    Mistake(
        "spatial and temporal norms' betas exchanged",
        STREAM,
        exchanged_within(LATER + "feature.norm.bias", LATER + "feature.temporal_norm.bias"),
    ),
    Mistake(
        "positional encodings' ReZero scales exchanged",
        ("a3-stream",),
        exchanged("attention.encoding_scale"),
    ),
    Mistake("moving mean of another block", EVERY, mean_of_another_block),
    Mistake(
        "gamma and beta of a norm exchanged",
        EVERY,
        exchanged_within(FIRST + "projection.norm.weight", FIRST + "projection.norm.bias"),
    ),
    Mistake(
        "moving mean and variance of a norm exchanged",
        EVERY,
        exchanged_within("stem.norm.running_mean", "stem.norm.running_var"),
    ),
    Mistake(
        "standard deviation used as variance",
        EVERY,
        changed(LATER + "expansion.norm.running_var", torch.sqrt),
    ),
    Mistake(
        "beta of one norm missing", EVERY, changed(LATER + "projection.norm.bias", torch.zeros_like)
    ),
    Mistake(
        "kernel transposed in space", EVERY, changed(LATER_KERNEL, lambda w: w.transpose(-1, -2))
    ),
    Mistake("kernel flipped in space", EVERY, changed(LATER_KERNEL, lambda w: w.flip(-1, -2))),
    Mistake(
        "kernel of every channel taken from the next",
        EVERY,
        changed(LATER_KERNEL, lambda w: w.roll(1, 0)),
    ),
    Mistake("kernel flipped in time", BASE, changed(LATER_KERNEL, lambda w: w.flip(2))),
    Mistake("kernel flipped in time", STREAM, changed(TIME, lambda w: w.flip(2))),
    Mistake(
        "oldest tap of a temporal kernel missing",
        STREAM,
        changed(TIME, lambda w: torch.cat((torch.zeros_like(w[:, :, :1]), w[:, :, 1:]), 2)),
    ),
    Mistake("red and blue exchanged", EVERY, changed("stem.conv.weight", lambda w: w.flip(1))),
    Mistake("ReZero skipped in one block", EVERY, changed(LATER + "scale", torch.ones_like)),
    Mistake("absolute value of a ReZero scale", EVERY, first_negative_scale(torch.abs)),
    Mistake("one ReZero scale for all blocks", EVERY, one_scale_for_all),
    Mistake(
        "last class's bias missing",
        EVERY,
        changed("classifier.output.bias", lambda b: torch.cat((b[:-1], b[-1:] * 0))),
    ),
    Mistake("hidden bias missing", EVERY, changed("classifier.hidden.bias", torch.zeros_like)),
    Mistake(
        "classes shifted by one", EVERY, changed("classifier.output.weight", lambda w: w.roll(1, 0))
    ),
    Mistake("float16 weights declared as float32", EVERY, rounded(torch.float16)),
    Mistake("bfloat16 weights declared as float32", EVERY, rounded(torch.bfloat16)),
    Mistake("projections quantized to 8 bits", EVERY, quantized),
)
