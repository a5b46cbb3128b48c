"""The MoViNet family as data: architectures, variants, settings, published figures.

Pure data, no torch. Sources: block specs and squeeze-excitation widths from the official
``official/projects/movinet/modeling/movinet.py`` (tensorflow/models), which mirrors the tables of
the paper (https://arxiv.org/abs/2103.11511); accuracies, clips and frame rates from the official
README; dropout, resize and T0's accuracies from ``configs/yaml`` in the same folder.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

Mode = Literal["base", "stream"]
ConvType = Literal["3d", "2plus1d"]
SeType = Literal["3d", "2plus3d"]
Activation = Literal["swish", "hard_swish"]
Gating = Literal["sigmoid", "keras", "model-garden"]
Origin = Literal["release", "unpinned", "synthetic", "checkpoint", "user", "default"]
OfficialSource = Literal["model-garden", "kaggle"]
SourceName = Literal[OfficialSource, "mirror"]
Kernel = tuple[int, int, int]

KINETICS_600_CLASSES = 600
BATCH_NORM_EPSILON = 1e-3
STOCHASTIC_DEPTH_RATE = 0.2

# (frames, height, width); named as in the official code: K53 is 5 x 3 x 3.
K13: Kernel = (1, 3, 3)
K15: Kernel = (1, 5, 5)
K33: Kernel = (3, 3, 3)
K53: Kernel = (5, 3, 3)
STEM_KERNEL = K13


@dataclass(frozen=True)
class StageSpec:
    """Consecutive blocks of one output width; only the first block has a stride."""

    width: int
    stride: int
    layers: tuple[tuple[int, Kernel], ...]  # (expanded channels, kernel) of each block


@dataclass(frozen=True)
class BlockSpec:
    """One inverted bottleneck. ``name`` is the official endpoint name, ``blockI_layerJ``."""

    name: str
    inputs: int
    expanded: int
    outputs: int
    kernel: Kernel
    stride: int

    @property
    def has_skip_projection(self) -> bool:
        return self.stride > 1 or self.inputs != self.outputs


@dataclass(frozen=True)
class ArchSpec:
    """Channel widths of one architecture."""

    stem: int
    stages: tuple[StageSpec, ...]
    head: int
    classifier: int
    dropout: float

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """The blocks in order, each with its input width filled in."""
        blocks: list[BlockSpec] = []
        inputs = self.stem
        for i, stage in enumerate(self.stages):
            for j, (expanded, kernel) in enumerate(stage.layers):
                stride = stage.stride if j == 0 else 1
                blocks.append(
                    BlockSpec(f"block{i}_layer{j}", inputs, expanded, stage.width, kernel, stride)
                )
                inputs = stage.width
        return tuple(blocks)


@dataclass(frozen=True)
class Input:
    """The clip a variant was trained and evaluated on."""

    frames: int
    size: int  # height and width of the crop, pixels
    resize: int  # shorter side before the centre crop, pixels
    fps: float


@dataclass(frozen=True)
class Settings:
    """The settings of a network, apart from its widths.

    ``gating`` is the gate of the squeeze-excitation: ``sigmoid`` in base models; in stream models
    ``keras`` is clip(0.2 x + 0.5, 0, 1), ``model-garden`` is relu6(x + 3) * 0.16667. The two share
    the name ``hard_sigmoid`` in TensorFlow, and no checkpoint records which one was trained with.
    """

    causal: bool
    conv_type: ConvType
    se_type: SeType
    activation: Activation
    gating: Gating
    positional_encoding: bool
    head_activation: Activation = "swish"

    @property
    def legacy(self) -> bool:
        """Whether this is an older stream model with 3D convolutions."""
        return self.causal and self.conv_type == "3d"


@dataclass(frozen=True)
class Origins:
    """The origin of each setting that the variables of a checkpoint do not determine.

    ``release``: one of Google's releases, identified by its digest. ``unpinned``: downloaded from a
    release's URL, whose digest is not pinned yet. ``synthetic``: random seeded weights.
    ``checkpoint``: determined by the checkpoint. ``user``: chosen at conversion or construction.
    ``default``: the same in every such model of the official code; not chosen.
    """

    gating: Origin
    head_activation: Origin
    legacy: Origin


@dataclass(frozen=True)
class Accuracy:
    """Kinetics-600 single-clip accuracy in percent, as published by the authors."""

    top1: float
    top5: float | None = None


@dataclass(frozen=True)
class Variant:
    """An architecture and a mode: ``Variant("a0", "stream")`` is a0-stream."""

    arch: str
    mode: Mode

    @property
    def name(self) -> str:
        return f"{self.arch}-{self.mode}"

    @property
    def causal(self) -> bool:
        return self.mode == "stream"

    @property
    def spec(self) -> ArchSpec:
        return ARCHS[self.arch]

    @property
    def input(self) -> Input:
        return INPUTS[self.arch]

    @property
    def accuracy(self) -> Accuracy:
        return ACCURACIES[self.name]

    @property
    def released(self) -> bool:
        return self.arch in RELEASED_ARCHS

    @property
    def source_url(self) -> str | None:
        """Where Google published the checkpoint; None for an architecture without a release."""
        return f"{MODEL_GARDEN_ROOT}/{self.archive_name}" if self.released else None

    @property
    def kaggle_url(self) -> str | None:
        """Where the same weights are on Kaggle, as a SavedModel."""
        name = f"{self.name}-kinetics-600-classification/{self.kaggle_version}"
        return f"{KAGGLE_ROOT}/{name}/download" if self.released else None

    @property
    def kaggle_version(self) -> int:
        return KAGGLE_VERSIONS[self.mode]

    @property
    def legacy_url(self) -> str | None:
        """Where Google published the older weights with 3D convolutions, of stream models only."""
        return f"{MODEL_GARDEN_ROOT}/{self.legacy_archive_name}" if self.has_legacy else None

    @property
    def has_legacy(self) -> bool:
        return self.released and self.causal

    @property
    def archive_name(self) -> str:
        return f"{self.release_folder}.tar.gz"

    @property
    def legacy_archive_name(self) -> str:
        return f"{self.release_folder}_legacy.tar.gz"

    @property
    def release_folder(self) -> str:
        return f"movinet_{self.arch}_{self.mode}"

    def settings(self, gating: Gating | None = None) -> Settings:
        """The settings of the released models; ``gating`` replaces the stream models' default.

        Nothing is checked here: ``model.settings.released_settings`` does that.
        """
        if not self.causal:
            return Settings(False, "3d", "3d", "swish", "sigmoid", False)
        encodes = self.arch in POSITIONAL_ENCODING_ARCHS
        return Settings(True, "2plus1d", "2plus3d", "hard_swish", gating or "keras", encodes)


@dataclass(frozen=True)
class Release:
    """Size and digest of an archive, of the Model Garden's as a download on 2026-04-14 saw them."""

    bytes: int
    sha256: str


