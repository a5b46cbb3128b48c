"""Open PyTorch state dicts without running any code that they contain.

``torch.load(weights_only=True)`` builds only tensors and plain containers. Before it runs, the zip
(uncompressed members only, no more bytes than the file has) and the opcodes of the pickle
(``pickle_check``) are checked.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from movinet_convert.checkpoint.pickle_check import UnsafePickleError, scan
from movinet_convert.checkpoint.random_access import ByteRange
from movinet_convert.checkpoint.tensor_source import Array
from movinet_convert.errors import CheckpointError
from movinet_convert.files.reading import open_regular

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGICS = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # the format of torch before 1.6
_OLD_FORMAT_PICKLES = 5  # magic number, version, system, the object, storage keys
_MAX_MEMBERS = 20_000
# Integers are counters; the mapping refuses them as weights.
_PLAIN = re.compile(r"b?float16|float(32|64)|bool|u?int(8|16|32|64)")
_NOT_IN_STATE_DICT = "stored outside the state dict"


def has_torch_magic(content: ByteRange) -> bool:
    """Whether the file may be from ``torch.save``; only loading it determines that."""
    return any(content.starts_with(magic) for magic in (_ZIP_MAGIC, *_PICKLE_MAGICS))


class TorchSource:
    """The tensors of a state dict by name; ``ignored`` maps other contents to the reason."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        content = ByteRange.of_path(path)
        try:
            with open_regular(path, CheckpointError) as file:
                (self._scan_zip if content.starts_with(_ZIP_MAGIC) else self._scan_old_format)(
                    file, content.size
                )
                file.seek(0)
                loaded = self._load(file)
        except OSError as error:
            raise self._unreadable(error) from error
        self._tensors, self.ignored = self._state_dict(loaded)
        self._check_tensors(content.size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> Array:
        """The tensor called ``name``, in its stored dtype (bfloat16 widened to float32)."""
        tensor = self._tensors[name].detach().resolve_neg()
        return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())

    def _scan_zip(self, file: BinaryIO, size: int) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._unreadable(error) from error
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > size:
            raise CheckpointError(
                f"{self.where} is refused: its zip members are compressed or larger than the file; "
                "torch.save writes neither."
            )
        file.seek(0)
        try:  # with the reader of torch.load, so that both see the same pickle
            content = torch._C.PyTorchFileReader(file).get_record("data.pkl")
            scan(io.BytesIO(content))
        except (RuntimeError, ValueError) as error:
            raise self._unreadable(error) from error

    def _scan_old_format(self, file: BinaryIO, size: int) -> None:
        try:
            for _ in range(_OLD_FORMAT_PICKLES):
                if file.tell() < size:
                    scan(file)
        except (ValueError, OverflowError) as error:
            raise self._unreadable(error) from error

    def _load(self, file: BinaryIO) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of unusual pickles before it raises
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling damaged bytes may raise any exception
            raise self._unreadable(error) from error

    def _state_dict(self, loaded: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """``loaded`` itself, or the only state dict in it."""
        if _is_state_dict(loaded):
            return loaded, {}
        members = loaded if isinstance(loaded, dict) else {}
        found = [name for name, member in members.items() if _is_state_dict(member)]
        if len(found) > 1:
            listed = ", ".join(repr(name)[:60] for name in found[:5]) + ", …" * (len(found) > 5)
            raise CheckpointError(
                f"{self.where} contains {len(found)} state dicts ({listed}); save only the "
                "one that you want with torch.save."
            )
        if not found:
            raise CheckpointError(
                f"{self.where} contains no state dict of tensors{_odd_member(members)}; expected "
                "the output of torch.save(model.state_dict(), …)."
            )
        others = {str(name)[:100]: _NOT_IN_STATE_DICT for name in members if name != found[0]}
        return members[found[0]], others

    def _check_tensors(self, size: int) -> None:
        """All must be plain arrays, together no larger than the file."""
        total = 0
        for name, tensor in self._tensors.items():
            problem = _problem(tensor)
            if problem:
                raise CheckpointError(
                    f"{self.where}: tensor {name[:200]!r} is {problem}; expected a plain array of "
                    "numbers in float32, float64, float16 or bfloat16."
                )
            total += tensor.numel() * tensor.element_size()
            if total > size:
                raise CheckpointError(
                    f"{self.where}: tensor {name[:200]!r} of shape {tuple(tensor.shape)[:8]} makes "
                    "the tensors larger than the file; it is refused."
                )

    def _unreadable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.where} cannot be loaded as a PyTorch state dict of tensors "
            f"({_reason(error)}); expected the output of torch.save(model.state_dict(), …)."
        )


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        and all(isinstance(tensor, torch.Tensor) for tensor in content.values())
    )


def _odd_member(members: dict[Any, Any]) -> str:
    """Why a dict is not a state dict, in brackets."""
    for name, member in members.items():
        if not isinstance(name, str) or not isinstance(member, torch.Tensor):
            kind = type(member).__name__
            return f" ({repr(name)[:60]} is {'an' if kind[:1] in 'aeiou' else 'a'} {kind})"
    return ""


def _problem(tensor: Tensor) -> str | None:
    """Why ``tensor`` is not a plain array in memory; None if it is one."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:  # nested tensors have no shape
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"quantized ({dtype})"
    if tensor.device.type != "cpu":
        return f"without values (device {tensor.device})"
    return None if _PLAIN.fullmatch(dtype) else f"stored as {dtype}"


def _reason(error: Exception) -> str:
    """The first line of a message, without torch's advice to trust the file."""
    if isinstance(error, UnsafePickleError):
        return str(error)
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    line = "".join(c for c in text.partition("\n")[0] if c.isprintable())
    return line[:200] or type(error).__name__
