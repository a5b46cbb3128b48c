"""Convolutions for inference: bias and activation inside, weights in oneDNN's own layout.

On a CPU, PyTorch reorders the weights of a convolution at every call and writes the activation
in a second pass. The operators that ``torch.compile`` calls after freezing take weights packed
once and activate in the same pass; these modules call them directly. Elsewhere, and under
autograd, compilation and export, they are the plain convolutions they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.model.padding import padded_weight, same_padding

# oneDNN's hard swish costs nothing beside the convolution; its swish costs more than ATen's.
INSIDE = {"hard_swish": "hardswish"}
OUTSIDE: dict[str, Callable[..., Tensor]] = {"swish": F.silu, "hard_swish": F.hardswish}
# Up to here a plain matrix product is the faster one: oneDNN's takes some 20 us to begin.
FEW_PIXELS = 512


def _onednn_operators() -> Any:
    """The operators, or None where this build of PyTorch lacks them."""
    wanted = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight")
    operators = torch.ops.mkldnn
    available = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operators, name) for name in wanted
    )
    return operators if available else None


ONEDNN = _onednn_operators()


def runs_packed(x: Tensor) -> bool:
    """Whether ``x`` is for oneDNN: a float32 CPU tensor at plain inference."""
    return (
        ONEDNN is not None
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not (torch.is_grad_enabled() and x.requires_grad)
    )


class _Packed(nn.Module):
    """Frozen weight and bias, and the packed copies of the weight, which are made when needed."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
        self.activation = activation
        self._packs: dict[Any, tuple[int, Any]] = {}

    @torch.no_grad()
    def _pack(self, key: Any, make: Callable[[], Any]) -> Any:
        if self.weight.is_inference():  # it does not count its changes: nothing to keep a copy by
            return make()
        version = self.weight._version
        found = self._packs.get(key)
        if found is None or found[0] != version:
            if len(self._packs) >= 4:  # sizes come and go; weights of the latest are enough
                self._packs.clear()
            with torch.inference_mode(False):  # so that it serves in either mode
                found = (version, make())
            self._packs[key] = found
        return found[1]

    def _activate(self, y: Tensor, inside: bool) -> Tensor:
        """Apply what the operator has not applied; ``inside``: it was a oneDNN one."""
        if self.activation is None or (inside and self.activation in INSIDE):
            return y
        return OUTSIDE[self.activation](y, inside)

    def _activate_sum(self, y: Tensor) -> Tensor:
        """Apply the activation to what an operator without one has returned, in place."""
        return y if self.activation is None else OUTSIDE[self.activation](y, True)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._packs = {}  # moved or cast weights need new packs
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packs": {}}  # packed tensors can be neither copied nor saved

    @property
    def _inside(self) -> str:
        return INSIDE.get(self.activation or "", "none")


class Pointwise(_Packed):
    """1x1 convolution of channels-last frames, as one matrix product: (N, C, H, W)."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Convolve, add ``plus`` if given, activate."""
        if not runs_packed(x):
            y = F.conv2d(x, self.weight, self.bias)
            return self._activate(y if plus is None else y + plus, inside=False)
        pixels = x.permute(0, 2, 3, 1)
        added = None if plus is None else plus.permute(0, 2, 3, 1)
        if x.shape[0] * x.shape[2] * x.shape[3] <= FEW_PIXELS:
            return self._product(pixels, added).permute(0, 3, 1, 2)
        weight = self._pack("linear", self._packed_weight)
        if added is None:
            y = ONEDNN._linear_pointwise(pixels, weight, self.bias, self._inside, [], "")
        else:
            y = ONEDNN._linear_pointwise.binary(pixels, added, weight, self.bias, "add")
            return self._activate_sum(y).permute(0, 3, 1, 2)
        return self._activate(y.permute(0, 3, 1, 2), inside=True)

    def _product(self, pixels: Tensor, added: Tensor | None) -> Tensor:
        """``forward`` on (N, H, W, C), whole, without oneDNN."""
        weight = self._pack("product", lambda: self.weight.flatten(1).t().contiguous())
        y = torch.addmm(self.bias, pixels.flatten(0, 2), weight)
        y = y.view(*pixels.shape[:3], -1)
        return self._activate_sum(y if added is None else y.add_(added))

    def packed_into(self, x: Tensor, out: Tensor) -> None:
        """Convolve and activate, as ``forward`` does, into channels-last memory (N, H, W, C)."""
        pixels = x.permute(0, 2, 3, 1)
        weight = self._pack("linear", self._packed_weight)
        y = ONEDNN._linear_pointwise(pixels, weight, self.bias, self._inside, [], "")
        if self.activation == "swish":
            torch.ops.aten.silu.out(y, out=out)
        else:
            out.copy_(self._activate(y, inside=True))

    def _packed_weight(self) -> Tensor:
        packed: Tensor = ONEDNN._reorder_linear_weight(self.weight.flatten(1))
        return packed


