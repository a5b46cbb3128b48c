"""PyTorch state dicts, opened without running anything that they contain.

``torch.load(weights_only=True)`` builds tensors and plain containers alone. Before it runs, the
zip around the pickle is checked: stored members only, no more bytes than the file has.
"""

from __future__ import annotations

import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.checkpoint.blob import Blob
from movinet_convert.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from movinet_convert.checkpoint.names import Array

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGICS = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # the format of torch before 1.6
_MAX_MEMBERS = 20_000


def has_torch_magic(blob: Blob) -> bool:
    """Whether the file may be one of ``torch.save``; only loading it can tell."""
    start = blob.read(0, min(2, blob.size)).tobytes()
    return _starts_as_zip(blob) or start in _PICKLE_MAGICS


def _starts_as_zip(blob: Blob) -> bool:
    """As ``torch.load`` decides it."""
    return blob.read(0, min(4, blob.size)).tobytes() == _ZIP_MAGIC


class TorchSource:
    """The tensors of a state dict by name."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        blob = Blob.of_path(path)
        size = blob.size
        if _starts_as_zip(blob):
            self._check_zip(path, size)
        self._tensors = self._load(path)
        for name, tensor in self._tensors.items():
            self._check_tensor(name, tensor, size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> Array:
        return np.array(self._tensors[name].detach().numpy())

    def _check_zip(self, path: Path, size: int) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._unreadable(error) from error
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > size:
            raise CheckpointError(
                f"{self.where} is refused: its zip members are compressed or claim more bytes than "
                "the file has; torch.save writes neither."
            )

    def _load(self, path: Path) -> dict[str, Any]:
        import torch

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch says of odd pickles, an error says too
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling damaged bytes raises nearly anything
            raise self._unreadable(error) from error
        if not isinstance(loaded, dict) or not loaded:
            raise self._not_a_state_dict()
        for name, tensor in loaded.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise self._not_a_state_dict()
        return loaded

    def _check_tensor(self, name: str, tensor: Any, size: int) -> None:
        import torch

        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{self.where}: tensor {name!r} is not a plain array of numbers.")
        if tensor.device.type != "cpu" or tensor.numel() * tensor.element_size() > size:
            raise CheckpointError(
                f"{self.where}: tensor {name!r} of shape {tuple(tensor.shape)} is larger than the "
                "file that holds it; it is refused."
            )

    def _not_a_state_dict(self) -> CheckpointError:
        return CheckpointError(
            f"{self.where} holds no state dict of tensors; expected what "
            "torch.save(model.state_dict(), …) writes."
        )

    def _unreadable(self, error: Exception) -> CheckpointError:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return CheckpointError(
            f"{self.where} cannot be loaded as a PyTorch state dict of tensors alone ({reason})."
        )