RELEASES: dict[str, Release] = {
    "a1-base": Release(
        18_995_200, "4c80bd477321d2483279358049191e151cb071a762efbe4efc9afa953e29920f"
    ),
    "a2-base": Release(
        21_258_240, "478f2ac53744ec81309c37c8ed9fae627dccb382bab181569d7943fe81ca775e"
    ),
    "a3-base": Release(
        29_941_760, "1cd1a8c00e9692a982619a12df68c1b30f95af970258b1c63f477f1dc1f02b0c"
    ),
    "a2-stream": Release(
        29_624_320, "611af11e3d32c254477206165b8fdd5735fd94bea23bb5362ca9906909b08449"
    ),
}


def is_published(sha256: str | None) -> bool:
    """Whether it is the digest of an archive in ``RELEASES``."""
    return sha256 in {release.sha256 for release in RELEASES.values()}


# sha256 of the tensors of a release (``weights.file.tensors_digest``), the same from either source.
# None is published; ``scripts/regenerate_weights.py --update`` writes those that it sees into the
# catalogue.
TENSOR_DIGESTS: dict[str, str] = {}

# The two official addresses of the weights: the TensorFlow Model Garden and Kaggle, where TF-Hub
# moved to in 2023. A version on Kaggle never changes.
MODEL_GARDEN_ROOT = "https://storage.googleapis.com/tf_model_garden/vision/movinet"
KAGGLE_ROOT = "https://www.kaggle.com/api/v1/models/google/movinet/tensorFlow2"
KAGGLE_VERSIONS: dict[Mode, int] = {"base": 3, "stream": 2}
RELEASED_ARCHS = ("a0", "a1", "a2", "a3", "a4", "a5")
POSITIONAL_ENCODING_ARCHS = ("a3", "a4", "a5")  # in stream models only

