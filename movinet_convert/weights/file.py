"""A converted file: safetensors whose header describes the network.

The description is one JSON object with sorted keys under one metadata key, because safetensors
writes several keys in no fixed order and equal weights must give equal bytes. It includes a digest
of everything that determines the outputs: the other fields, and every tensor as stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.model import MoViNet
from movinet_convert.model.settings import check_settings, get_variant
from movinet_convert.variants import Origins, Settings

SUFFIX = ".safetensors"
METADATA_KEY = "movinet_convert"
FORMAT_VERSION: Literal[2] = 2  # files of format 1, without digest, can still be read
# The longest header of the family, of a5-stream, is 0.2 MB; long class names may add to it.
MAX_HEADER_BYTES = 8 << 20

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# The origin of the weights: a Google release with a pinned digest, one without, random seeded
# weights, or a user's checkpoint.
SourceKind = Literal["release", "unpinned", "synthetic", "checkpoint"]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
ClassCount = Annotated[int, pydantic.Field(gt=0, le=1_000_000)]


class Header(pydantic.BaseModel):
    """The description of a file.

    ``source_digest`` is the sha256 of the converted TensorFlow variables, the same for every
    checkpoint layout; None for weights trained in PyTorch. ``source`` is the kind of weights,
    ``origins`` the source of each setting that no checkpoint determines. ``digest`` is None in
    files of format 1 and before a file is written.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2] = FORMAT_VERSION
    variant: str
    settings: Settings
    num_classes: ClassCount
    source: SourceKind | None = None
    origins: Origins | None = None
    source_digest: Sha256 | None = None
    labels: tuple[str, ...] | None = None
    digest: Sha256 | None = None

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Header:
        check_settings(get_variant(self.variant), self.settings)
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        if self.format_version == 1 and (self.source or self.origins or self.digest):
            raise ValueError("format 1 has no source, origins or digest")
        return self

    @classmethod
    def of_model(cls, model: MoViNet, labels: tuple[str, ...] | None = None) -> Header:
        """The description of a network; its own labels unless others are given."""
        return cls(
            variant=model.variant.name,
            settings=model.settings,
            num_classes=model.num_classes,
            origins=model.origins,
            labels=model.labels if labels is None else labels,
        )

    def to_json(self, *, digest: str | None) -> str:
        fields = self.model_copy(update={"digest": digest}).model_dump_json(exclude_none=True)
        return json.dumps(
            json.loads(fields), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a file in place, with the digest of its content in its header.

    The write is not atomic: the caller ensures that nobody reads an incomplete file.
    """
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    text = header.to_json(digest=content_digest(header, ordered))
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file(ordered, path, metadata={METADATA_KEY: text})
    path.chmod(mode)  # safetensors leaves a file that other users cannot read


def content_digest(header: Header, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the header without its digest, and of tensor names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(header.to_json(digest=None).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """sha256 of names, shapes and float32 values; the same for a checkpoint in any layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def read_header(path: Path) -> Header:
    """The description of a file; WeightsError if it is damaged or has none."""
    with _readable(path):
        with open_regular(path, WeightsError) as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:  # safetensors would allocate all of it
            raise ValueError(f"its header claims {length:,} bytes, over {MAX_HEADER_BYTES:,}")
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{path} does not describe a MoViNet (no {METADATA_KEY!r} in its header); pass a file "
            "written by movinet-convert."
        )
    try:
        header = Header.model_validate_json(metadata[METADATA_KEY])
        if header.format_version > 1 and header.digest is None:
            raise ValueError("its digest is missing")
    except ValueError as error:
        raise WeightsError(
            f"{path} has a header that this version does not understand ({first_error(error)}); "
            "convert again, or use the version that wrote it."
        ) from None
    return header


def read_tensors(path: Path, *, mmap: bool = True) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped: pages are read when a weight is first used.

    If the file is truncated while it is mapped, reading a missing page kills the process (SIGBUS).
    ``mmap=False`` reads the file into memory instead.
    """
    with _readable(path):
        if mmap:
            return dict(safetensors.torch.load_file(path))
        with open_regular(path, WeightsError) as file:
            return dict(safetensors.torch.load(file.read()))


def check_content(path: Path) -> None:
    """Compare a file with the digest in its header; WeightsError if it differs.

    In a file of format 1 only float32 tensors can be compared.
    """
    header, tensors = read_header(path), read_tensors(path)
    if header.digest is not None:
        found, expected = content_digest(header, tensors), header.digest
    elif header.source_digest and {t.dtype for t in tensors.values()} == {torch.float32}:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        found, expected = tensors_digest(arrays), header.source_digest
    else:
        return
    if found != expected:
        raise WeightsError(
            f"The content of {path} has digest {found}, but its header records {expected}; the "
            "file is damaged or was edited: convert the checkpoint again."
        )


def first_error(error: ValueError) -> str:
    """The first error of a pydantic validation and its location, on one line."""
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    # Keys and messages may quote the input, at any length.
    location = ".".join(str(key)[:60] for key in first["loc"])
    return f"{location}: {first['msg'][:300]}" if location else first["msg"][:300]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise WeightsError(f"There is no file {path}.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); convert the checkpoint again."
        ) from None
