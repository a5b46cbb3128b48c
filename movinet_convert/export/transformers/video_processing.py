"""``MoViNetVideoProcessor``: videos, or frames as they were decoded, as input of the model.

It needs neither torchvision nor torchcodec, unlike transformers' own: files are read as by
``evaluate``, and frames are prepared by ``ClipTransform``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from movinet_convert.errors import UsageError
from movinet_convert.model.transforms import CHANNELS, MAX_VALUE, ClipTransform
from movinet_convert.variants import Variant
from movinet_convert.video.decode import is_live
from movinet_convert.video.frames import (
    MAX_CLIP_FRAMES,
    Frame,
    Sampling,
    check_length,
    read_frames,
    read_middle,
    to_tensor,
)
from movinet_convert.weights.transformers_files import AUTO_MAP, CODE, CODE_NAME, processor_fields

# What other processors of transformers can be told, and this one always does.
FIXED = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / MAX_VALUE,
    "do_normalize": False,
    "return_metadata": False,
}


class MoViNetVideoProcessor(BaseVideoProcessor):  # type: ignore[misc]  # transformers is optional
    """Videos -> ``pixel_values_videos`` (B, T, 3, H, W), float32, RGB in [0, 1].

    ``size["shortest_edge"]`` is what the shorter side is scaled to, ``crop_size`` the height and
    width cut from its center, ``fps`` the rate at which frames are taken from files.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values_videos"]

    def __init__(
        self,
        size: Mapping[str, int],
        crop_size: Mapping[str, int],
        fps: float,
        **kwargs: Any,
    ) -> None:
        names = self.valid_kwargs.__annotations__
        _check_options({name: kwargs[name] for name in kwargs if name in names})
        Sampling(fps)  # raises UsageError for an impossible rate
        super().__init__(size=size, crop_size=crop_size, fps=fps, **kwargs)
        self.auto_map = AUTO_MAP

    @classmethod
    def of(cls, variant: Variant, size: tuple[int, int] | None = None) -> MoViNetVideoProcessor:
        """That of a variant's evaluation; another ``size`` shows as much of the frames."""
        return cls(**processor_fields(variant, size))

    @property
    def transform(self) -> ClipTransform:
        """Frames as they were decoded -> a clip, of this size."""
        crop = self.crop_size
        return ClipTransform(self.size["shortest_edge"], (crop["height"], crop["width"]))

    def preprocess(
        self,
        videos: Any,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        return_tensors: str | None = None,
        do_sample_frames: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a video, or a list of videos of as many frames.

        A video is the path of a file, a URL, or its frames: (T, H, W, 3) or (T, 3, H, W), uint8 or
        floats in [0, 1], or a list of (H, W, 3) ones. Of a file, ``fps`` frames per second
        are taken, by default ``self.fps``; frames are taken to have that rate, and always are
        sampled from a file, so that ``do_sample_frames`` has no effect. ``num_frames`` are those
        from the middle, as in the evaluation, the first ones of a URL; a shorter video is repeated.

        Raises UsageError for other videos and arguments, VideoError for files that cannot be read.
        """
        _check_options(kwargs)
        if num_frames is not None:
            check_length(num_frames)
        rate = self.fps if fps is None else fps
        clips = [self._clip(video, num_frames, rate) for video in _videos(videos)]
        lengths = sorted({len(clip) for clip in clips})
        if len(lengths) != 1:
            raise UsageError(
                f"The videos of a batch have {lengths} frames; pass num_frames, or videos of as "
                "many."
            )
        return BatchFeature({"pixel_values_videos": torch.stack(clips)}, tensor_type=return_tensors)

    def _clip(self, video: Any, length: int | None, fps: float) -> Tensor:
        """(T, 3, H, W)."""
        transform = self.transform
        if isinstance(video, str | os.PathLike):
            sampling = Sampling(fps, transform.resize, transform.size)
            clip = to_tensor(_read(video, sampling, length))
        else:
            clip = transform(_middle(_frames(video), length))
        return clip.transpose(0, 1)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """As of transformers, with the module that ``trust_remote_code=True`` imports."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / CODE_NAME).write_text(CODE, "utf-8")
        files: list[str] = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        return files

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoVideoProcessor") -> None:
        """Do nothing: transformers would copy the source of this class into saved folders."""


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option with which transformers' own processors do something else."""
    for name, value in options.items():
        if value is not None and value != FIXED.get(name):
            raise UsageError(
                f"{name}={value!r} is not for MoViNetVideoProcessor, which scales and crops frames "
                "as in the official evaluation, to [0, 1]; leave it out."
            )


def _videos(given: Any) -> Sequence[Any]:
    """The videos of an argument that may be one, or a batch or a list of several."""
    if isinstance(given, str | os.PathLike):
        return [given]
    if not isinstance(given, list | tuple):
        return list(given) if np.ndim(given) == 5 else [given]
    first: Any = given[0] if given else ()
    is_frame = not isinstance(first, str | os.PathLike | list | tuple) and np.ndim(first) == 3
    return [given] if is_frame else given


def _read(
    source: str | os.PathLike[str], sampling: Sampling, length: int | None
) -> Sequence[Frame]:
    """The frames in the middle of a file, or all, and the first ones of a source without an end."""
    if length is not None and not is_live(source):
        return read_middle(source, sampling, length)
    most = MAX_CLIP_FRAMES + 1 if length is None else length
    frames = list(islice(read_frames(source, sampling), most))
    check_length(len(frames))
    return frames


def _frames(video: Any) -> Tensor:
    """An array, a tensor or a list of images as (T, 3, H, W); UsageError if it is no video."""
    if isinstance(video, list | tuple):
        frames = torch.stack([torch.as_tensor(np.asarray(frame)) for frame in video])
    else:
        frames = torch.as_tensor(video)
    if frames.dim() == 4 and frames.shape[1] != CHANNELS:
        frames = frames.permute(0, 3, 1, 2)
    if frames.dim() != 4 or frames.shape[1] != CHANNELS or 0 in frames.shape:
        raise UsageError(
            f"A video is (T, H, W, {CHANNELS}) or (T, {CHANNELS}, H, W), or a path; got shape "
            f"{tuple(frames.shape)}."
        )
    return frames


def _middle(frames: Tensor, length: int | None) -> Tensor:
    """``length`` frames from the middle, or all; fewer are repeated."""
    if length is None:
        return frames
    start = max(0, (len(frames) - length) // 2)
    return frames[(start + torch.arange(length)) % len(frames)]