# One line a stage where it fits; the formatter would make it a line a number.
# fmt: off
ARCHS: dict[str, ArchSpec] = {
    "t0": ArchSpec(stem=8, head=240, classifier=1024, dropout=0.2, stages=(
        StageSpec(8, 2, ((16, K15),)),
        StageSpec(32, 2, ((72, K33), (72, K15))),
        StageSpec(56, 2, ((112, K53), (112, K15), (112, K33))),
        StageSpec(56, 1, ((184, K53), (184, K15), (184, K33), (184, K33))),
        StageSpec(104, 2, ((344, K53), (344, K15), (344, K15), (344, K33))),
    )),
    "a0": ArchSpec(stem=8, head=480, classifier=2048, dropout=0.2, stages=(
        StageSpec(8, 2, ((24, K15),)),
        StageSpec(32, 2, ((80, K33), (80, K33), (80, K33))),
        StageSpec(56, 2, ((184, K53), (112, K33), (184, K33))),
        StageSpec(56, 1, ((184, K53), (184, K33), (184, K33), (184, K33))),
        StageSpec(104, 2, ((384, K53), (280, K15), (280, K15), (344, K15))),
    )),
    "a1": ArchSpec(stem=16, head=600, classifier=2048, dropout=0.5, stages=(
        StageSpec(16, 2, ((40, K15), (40, K33))),
        StageSpec(40, 2, ((96, K33), (120, K33), (96, K33), (96, K33))),
        StageSpec(64, 2, ((216, K53), (128, K33), (216, K33), (168, K33), (216, K33))),
        StageSpec(64, 1, ((216, K53), (216, K33), (216, K33), (128, K33), (128, K15), (216, K33))),
        StageSpec(136, 2, (
            (456, K53), (360, K15), (360, K15), (360, K15), (456, K15), (456, K33), (544, K13),
        )),
    )),
    "a2": ArchSpec(stem=16, head=640, classifier=2048, dropout=0.5, stages=(
        StageSpec(16, 2, ((40, K15), (40, K33), (64, K33))),
        StageSpec(40, 2, ((96, K33), (120, K33), (96, K33), (96, K33), (120, K33))),
        StageSpec(72, 2, ((240, K53), (160, K33), (240, K33), (192, K33), (240, K33))),
        StageSpec(72, 1, ((240, K53), (240, K33), (240, K33), (240, K33), (144, K15), (240, K33))),
        StageSpec(144, 2, (
            (480, K53), (384, K15), (384, K15), (480, K15), (480, K15), (480, K33), (576, K13),
        )),
    )),
    "a3": ArchSpec(stem=16, head=744, classifier=2048, dropout=0.5, stages=(
        StageSpec(16, 2, ((40, K15), (40, K33), (64, K33), (40, K33))),
        StageSpec(48, 2, ((112, K33), (144, K33), (112, K33), (112, K15), (144, K33), (144, K33))),
        StageSpec(80, 2, ((240, K53), (152, K33), (240, K33), (192, K33), (240, K33))),
        StageSpec(88, 1, (
            (264, K53), (264, K33), (264, K33), (264, K33), (160, K15), (264, K33), (264, K33),
            (264, K33),
        )),
        StageSpec(168, 2, (
            (560, K53), (448, K15), (448, K15), (560, K15), (560, K15), (560, K33), (448, K15),
            (448, K15), (560, K33), (672, K13),
        )),
    )),
    "a4": ArchSpec(stem=24, head=856, classifier=2048, dropout=0.5, stages=(
        StageSpec(24, 2, ((64, K15), (64, K33), (96, K33), (64, K33), (96, K33), (64, K33))),
        StageSpec(56, 2, (
            (168, K33), (168, K33), (136, K33), (136, K33), (168, K33), (168, K33), (168, K33),
            (136, K15), (136, K33),
        )),
        StageSpec(96, 2, (
            (320, K53), (160, K33), (320, K33), (192, K33), (320, K33), (160, K33), (320, K33),
            (256, K33), (320, K33),
        )),
        StageSpec(96, 1, (
            (320, K53), (320, K33), (320, K33), (320, K33), (192, K15), (320, K33), (320, K33),
            (192, K33), (320, K33), (320, K33),
        )),
        StageSpec(192, 2, (
            (640, K53), (512, K15), (512, K15), (640, K15), (640, K15), (640, K33), (512, K15),
            (512, K15), (640, K15), (768, K15), (640, K15), (640, K33), (768, K33),
        )),
    )),
    "a5": ArchSpec(stem=24, head=992, classifier=2048, dropout=0.5, stages=(
        StageSpec(24, 2, ((64, K15), (64, K15), (96, K33), (64, K33), (96, K33), (64, K33))),
        StageSpec(64, 2, (
            (192, K53), (152, K33), (152, K33), (152, K33), (192, K33), (192, K33), (192, K33),
            (152, K33), (152, K33), (192, K33), (192, K33),
        )),
        StageSpec(112, 2, (
            (376, K53), (224, K33), (376, K33), (376, K33), (296, K33), (376, K33), (224, K33),
            (376, K33), (376, K33), (296, K33), (376, K33), (376, K33), (376, K33),
        )),
        StageSpec(120, 1, (
            (376, K53), (376, K33), (376, K33), (376, K33), (224, K15), (376, K33), (376, K33),
            (224, K33), (376, K33), (376, K33), (376, K33),
        )),
        StageSpec(224, 2, (
            (744, K53), (744, K33), (600, K15), (600, K15), (744, K15), (744, K15), (744, K33),
            (896, K15), (600, K15), (600, K15), (896, K15), (744, K15), (744, K33), (896, K15),
            (600, K15), (600, K15), (744, K15), (744, K33),
        )),
    )),
}
# fmt: on

