"""Mistakes in what a layer computes, whether a video comes whole or in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from movinet_convert.model.convolutions import AvgPool2dSame, same_padding
from movinet_convert.model.layers import ACTIVATIONS, GATES
from scripts.mutations.mistake import BASE, EVERY, STREAM, Mistake, become, original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from movinet_convert.model import MoViNet

ONE = "block2_layer1"  # a block in the middle, of stride 1


def norms(model: MoViNet) -> Iterator[Any]:
    return (module for module in model.modules() if hasattr(module, "running_var"))


def gate(name: str) -> Callable[[MoViNet], None]:
    def make(model: MoViNet) -> None:
        for block in model.blocks.values():
            block.attention.gate = GATES[name]  # type: ignore[union-attr, assignment]

    return make


def epsilon(model: MoViNet) -> None:
    for norm in norms(model):
        norm.eps = 1e-5


def epsilon_of_the_stem(model: MoViNet) -> None:
    next(norms(model)).eps = 1e-5


def batch_statistics(model: MoViNet) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    become(next(norms(model)), forward=forward)


def head_activation(model: MoViNet) -> None:
    model.classifier.activation = ACTIVATIONS["hard_swish"]


def other_activation(model: MoViNet) -> None:
    block: Any = model.blocks[ONE]
    name = "swish" if model.settings.activation == "hard_swish" else "hard_swish"
    block.expansion.activation = ACTIVATIONS[name]


def no_activation(model: MoViNet) -> None:
    block: Any = model.blocks[ONE]
    del block.expansion.activation
    block.expansion.activation = nn.Identity()


def activation_of(model: MoViNet) -> nn.Module:
    return nn.Hardswish() if model.settings.activation == "hard_swish" else nn.SiLU()


def activated_projection(model: MoViNet) -> None:
    block: Any = model.blocks[ONE]
    block.projection.activation = activation_of(model)


def padded(
    pads: Callable[[int, int, int], tuple[int, int]], mode: str = "constant"
) -> Callable[[MoViNet], None]:
    """Pad all spatial convolutions as ``pads(size, kernel, stride)`` says."""

    def forward(self: Any, x: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.weight.shape[-2:], x.shape[-2:]
        stride = self.stride if isinstance(self.stride, int) else self.stride[0]
        sides = (*pads(width, columns, stride), *pads(height, rows, stride))
        return F.conv2d(F.pad(x, sides, mode), self.weight, self.bias, stride, groups=self.groups)

    def make(model: MoViNet) -> None:
        stem: Any = model.stem
        features: Any = [block.feature for block in model.blocks.values()]
        for conv in (stem.conv, *(feature.conv for feature in features)):
            if conv.weight.dim() == 4:
                become(conv, forward=forward)

    return make


def larger_half_first(size: int, kernel: int, stride: int) -> tuple[int, int]:
    before, after = same_padding(size, kernel, stride)
    return after, before


def symmetric(size: int, kernel: int, stride: int) -> tuple[int, int]:
    return kernel // 2, kernel // 2


def symmetric_if_large(size: int, kernel: int, stride: int) -> tuple[int, int]:
    return (symmetric if size > 100 else same_padding)(size, kernel, stride)


def pooled(pool: Callable[[Tensor], Tensor]) -> Callable[[MoViNet], None]:
    """Another way to halve the size on the skip path."""

    def make(model: MoViNet) -> None:
        for module in model.modules():
            if isinstance(module, AvgPool2dSame):
                become(module, forward=lambda self, x: pool(x))

    return make


def counting_padding(x: Tensor) -> Tensor:
    rows, columns = (same_padding(size, 3, 2) for size in x.shape[-2:])
    return F.avg_pool2d(F.pad(x, (*columns, *rows)), 3, 2)


def largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, (x.shape[-2] % 2, x.shape[-1] % 2), ceil_mode=True)


def skip_without_norm(model: MoViNet) -> None:
    skip: Any = next(b.skip for b in model.blocks.values() if hasattr(b.skip, "pool"))
    skip.norm = nn.Identity()


def activated_skip(model: MoViNet) -> None:
    skip: Any = next(b.skip for b in model.blocks.values() if hasattr(b.skip, "pool"))
    skip.activation = activation_of(model)


def no_skip(model: MoViNet) -> None:
    become(model.blocks[ONE].skip, forward=lambda self, x: torch.zeros_like(x))  # type: ignore[arg-type]


def is_pool(module: nn.Module) -> bool:
    return isinstance(module, AvgPool2dSame)


def stride_in_the_expansion(model: MoViNet) -> None:
    block: Any = next(b for b in model.blocks.values() if any(map(is_pool, b.skip.modules())))

    def pick(self: Any, x: Tensor) -> Tensor:
        return original(self).forward(self, x[..., ::2, ::2])  # type: ignore[no-any-return]

    def stay(self: Any, x: Tensor, *rest: Any) -> Any:
        larger = x.repeat_interleave(2, -2).repeat_interleave(2, -1)
        return original(self).forward(self, larger, *rest)

    become(block.expansion, forward=pick)
    become(block.feature, forward=stay)


def dropout_left_on(model: MoViNet) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = F.dropout(self.activation(self.hidden(x)), self.dropout, True)
        return self.output(hidden)  # type: ignore[no-any-return]

    become(model.classifier, forward=forward)


def stochastic_depth_left_on(model: MoViNet) -> None:
    def forward(self: Any, x: Tensor, *rest: Any) -> Any:
        y, buffer, pool = original(self).forward(self, x, *rest)
        return torch.where(torch.rand(()) < 0.5, self.skip(x), y), buffer, pool

    become(list(model.blocks.values())[-1], forward=forward)


def softmax_of_the_logits(model: MoViNet) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return original(self).forward(self, x).softmax(-1)  # type: ignore[no-any-return]

    become(model.classifier, forward=forward)


def last_block_left_out(model: MoViNet) -> None:
    def forward(self: Any, x: Tensor, *rest: Any) -> Any:
        _, buffer, pool = original(self).forward(self, x, *rest)
        return self.skip(x), buffer, pool

    become(list(model.blocks.values())[-1], forward=forward)


def seen_as(change: Callable[[Tensor], Tensor]) -> Callable[[MoViNet], None]:
    """Another preparation of the frames (B, 3, T, H, W), RGB in [0, 1]."""

    def to_frames(self: Any, clip: Tensor, seen: Tensor | None) -> Any:
        return original(self)._to_frames(self, change(clip), seen)

    return lambda model: become(model, _to_frames=to_frames)


def as_imagenet(clip: Tensor) -> Tensor:
    mean = clip.new_tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1, 1)
    deviation = clip.new_tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1, 1)
    return (clip - mean) / deviation


def mean_before_activation(model: MoViNet) -> None:
    def spatial_means(self: Any, x: Tensor, positions: Any) -> Tensor:
        means = self.head.norm(self.head.conv(x)).mean(dim=(2, 3))
        return self.head.activation(means).reshape(positions.batch, positions.frames, -1)  # type: ignore[no-any-return]

    become(model, _spatial_means=spatial_means)


def gate_per_frame(model: MoViNet) -> None:
    """Squeeze-excitation of single frames, where base models look at the whole clip."""

    def gates(self: Any, means: Tensor, positions: Any, pool: Any) -> Any:
        gates = self.gate(self.expand(self.activation(self.reduce(means))))
        return gates[:, :, None, None], pool

    for block in model.blocks.values():
        become(block.attention, gates=gates)  # type: ignore[arg-type]


def causal_in_base(model: MoViNet) -> None:
    """All temporal padding before the clip, as in stream models."""

    def forward(self: Any, videos: Tensor) -> Tensor:
        kernel, stride = self.kernel_size, self.stride
        rows = same_padding(videos.shape[-2], kernel[1], stride[1])
        columns = same_padding(videos.shape[-1], kernel[2], stride[2])
        padded = F.pad(videos, (*columns, *rows, kernel[0] - 1, 0))
        return F.conv3d(padded, self.weight, self.bias, stride, groups=self.groups)

    features: Any = [block.feature for block in model.blocks.values()]
    for feature in features:
        if feature.conv.weight.dim() == 5:
            become(feature.conv, forward=forward)


def mean_of_logits(model: MoViNet) -> None:
    """The classifier on every frame, and the mean of its logits."""

    def forward(self: Any, pooled: Tensor) -> Tensor:
        kept: Tensor = self.__dict__.pop("means")
        return original(self).forward(self, kept).mean(1)  # type: ignore[no-any-return]

    def spatial_means(self: Any, x: Tensor, positions: Any) -> Tensor:
        means: Tensor = original(self)._spatial_means(self, x, positions)
        self.classifier.__dict__["means"] = means
        return means

    become(model.classifier, forward=forward)
    become(model, _spatial_means=spatial_means)


LAYER_MISTAKES = (
    Mistake("the other hard sigmoid as the gate", STREAM, gate("model-garden")),
    Mistake("sigmoid as the gate of a stream model", STREAM, gate("sigmoid")),
    Mistake("hard sigmoid as the gate of a base model", BASE, gate("keras")),
    Mistake("hard_swish in the classifier's hidden layer", EVERY, head_activation),
    Mistake("the other swish activation in one block", EVERY, other_activation),
    Mistake("no activation after one expansion", EVERY, no_activation),
    Mistake("an activation after one projection", EVERY, activated_projection),
    Mistake("epsilon 1e-5", EVERY, epsilon),
    Mistake("epsilon 1e-5 in the stem only", EVERY, epsilon_of_the_stem),
    Mistake("batch statistics in one norm", EVERY, batch_statistics),
    Mistake("larger half of the padding before the input", EVERY, padded(larger_half_first)),
    Mistake("symmetric padding", EVERY, padded(symmetric)),
    Mistake("symmetric padding above 100 pixels", EVERY, padded(symmetric_if_large)),
    Mistake("replicate padding", EVERY, padded(same_padding, "replicate")),
    Mistake("pooling that includes the padding", EVERY, pooled(counting_padding)),
    Mistake("2 x 2 pooling", EVERY, pooled(lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True))),
    Mistake("max pooling instead of average pooling", EVERY, pooled(largest)),
    Mistake("subsampling instead of pooling", EVERY, pooled(lambda x: x[..., ::2, ::2])),
    Mistake(
        "pooling padded by one on all sides",
        EVERY,
        pooled(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    ),
    Mistake("skip without its norm", EVERY, skip_without_norm),
    Mistake("an activation on the skip", EVERY, activated_skip),
    Mistake("no skip in one block", EVERY, no_skip),
    Mistake("stride in the expansion", EVERY, stride_in_the_expansion),
    Mistake("dropout left on", EVERY, dropout_left_on),
    Mistake("stochastic depth left on", EVERY, stochastic_depth_left_on),
    Mistake("softmax of the logits", EVERY, softmax_of_the_logits),
    Mistake("last block's residual branch missing", EVERY, last_block_left_out),
    Mistake("input in [-1, 1]", EVERY, seen_as(lambda clip: 2 * clip - 1)),
    Mistake("input in [0, 255]", EVERY, seen_as(lambda clip: 255 * clip)),
    Mistake("input with ImageNet normalisation", EVERY, seen_as(as_imagenet)),
    Mistake("input rounded to 8 bits", EVERY, seen_as(lambda clip: (255 * clip).round() / 255)),
    Mistake("input upside down", EVERY, seen_as(lambda clip: clip.flip(-2))),
    Mistake("frames of a call in reverse order", EVERY, seen_as(lambda clip: clip.flip(2))),
    Mistake("head's mean before its activation", EVERY, mean_before_activation),
    Mistake("per-frame gates in a base model", BASE, gate_per_frame),
    Mistake("causal padding in a base model", BASE, causal_in_base),
    Mistake("mean of per-frame logits instead of logits of the mean", BASE, mean_of_logits),
)
