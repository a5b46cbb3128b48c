"""Convolutions for inference: bias and activation fused, weights in oneDNN's own layout.

On a CPU, PyTorch reorders the weights of a convolution at every call and writes the activation
in a second pass. The operators that ``torch.compile`` calls after freezing take weights packed
once and activate in the same pass; these modules call them directly. On other devices, and under
autograd, compilation and export, they fall back to plain convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.model.convolutions import conv_same, padded_weight, same_paddings
from movinet_convert.model.layers import ACTIVATIONS

# oneDNN's hard swish is free after a convolution; its swish is slower than ATen's.
ONEDNN_ACTIVATIONS = {"hard_swish": "hardswish"}
# Up to this size a plain matrix product is faster: oneDNN's has an overhead of about 20 us.
FEW_PIXELS = 512
MOST_PACKS = 4  # per layer, for the latest input sizes


def _onednn_operators() -> Any:
    """The operators, or None where this build of PyTorch lacks them."""
    wanted = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight")
    operators = torch.ops.mkldnn
    available = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operators, name) for name in wanted
    )
    return operators if available else None


ONEDNN = _onednn_operators()


def runs_onednn(x: Tensor) -> bool:
    """Whether ``x`` is for oneDNN: a float32 CPU tensor at plain inference."""
    return (
        ONEDNN is not None
        and not torch.compiler.is_compiling()
        and x.is_cpu
        and x.dtype == torch.float32
        and not (x.requires_grad and torch.is_grad_enabled())
    )


class FusedConv(nn.Module):
    """Base of the convolutions below: frozen weights, their packed copies, the activation."""

    pad_input = False  # pad the input rather than the weight, where oneDNN does not run
    weight: Any
    bias: Any
    stride: tuple[int, ...]
    groups: int

    def __init__(self, conv: Any, weight: Tensor, bias: Tensor, activation: str | None) -> None:
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        super().__init__(*sizes, groups=conv.groups, device="meta")
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
        self.activation = activation
        self._onednn_activation = ONEDNN_ACTIVATIONS.get(activation or "", "none")
        self._packs: dict[Any, tuple[int, Any]] = {}

    def convolve(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Convolve and activate; ``causal``: no padding on the first axis, time."""
        if not runs_onednn(x):
            y = conv_same(
                x,
                self.weight,
                self.bias,
                self.stride,
                self.groups,
                causal=causal,
                pad_input=self.pad_input,
            )
            return self.activate(y)
        # oneDNN chooses the layout for a size of input.
        weight, padding = self._pack((x.shape[2:], causal), lambda: self._packed_weight(x, causal))
        ones = [1] * len(padding)
        y = ONEDNN._convolution_pointwise(
            x,
            weight,
            self.bias,
            padding,
            self.stride,
            ones,
            self.groups,
            self._onednn_activation,
            [],
            "",
        )
        return self._activate_rest(y)

    def activate(self, y: Tensor, *, inplace: bool = False) -> Tensor:
        return y if self.activation is None else ACTIVATIONS[self.activation](y, inplace)

    def _activate_rest(self, y: Tensor) -> Tensor:
        """Apply an activation that oneDNN's operator has not applied."""
        return y if self._onednn_activation != "none" else self.activate(y, inplace=True)

    def _packed_weight(self, x: Tensor, causal: bool) -> tuple[Tensor, list[int]]:
        paddings = same_paddings(x, self.weight, self.stride, causal=causal)
        weight, padding = padded_weight(self.weight, paddings), [after for _, after in paddings]
        packed: Tensor = ONEDNN._reorder_convolution_weight(
            weight, padding, self.stride, [1] * len(padding), self.groups, x.shape
        )
        return packed, padding

    def _pack(self, key: Any, make: Callable[[], Any]) -> Any:
        weight = self.weight
        if weight.is_inference():  # it does not count its changes: nothing to keep a copy by
            return make()
        found = self._packs.get(key)
        if found is None or found[0] != weight._version:
            if len(self._packs) >= MOST_PACKS:
                self._packs.clear()
            with torch.inference_mode(False), torch.no_grad():  # so that it serves in either mode
                found = (weight._version, make())
            self._packs[key] = found
        return found[1]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._packs = {}  # moved or cast weights need new packs
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packs": {}}  # packed tensors can be neither copied nor saved

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