INPUTS: dict[str, Input] = {
    "t0": Input(frames=25, size=160, resize=176, fps=2.5),
    "a0": Input(frames=50, size=172, resize=192, fps=5),
    "a1": Input(frames=50, size=172, resize=192, fps=5),
    "a2": Input(frames=50, size=224, resize=256, fps=5),
    "a3": Input(frames=120, size=256, resize=288, fps=12),
    "a4": Input(frames=80, size=290, resize=320, fps=8),
    "a5": Input(frames=120, size=320, resize=368, fps=12),
}

ACCURACIES: dict[str, Accuracy] = {
    "t0-base": Accuracy(68.40),
    "t0-stream": Accuracy(67.17),
    "a0-base": Accuracy(72.28, 90.92),
    "a0-stream": Accuracy(72.05, 90.63),
    "a1-base": Accuracy(76.69, 93.40),
    "a1-stream": Accuracy(76.45, 93.25),
    "a2-base": Accuracy(78.62, 94.17),
    "a2-stream": Accuracy(78.40, 94.05),
    "a3-base": Accuracy(81.79, 95.67),
    "a3-stream": Accuracy(80.09, 94.84),
    "a4-base": Accuracy(83.48, 96.16),
    "a4-stream": Accuracy(81.49, 95.66),
    "a5-base": Accuracy(84.27, 96.39),
    "a5-stream": Accuracy(82.37, 95.79),
}

VARIANTS: dict[str, Variant] = {
    f"{arch}-{mode}": Variant(arch, mode) for arch in ARCHS for mode in ("base", "stream")
}


def list_variants(*, released: bool = True) -> list[str]:
    """Names of the variants, base before stream; ``released=False`` adds T0."""
    return [v.name for v in VARIANTS.values() if v.released or not released]


def meant_variants(written: str) -> list[str]:
    """The variants that were probably meant by another spelling: ``A0_Stream``, ``a0``."""
    letters = re.sub("[^a-z0-9]", "", written.lower()).removeprefix("movinet")
    names = {name.replace("-", ""): name for name in VARIANTS if name[:2] == letters[:2]}
    if letters in ARCHS:
        return list(names.values())
    return [names[near] for near in difflib.get_close_matches(letters, names, n=1, cutoff=0.8)]


def squeeze_width(expanded: int, se_type: SeType) -> int:
    """Hidden channels of a squeeze-excitation: a quarter of its inputs, in multiples of 8.

    A value that rounding down would reduce by more than 10% is rounded up instead
    (``make_divisible`` in official/vision/modeling/layers/nn_layers.py).
    """
    wanted = 0.25 * expanded * (2 if se_type == "2plus3d" else 1)
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
