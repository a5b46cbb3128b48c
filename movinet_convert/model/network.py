"""MoViNet: stem, blocks, head and classifier, for whole clips and for streams."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.model.block import Block
from movinet_convert.model.input_check import RangeCheck, order_advice, require_float
from movinet_convert.model.layers import ACTIVATIONS, GATES, ConvNorm, Linear
from movinet_convert.model.positions import FramePositions
from movinet_convert.model.settings import (
    DEFAULT_ORIGINS,
    METADATA_KEY,
    check_num_classes,
    check_record,
    settings_record,
)
from movinet_convert.model.state import StateSpec, StreamState
from movinet_convert.model.transforms import CHANNELS, ClipTransform
from movinet_convert.variants import (
    KINETICS_600_CLASSES,
    STEM_KERNEL,
    STOCHASTIC_DEPTH_RATE,
    Settings,
    Variant,
)


class Stem(ConvNorm):
    """The first convolution: takes frames in any memory layout, returns channels-last ones."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class Classifier(nn.Module):
    """Pooled features (..., C) -> logits (..., classes): a hidden layer, dropout, a linear map."""

    def __init__(self, inputs: int, hidden: int, classes: int, dropout: float, act: str) -> None:
        super().__init__()
        self.hidden = Linear(inputs, hidden)
        self.output = Linear(hidden, classes)
        self.activation = ACTIVATIONS[act]
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.hidden(x))
        logits: Tensor = self.output(F.dropout(x, self.dropout, self.training))
        return logits


class MoViNet(nn.Module):
    """A mobile video network (https://arxiv.org/abs/2103.11511).

    ``model(clip)`` takes (B, 3, T, H, W), RGB in [0, 1], and returns logits (B, classes).
    Stream variants also take a video in chunks: ``model.stream(frames, state)``.

    ``dropout`` and ``stochastic_depth`` apply in training only; the defaults are the authors'.
    ``origins`` records where the settings came from, None if unknown. ``labels`` are the names of
    the classes in the order of the logits, None if unknown.

    ``state_dict()`` carries the settings in its metadata; ``load_state_dict`` raises WeightsError
    for those of a network with other settings, and warns of weights that may be for another gate.

    Raises UsageError for unknown settings or those of the other mode, less than one class, and
    probabilities outside [0, 1).
    """

    stem: Any  # as the blocks and the head, replaced in a fused network
    head: Any

    def __init__(
        self,
        variant: Variant,
        settings: Settings | None = None,
        num_classes: int = KINETICS_600_CLASSES,
        *,
        dropout: float | None = None,
        stochastic_depth: float = STOCHASTIC_DEPTH_RATE,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.settings = settings if settings is not None else variant.settings()
        self.origins = DEFAULT_ORIGINS if settings is None else None
        self.num_classes = num_classes
        self.labels: tuple[str, ...] | None = None
        _check_options(variant, self.settings, num_classes, dropout, stochastic_depth)
        self.state_spec = StateSpec.of(variant, self.settings)
        self.frozen: frozenset[str] = frozenset()  # submodules that ``train()`` leaves in eval mode
        self.fused = False
        self._range_check = RangeCheck()
        spec, act = variant.spec, self.settings.activation
        dropout = spec.dropout if dropout is None else dropout
        head_act = self.settings.head_activation
        self.stem = Stem(CHANNELS, spec.stem, STEM_KERNEL[1:], stride=2, activation=act)
        self.blocks = nn.ModuleDict({b.name: Block(b, self.settings, 0.0) for b in spec.blocks})
        self.head = ConvNorm(spec.blocks[-1].outputs, spec.head, activation=act)
        self.classifier = Classifier(spec.head, spec.classifier, num_classes, dropout, head_act)
        self.set_stochastic_depth(stochastic_depth)

    def set_stochastic_depth(self, rate: float) -> None:
        """Set the drop probability of the last block; it grows linearly over the blocks."""
        blocks: list[Any] = list(self.blocks.values())
        for i, block in enumerate(blocks, 1):
            block.drop_rate = rate * i / len(blocks)

    def train(self, mode: bool = True) -> MoViNet:
        """Set the mode of all submodules but a frozen backbone; UsageError if fused."""
        if mode and self.fused:
            raise UsageError(
                "A fused network cannot be trained, since its normalisations are folded; train the "
                "original model, loaded without fuse=True."
            )
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def transforms(self) -> ClipTransform:
        """Decoded frames -> a clip of the size the variant was evaluated on."""
        return ClipTransform.of(self.variant)

    @property
    def dtype(self) -> torch.dtype:
        return self.classifier.output.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.classifier.output.weight.device

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[METADATA_KEY] = settings_record(self.settings, self.origins)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # Called before any tensor of the network is touched.
        record = local_metadata.get(METADATA_KEY)
        self.origins = check_record(
            record, self.variant, self.settings, self.origins, self.num_classes
        )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, classes) of whole clips (B, 3, T, H, W)."""
        if self.settings.causal:
            return self.stream(clip)[0]
        x, positions = self._to_frames(clip, None)
        x = self.stem(x)
        for block in self.blocks.values():
            x, _, _ = block(x, positions, None, None)
        pooled = self._spatial_means(x, positions).mean(dim=1)
        logits: Tensor = self.classifier(pooled)
        return logits

    def stream(
        self, frames: Tensor, state: StreamState | None = None, *, per_frame: bool = False
    ) -> tuple[Tensor, StreamState]:
        """Logits after the latest frames of some videos, and the state to resume from.

        ``frames`` is (B, 3, t, H, W), t >= 1, and continues from ``state``; None starts a video.
        The logits (B, classes) are those of all frames so far, however they were split into calls;
        ``per_frame=True`` returns them after every frame, (B, t, classes).

        Raises UsageError for a base variant, StateError where the state is of another batch,
        frame size or network.
        """
        self._require_stream()
        seen = None if state is None else state.frame_count
        x, positions = self._to_frames(frames, seen)
        if state is not None:
            self.check_state(state, positions.batch, *frames.shape[3:])
        x = self.stem(x)
        buffers: dict[str, Tensor] = {}
        pools: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            buffer, pool = (None, None) if state is None else state.of_block(name)
            x, buffer, pools[name] = block(x, positions, buffer, pool)
            if buffer is not None:
                buffers[name] = buffer
        means = self._spatial_means(x, positions)
        averages, head = positions.cumulative_mean(means, None if state is None else state.head)
        logits: Tensor = self.classifier(averages if per_frame else averages[:, -1])
        return logits, StreamState(positions.counts()[:, -1], buffers, pools, head)

    def initial_state(self, batch: int, height: int, width: int) -> StreamState:
        """The state before the first frame of ``batch`` videos of this size, all zeros.

        Passing it is equivalent to None; exporters, compilers and batching need the same inputs at
        every call, so its tensors have the dtypes, the device and the memory format of those that
        ``stream`` returns. The network is not run.

        Raises UsageError for a base variant, no videos or an empty size.
        """
        self._require_stream()
        if batch < 1 or height < 1 or width < 1:
            raise UsageError(
                f"A state is for at least one video of at least 1 x 1; got {batch} of "
                f"{height} x {width}."
            )
        return self.state_spec.zeros(batch, height, width, self.dtype, self.device)

    def check_state(self, state: StreamState, batch: int, height: int, width: int) -> None:
        """Raise StateError unless this network can resume from ``state`` with ``batch`` videos."""
        self.state_spec.check(state, batch, height, width, self.variant.name)

    def _require_stream(self) -> None:
        if not self.settings.causal:
            raise UsageError(
                f"{self.variant.name} reads whole clips and cannot stream; "
                f"use model(clip), or the variant {self.variant.arch}-stream."
            )

    def _to_frames(self, clip: Tensor, seen: Tensor | None) -> tuple[Tensor, FramePositions]:
        """(B, 3, T, H, W) -> (B * T, 3, H, W), and the frames' positions in their videos."""
        x = _folded(clip, self.dtype)
        self._range_check(clip)
        batch, _, frames, _, _ = clip.shape
        if self.settings.causal and seen is None:
            seen = clip.new_zeros(batch, dtype=torch.long)
        return x, FramePositions(batch, frames, seen)

    def _spatial_means(self, x: Tensor, positions: FramePositions) -> Tensor:
        """The head's features, averaged over each frame: (B, T, C)."""
        means: Tensor = self.head(x).mean(dim=(2, 3))
        return means.reshape(positions.batch, positions.frames, -1)


