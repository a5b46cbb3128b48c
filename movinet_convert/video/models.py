"""What predictions need of a network, in whatever runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from movinet_convert.model.state import StreamState
from movinet_convert.variants import Settings, Variant


class Model(Protocol):
    """What is needed of a network: a ``MoViNet``, or one in another runtime."""

    @property
    def variant(self) -> Variant: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def labels(self) -> tuple[str, ...] | None: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, clip: Tensor, /) -> Tensor: ...

    def stream(
        self, frames: Tensor, state: StreamState | None = None, *, per_frame: bool = False
    ) -> tuple[Tensor, StreamState]: ...


class ExportedFile(Model, Protocol):
    """A network in a file for another runtime, which takes frames of one size."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def shortest(self) -> int: ...

    @property
    def call_frames(self) -> int: ...

    @property
    def files(self) -> tuple[Path, ...]: ...