class Spatial(_Packed):
    """2D convolution with ``SAME`` padding, strided or not, full or depthwise."""

    def __init__(
        self, weight: Tensor, bias: Tensor, activation: str | None, stride: int, groups: int
    ) -> None:
        super().__init__(weight, bias, activation)
        self.stride = [stride] * (weight.dim() - 2)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return self.packed(x) if runs_packed(x) else self.plain(x, self.padding(x, 2))

    def padding(self, x: Tensor, first: int) -> list[tuple[int, int]]:
        """Zeros before and after each axis from ``first`` on."""
        shapes = zip(
            x.shape[first:], self.weight.shape[first:], self.stride[first - 2 :], strict=True
        )
        return [same_padding(*shape) for shape in shapes]

    def plain(self, x: Tensor, before_after: Sequence[tuple[int, int]]) -> Tensor:
        """Convolve with zeros around each axis: a pair of numbers for every axis."""
        weight = padded_weight(self.weight, before_after)
        padding = [after for _, after in before_after]
        convolution = F.conv2d if x.dim() == 4 else F.conv3d
        y = convolution(x, weight, self.bias, self.stride, padding, groups=self.groups)
        return self._activate(y, inside=False)

    def packed(self, x: Tensor, time: tuple[int, int] | None = None) -> Tensor:
        """The same for an ``x`` that ``runs_packed``, padded by ``time`` on the first axis."""
        # oneDNN chooses the layout for a size of input.
        weight, padding = self._pack((x.shape[2:], time), lambda: self._packed_weight(x, time))
        y = ONEDNN._convolution_pointwise(
            x,
            weight,
            self.bias,
            padding,
            self.stride,
            [1] * len(padding),
            self.groups,
            self._inside,
            [],
            "",
        )
        return self._activate(y, inside=True)

    def _packed_weight(self, x: Tensor, time: tuple[int, int] | None) -> tuple[Tensor, list[int]]:
        before_after = self.padding(x, 2) if time is None else [time, *self.padding(x, 3)]
        padding = [after for _, after in before_after]
        weight = padded_weight(self.weight, before_after)
        ones = [1] * len(padding)
        made: Tensor = ONEDNN._reorder_convolution_weight(
            weight, padding, self.stride, ones, self.groups, x.shape
        )
        return made, padding


class Temporal(Spatial):
    """Depthwise convolution over frames, and over space too if its kernel is 3D.

    Takes the frames (B, C, T + k - 1, H, W) with those of the past in place, and where the kernel
    looks both ways those of the future, or the T frames of a ``whole`` clip.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None, stride: int) -> None:
        super().__init__(weight, bias, activation, stride, groups=weight.shape[0])
        self.stride[0] = 1
        self.length = weight.shape[2]
        # Channels last, for the sum over single frames.
        self.register_buffer("taps", weight.flatten(1).t().contiguous(), persistent=False)
        self.taps: Tensor

    def forward(self, videos: Tensor, *, whole: bool = False) -> Tensor:
        time = same_padding(videos.shape[2], self.length, 1) if whole else (0, 0)
        if self.weight.dim() == 5:
            return self._in_time(videos, time)
        # Pixels side by side on one axis make it a 2D convolution, which is the faster one.
        y = self._in_time(videos.flatten(3), time)
        return y.reshape(*y.shape[:3], *videos.shape[3:])

    def _in_time(self, x: Tensor, time: tuple[int, int]) -> Tensor:
        return (
            self.packed(x, time) if runs_packed(x) else self.plain(x, [time, *self.padding(x, 3)])
        )

    def newest(self, before: Tensor, frame: Tensor) -> Tensor:
        """The latest output alone, from channels-last frames (B, k-1, H, W, C), (B, H, W, C).

        A sum over the few taps costs less than joining the frames for a convolution.
        """
        packed = runs_packed(frame)
        *earlier, last = self.taps.unbind()
        y = torch.addcmul(self.bias, frame, last)
        for past, tap in zip(before.unbind(1), earlier, strict=True):
            y = y.addcmul_(past, tap) if packed else torch.addcmul(y, past, tap)
        return y if self.activation is None else OUTSIDE[self.activation](y, packed)
