"""Seeded checkpoints that behave like trained ones, for every variant, without a download.

Kernels, scales and norms are drawn by variable name; the moving statistics of the norms and the
classifier's biases are then measured on a few random images that run through the network. Without
that, a random deep network gives every clip the same logits.

The bytes are the same on every machine: only the raw bits of PCG64 and correctly rounded operations
(+, -, *, /, sqrt) in a fixed order are used, neither TensorFlow's generators nor BLAS.
"""

from __future__ import annotations

import hashlib
import math
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from movinet_convert.parity.moving_statistics import measure_statistics
from movinet_convert.parity.reference import shared_reference
from movinet_convert.variants import KINETICS_600_CLASSES, Variant

REZERO = (1.6, 2.5)  # as in a trained A0 stream
ENCODING_REZERO = (0.1, 0.3)  # beside pooled activations of about 0.3
GAMMA = (0.7, 1.3)
# A moving mean in measured standard deviations from the measured mean.
STDS = {"beta": 0.3, "bias": 0.3, "moving_mean": 0.2}
MOVING_VARIANCE = (2.5, 5.0)  # of the measured variance, so that other clips do not saturate

# Activations of a deep random network grow without bound if its blocks add much to the residual
# stream, so they add little: with ReZero, less than a tenth of a skip projection's output.
PROJECTION_GAMMA = (0.04, 0.1)
PROJECTION_BETA_STD = 0.1
SKIP_VARIANCE = (0.8, 1.2)

# Standard deviation of a kernel's values times the square root of its inputs. A norm undoes the
# scale of the kernel before it; the others are chosen so that gates vary and logits have a standard
# deviation of 2 to 6.
KERNEL_GAIN = {"_se_reduce": 2.0, "_se_expand": 3.0, "_head": 2.0, "_classifier": 12.0}
# All other taps of a depthwise kernel together, beside the tap of one at the pixel itself: so
# neither the padding of small frames nor the empty past of a video's start weighs much.
NEIGHBOURS_GAIN = 0.3
PAST_GAIN = 0.15

IMAGES = 12
IMAGE_SIZE = 80


def write_synthetic_archive(variant: Variant, folder: Path, *, seed: int = 0) -> Path:
    """Write a seeded checkpoint as released; returns e.g. ``folder/movinet_a0_stream.tar.gz``.

    The official TensorFlow model saves it, with ``tf.train.Checkpoint(model=model)``. Like the
    released ones, the archive is an uncompressed tar in spite of its name. Raises MissingExtraError
    without TensorFlow.
    """
    reference = shared_reference(variant, variant.settings(), KINETICS_600_CLASSES)
    reference.load(synthetic_variables(variant, reference.shapes, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / variant.archive_name
    with (
        tempfile.TemporaryDirectory() as scratch,
        tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        checkpoint = Path(scratch) / variant.release_folder
        checkpoint.mkdir()
        reference.save(checkpoint)
        for path in (checkpoint, *sorted(checkpoint.iterdir())):
            name = path.relative_to(scratch).as_posix()
            tar.add(path, name, recursive=False, filter=_with_fixed_metadata)
    return archive


def _with_fixed_metadata(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Times, owners and modes would make the archives of equal checkpoints differ."""
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.isdir() else 0o644
    return info


def synthetic_variables(
    variant: Variant, shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return a float32 array of each shape, by canonical TF path."""
    drawn = {name: _draw(name, shape, seed) for name, shape in shapes.items()}
    return measure_statistics(variant, drawn, _images(seed))


def _images(seed: int) -> NDArray[np.float64]:
    """Images (N, H, W, 3) in [0, 1]: a colour, large patches and small ones, in full contrast."""
    layers = [
        _Random(f"images/{cells}", (IMAGES, cells, cells, 3), seed)
        .uniform(0.0, 1.0)
        .repeat(IMAGE_SIZE // cells, axis=1)
        .repeat(IMAGE_SIZE // cells, axis=2)
        for cells in (1, 4, 16)
    ]
    return np.clip(layers[0] + layers[1] + layers[2] - 1.0, 0.0, 1.0)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """The values of one variable; moving statistics relative to what will be measured."""
    random = _Random(name, shape, seed)
    owner, kind = name.rsplit("/", 1)
    ends_block = owner.split("/")[1] == "_projection"
    if kind in ("kernel", "depthwise_kernel"):
        values = _kernel(random, owner, shape)
    elif kind == "gamma":
        values = random.uniform(*(PROJECTION_GAMMA if ends_block else GAMMA))
    elif kind == "moving_variance":
        values = random.uniform(*(SKIP_VARIANCE if "/_skip/" in owner else MOVING_VARIANCE))
    elif kind in STDS:
        values = random.normal(PROJECTION_BETA_STD if kind == "beta" and ends_block else STDS[kind])
    else:
        encodes = owner.endswith("_pos_encoding/_rezero")
        values = random.signed(*(ENCODING_REZERO if encodes else REZERO))
    return values.astype(np.float32)


def _kernel(random: _Random, owner: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if owner.split("/")[1] != "_feature":
        gain = next((g for layer, g in KERNEL_GAIN.items() if f"/{layer}/" in owner), 1.0)
        return random.normal(gain / math.sqrt(math.prod(shape[:-1])))
    # Depthwise, (..., C, 1) or (..., 1, C): near one at the pixel itself, small around it.
    taps = shape[:-2]
    own, gain = tuple(size // 2 for size in taps), NEIGHBOURS_GAIN
    if "_conv_temporal" in owner:  # causal: the current frame comes last
        own, gain = (taps[0] - 1, 0), PAST_GAIN
    kernel = random.normal(gain / math.sqrt(math.prod(taps) - 1))
    kernel[own] += 1.0
    return kernel


class _Random:
    """Random arrays of one shape, from a generator seeded by a variable's name."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest, "big"))
        self._shape = shape

    def uniform(self, low: float, high: float) -> NDArray[np.float64]:
        return low + (high - low) * self._unit()

    def signed(self, low: float, high: float) -> NDArray[np.float64]:
        sign = np.where(self._unit() < 0.5, -1.0, 1.0).astype(np.float64)
        return sign * self.uniform(low, high)

    def normal(self, std: float) -> NDArray[np.float64]:
        """A sum of four uniforms: close enough to normal, without libm's logarithm."""
        total = self._unit() + self._unit() + self._unit() + self._unit()
        return (total - 2.0) * (std * math.sqrt(3.0))

    def _unit(self) -> NDArray[np.float64]:
        raw = np.asarray(self._bits.random_raw(math.prod(self._shape)), np.uint64)
        return (raw >> np.uint64(11)).astype(np.float64).reshape(self._shape) * 2.0**-53
