"""A converted file: safetensors whose header says which network the tensors are for.

The whole description is one JSON object with sorted keys under one metadata key, because
safetensors writes several keys in no fixed order and equal weights must give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import pydantic
import safetensors
import safetensors.torch
import torch

from movinet_convert.errors import WeightsError
from movinet_convert.variants import Settings, Variant, get_variant

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from movinet_convert.model import MoViNet

FORMAT_VERSION = 1
METADATA_KEY = "movinet_convert"
HASH_CHUNK = 1 << 20
MAX_CLASSES = 1_000_000
# The longest header of the family, a5-stream's, has 0.2 MB; long class names may add to it.
MAX_HEADER_BYTES = 8 << 20
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class Header(pydantic.BaseModel):
    """What a file says of itself.

    ``source_digest`` is the sha256 of the TensorFlow variables that the tensors were made from,
    the same for every layout they were stored in; None for weights that were trained here.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    variant: str
    settings: Settings
    num_classes: int = pydantic.Field(gt=0, le=MAX_CLASSES)
    source_digest: str | None = pydantic.Field(default=None, pattern="^[0-9a-f]{64}$")
    labels: tuple[str, ...] | None = None

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Header:
        get_variant(self.variant)
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
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
            source_digest=source_digest,
            labels=labels,
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a file in place; whoever calls sees to it that nobody reads it half-written."""
    text = header.model_dump_json(exclude_none=True)
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    safetensors.torch.save_file(ordered, path, metadata={METADATA_KEY: _sorted_json(text)})


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
        return Header.model_validate_json(metadata[METADATA_KEY])
    except (pydantic.ValidationError, ValueError) as error:
        raise WeightsError(
            f"{path} describes itself in a way this version does not understand "
            f"({first_fault(error)}); convert again, or use the version that wrote it."
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped: pages are read when a weight is first used."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); convert the checkpoint again."
        ) from None


def check_content(path: Path) -> None:
    """Compare the tensors of a file with the digest that its own header records.

    For files that no manifest vouches for. Weights that were rounded or trained after their
    conversion have no such digest, and pass. Raises WeightsError.
    """
    header = read_header(path)
    tensors = read_tensors(path)
    if header.source_digest is None or any(t.dtype != torch.float32 for t in tensors.values()):
        return
    found = tensors_digest({name: tensor.numpy() for name, tensor in tensors.items()})
    if found != header.source_digest:
        raise WeightsError(
            f"The tensors in {path} have digest {found} where its header records "
            f"{header.source_digest}; the file is damaged: convert the checkpoint again."
        )


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """sha256 of names, shapes and float32 values; one for the same weights in any layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
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
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length:,} bytes, at most {MAX_HEADER_BYTES:,} fit")


def _sorted_json(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
