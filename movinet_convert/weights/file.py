"""A converted file: safetensors whose header describes the network.

The description is one JSON object with sorted keys under one metadata key, because safetensors
writes several keys in no fixed order and equal weights must give equal bytes. It includes a digest
of everything that determines the outputs: the other fields, and every tensor as stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import WeightsError
from movinet_convert.files.reading import open_regular
from movinet_convert.weights.header import Dtype, Header, first_error

METADATA_KEY = "movinet_convert"
# The longest header of the family, of a5-stream, is 0.2 MB; long class names may add to it.
MAX_HEADER_BYTES = 8 << 20

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


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