@torch.fx.wrap  # one node for torch.fx, which cannot follow checks of shapes
def _folded(clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Check a clip, and fold its time into the batch: (B, 3, T, H, W) -> (B * T, 3, H, W)."""
    if clip.dim() != 5 or clip.shape[1] != CHANNELS or 0 in clip.shape:
        raise UsageError(
            f"A clip is (B, {CHANNELS}, T, H, W) with no empty axis; got shape "
            f"{tuple(clip.shape)}{order_advice(tuple(clip.shape))}."
        )
    require_float(clip)
    return clip.transpose(1, 2).flatten(0, 1).to(dtype)


def _check_options(
    variant: Variant,
    settings: Settings,
    num_classes: int,
    dropout: float | None,
    stochastic_depth: float,
) -> None:
    if settings.causal != variant.causal:
        raise UsageError(
            f"{variant.name} is a {variant.mode} variant, and the settings are of a "
            f"{'stream' if settings.causal else 'base'} one; leave them out, or change the variant."
        )
    for what, value, known in (
        ("activation", settings.activation, ACTIVATIONS),
        ("head activation", settings.head_activation, ACTIVATIONS),
        ("gating", settings.gating, GATES),
    ):
        if value not in known:
            raise UsageError(f"There is no {what} {value!r}; choose one of {', '.join(known)}.")
    check_num_classes(num_classes)
    for what, rate in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
        if rate is not None and not 0 <= rate < 1:
            raise UsageError(f"{what} is a probability in [0, 1); got {rate!r}.")