class FusedConv2d(FusedConv, nn.Conv2d):
    """2D convolution with ``SAME`` padding, strided or not, full or depthwise."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x)


class FusedPointwise(FusedConv, nn.Conv2d):
    """1x1 convolution of channels-last frames (N, C, H, W), as one matrix product."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Convolve, add ``plus`` if given, activate."""
        if not runs_onednn(x):
            y = F.conv2d(x, self.weight, self.bias)
            return self.activate(y if plus is None else y + plus)
        pixels = x.permute(0, 2, 3, 1)
        added = None if plus is None else plus.permute(0, 2, 3, 1)
        if x.shape[0] * x.shape[2] * x.shape[3] <= FEW_PIXELS:
            y = self._product(pixels, added)
        elif added is None:
            y = self._activate_rest(self._linear(pixels))
        else:
            weight = self._pack("linear", self._linear_weight)
            y = ONEDNN._linear_pointwise.binary(pixels, added, weight, self.bias, "add")
            y = self.activate(y, inplace=True)
        return y.permute(0, 3, 1, 2)

    def into(self, x: Tensor, out: Tensor) -> None:
        """``forward`` of frames for oneDNN, into channels-last memory (N, H, W, C)."""
        y = self._linear(x.permute(0, 2, 3, 1))
        if self.activation == "swish":
            torch.ops.aten.silu.out(y, out=out)
        else:
            out.copy_(self._activate_rest(y))

    def _product(self, pixels: Tensor, added: Tensor | None) -> Tensor:
        """``forward`` on (N, H, W, C), whole, without oneDNN."""
        weight = self._pack("product", lambda: self.weight.flatten(1).t().contiguous())
        y = torch.addmm(self.bias, pixels.flatten(0, 2), weight)
        y = y.view(*pixels.shape[:3], -1)
        return self.activate(y if added is None else y.add_(added), inplace=True)

    def _linear(self, pixels: Tensor) -> Tensor:
        weight, activation = self._pack("linear", self._linear_weight), self._onednn_activation
        y: Tensor = ONEDNN._linear_pointwise(pixels, weight, self.bias, activation, [], "")
        return y

    def _linear_weight(self) -> Tensor:
        packed: Tensor = ONEDNN._reorder_linear_weight(self.weight.flatten(1))
        return packed


class FusedTemporalConv2d(FusedConv, nn.Conv2d):
    """Depthwise convolution over time: (B, C, T + k - 1, H, W), past in front, -> (B, C, T, H, W).

    As ``TemporalConv2d``, over frames and pixels.
    """

    def __init__(self, conv: Any, weight: Tensor, bias: Tensor, activation: str | None) -> None:
        super().__init__(conv, weight, bias, activation)
        # Channels last, for the sum over single frames.
        self.register_buffer("taps", weight.flatten(1).t().contiguous(), persistent=False)
        self.taps: Tensor

    def forward(self, videos: Tensor) -> Tensor:
        y = self.convolve(videos.flatten(3), causal=True)
        return y.reshape(*y.shape[:3], *videos.shape[3:])

    def newest(self, past: Tensor, frame: Tensor) -> Tensor:
        """The latest output alone, from channels-last frames (B, k-1, H, W, C), (B, H, W, C).

        A sum over the few taps costs less than joining the frames for a convolution.
        """
        inplace = runs_onednn(frame)
        *earlier, last = self.taps.unbind()
        y = torch.addcmul(self.bias, frame, last)
        for before, tap in zip(past.unbind(1), earlier, strict=True):
            y = y.addcmul_(before, tap) if inplace else torch.addcmul(y, before, tap)
        return self.activate(y, inplace=inplace)


class FusedConv3d(FusedConv, nn.Conv3d):
    """Depthwise 3D convolution (B, C, T, H, W), ``SAME``; ``causal``: past frames are in front."""

    def __init__(self, conv: Any, weight: Tensor, bias: Tensor, activation: str | None) -> None:
        super().__init__(conv, weight, bias, activation)
        self.causal: bool = conv.causal

    def forward(self, videos: Tensor, *, padded: bool = False) -> Tensor:
        """``padded``: the zeros before and after the clip are in place too."""
        return self.convolve(videos, causal=self.causal or padded)
