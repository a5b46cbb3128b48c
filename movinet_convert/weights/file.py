"""A converted file: safetensors whose header says which network the tensors are for.

The whole description is one JSON object with sorted keys under one metadata key, because
safetensors writes several keys in no fixed order and equal weights must give equal bytes. It ends
in a digest of everything that decides what the network computes and shows: every other field of
the description, and every tensor as it is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import WeightsError
from movinet_convert.files.atomic import open_regular
from movinet_convert.model import MoViNet
from movinet_convert.model.settings import check_settings, get_variant
from movinet_convert.variants import Origins, Settings, Variant

# Files of format 1 have no digest in their header, and are read all the same.
FORMAT_VERSION: Literal[2] = 2
METADATA_KEY = "movinet_convert"
MAX_CLASSES = 1_000_000
# The longest header of the family, a5-stream's, has 0.2 MB; long class names may add to it.
MAX_HEADER_BYTES = 8 << 20
SHA256_PATTERN = "^[0-9a-f]{64}$"
Dtype = Literal["float32", "float16", "bfloat16"]
# What weights were made from: a release of Google's by its digest, one that nobody has pinned yet,
# random seeded weights, or a checkpoint that somebody named.
SourceKind = Literal["release", "unpinned", "synthetic", "checkpoint"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class Header(pydantic.BaseModel):
    """What a file says of itself.

    ``source_digest`` is the sha256 of the TensorFlow variables that the tensors were made from,
    the same for every layout they were stored in; None for weights that were trained here.
    ``source`` says what kind of weights those were, ``origins`` where each setting comes from that
    no checkpoint tells. ``digest`` is None in files of format 1 and before a file is written.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2] = FORMAT_VERSION
    variant: str
    settings: Settings
    num_classes: int = pydantic.Field(gt=0, le=MAX_CLASSES)
    source: SourceKind | None = None
    origins: Origins | None = None
    source_digest: str | None = pydantic.Field(default=None, pattern=SHA256_PATTERN)
    labels: tuple[str, ...] | None = None
    digest: str | None = pydantic.Field(default=None, pattern=SHA256_PATTERN)

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Header:
        check_settings(get_variant(self.variant), self.settings)
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        newer = {"source": self.source, "origins": self.origins, "digest": self.digest}
        unknown = [name for name, value in newer.items() if value is not None]
        if self.format_version == 1 and unknown:
            raise ValueError(f"format 1 has no {unknown[0]}")
        return self

    def to_variant(self) -> Variant:
        return get_variant(self.variant)

    @staticmethod
    def of_model(
        model: MoViNet, source_digest: str | None = None, labels: tuple[str, ...] | None = None
    ) -> Header:
        return Header(
            variant=model.variant.name,
            settings=model.settings,
            num_classes=model.num_classes,
            origins=model.origins,
            source_digest=source_digest,
            labels=labels,
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a file in place, with the digest of what is written in its header.

    Whoever calls sees to it that nobody reads it half-written.
    """
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    signed = header.model_copy(update={"digest": content_digest(header, ordered)})
    text = _sorted_json(signed.model_dump_json(exclude_none=True))
    safetensors.torch.save_file(ordered, path, metadata={METADATA_KEY: text})


def content_digest(header: Header, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of a description without its digest, and of names, types, shapes and stored bytes."""
    text = header.model_dump_json(exclude_none=True, exclude={"digest"})
    digest = hashlib.sha256(_sorted_json(text).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_header(path: Path) -> Header:
    """The description of a file; WeightsError if it is not one of ours or is damaged."""
    try:
        _check_header_length(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise WeightsError(f"There is no file {path}.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); convert the checkpoint again."
        ) from None
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{path} does not say which MoViNet it holds (no {METADATA_KEY!r} in its header); "
            "pass a file that movinet-convert wrote."
        )
    try:
        header = Header.model_validate_json(metadata[METADATA_KEY])
        if header.format_version > 1 and header.digest is None:
            raise ValueError("its digest is missing")
    except (pydantic.ValidationError, ValueError) as error:
        raise WeightsError(
            f"{path} describes itself in a way this version does not understand "
            f"({first_fault(error)}); convert again, or use the version that wrote it."
        ) from None
    return header


def read_tensors(path: Path, *, mmap: bool = True) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped: pages are read when a weight is first used.

    A process that uses a page of a mapped file which somebody has cut short since is killed by
    the system (SIGBUS). ``mmap=False`` reads the file into memory instead.
    """
    try:
        if mmap:
            return dict(safetensors.torch.load_file(path))
        with open_regular(path, WeightsError) as file:
            return dict(safetensors.torch.load(file.read()))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); convert the checkpoint again."
        ) from None


def check_content(path: Path) -> None:
    """Compare what is in a file with the digest in its own header; WeightsError if it differs.

    For files that no manifest lists. In a file of format 1 the tensors alone can be compared,
    and only if they are float32 as converted.
    """
    header = read_header(path)
    tensors = read_tensors(path)
    if header.digest is not None:
        found, expected = content_digest(header, tensors), header.digest
    elif header.source_digest is not None and _all_float32(tensors):
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        found, expected = tensors_digest(arrays), header.source_digest
    else:
        return
    if found != expected:
        raise WeightsError(
            f"The content of {path} has digest {found} where its header records {expected}; the "
            "file is damaged or was edited: convert the checkpoint again."
        )


def stored_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The type that the tensors of a file share, such as ``float16``; ``mixed`` if they do not."""
    found = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    return found.pop() if len(found) == 1 else "mixed"


def _all_float32(tensors: Mapping[str, Tensor]) -> bool:
    return all(tensor.dtype == torch.float32 for tensor in tensors.values())


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """sha256 of names, shapes and float32 values; one for the same weights in any layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def first_fault(error: Exception) -> str:
    """The first thing a pydantic error complains of, in one line."""
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    # Names and messages may quote what was read, at any length.
    place = ".".join(str(part)[:60] for part in fault["loc"])
    message = fault["msg"][:300]
    return f"{place}: {message}" if place else message


def _check_header_length(path: Path) -> None:
    """A header is read whole before anything in it can be judged, so first judge its length."""
    with open_regular(path, WeightsError) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length:,} bytes, at most {MAX_HEADER_BYTES:,} fit")


def _sorted_json(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
