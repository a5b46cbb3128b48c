"""Find the tensor bundle that a user's path refers to, detected from the content."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from movinet_convert.checkpoint.archive import open_archive
from movinet_convert.checkpoint.random_access import ByteRange, FileTree, Folder, is_there
from movinet_convert.checkpoint.sstable import has_table_magic
from movinet_convert.errors import CheckpointError

_STATE_FILE = "checkpoint"
_MAX_STATE_BYTES = 1 << 20  # of a longer file only the start, with the path, is read
_DATA_FILE = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}")
_STATE_LINE = re.compile(
    r'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"(?P<path>(?:[^"\\\n]|\\.){0,4096})"', re.M
)
_ACCEPTED = (
    "expected a checkpoint or SavedModel folder, a prefix (such as ckpt-1 for ckpt-1.index and its "
    "data files), a tar of one, a Keras .h5 file, a PyTorch state dict or a TFLite file"
)


def find_bundle(path: Path) -> tuple[FileTree, str]:
    """The files and the prefix that ``path`` refers to; CheckpointError if there are none."""
    if os.path.isdir(path):  # noqa: PTH112  Path's method may raise
        folder = Folder(path)
        return folder, _prefix_in(folder)
    if is_there(path):
        return _from_file(path)
    if path.name and is_there(path.with_name(f"{path.name}.index")):
        return Folder(path.parent), path.name
    if os.path.isdir(path.parent):  # noqa: PTH112
        for file in path.parent.glob("*"):
            match = _DATA_FILE.fullmatch(file.name)
            if match and match["prefix"] == path.name:
                raise CheckpointError(
                    f"{path}.index is missing from the checkpoint; copy or download it to the "
                    "same folder."
                )
    raise CheckpointError(f"{path} does not exist, nor does {path}.index; {_ACCEPTED}.")


def _from_file(path: Path) -> tuple[FileTree, str]:
    content = ByteRange.of_path(path)
    if has_table_magic(content) and path.name.endswith(".index"):
        return Folder(path.parent), path.name.removesuffix(".index")
    match = _DATA_FILE.fullmatch(path.name)
    if match and is_there(path.with_name(f"{match['prefix']}.index")):
        return Folder(path.parent), match["prefix"]
    archive = open_archive(path)
    if archive is not None:
        return archive, _prefix_in(archive)
    raise CheckpointError(
        f"{path} is not a checkpoint in any known layout: {_looks_like(content)}; {_ACCEPTED}."
    )


def _looks_like(content: ByteRange) -> str:
    if content.size == 0:
        return "it is empty"
    try:
        text = content.read(0, min(content.size, 1024)).tobytes().decode()
    except UnicodeDecodeError:
        return "its content is not recognised"
    return "it is a text file" if text.isprintable() or "\n" in text else "it is not recognised"


def _prefix_in(files: FileTree) -> str:
    """The prefix of the checkpoint among ``files``.

    A ``checkpoint`` state file takes precedence, as in TensorFlow; without one there must be
    exactly one index.
    """
    names = files.names()
    if not names:
        raise CheckpointError(f"{files.where} is empty; {_ACCEPTED}.")
    if _STATE_FILE in names:
        return _prefix_of_state(files)
    for folder in ("", "variables"):
        prefixes = [
            name.removesuffix(".index")
            for name in names
            if name.endswith(".index") and name.rpartition("/")[0] == folder
        ]
        if len(prefixes) == 1:
            return prefixes[0]
        if prefixes:
            raise CheckpointError(
                f"{files.where} contains several checkpoints ({', '.join(prefixes)}) and no "
                "'checkpoint' file that selects one; give the prefix of the one you want."
            )
    raise CheckpointError(f"{files.where} contains no checkpoint (no *.index file); {_ACCEPTED}.")


def _prefix_of_state(files: FileTree) -> str:
    """The prefix in the state file, relative to ``files``; a path outside of it is refused."""
    state = files.open(_STATE_FILE)
    text = state.read(0, min(state.size, _MAX_STATE_BYTES)).tobytes().decode(errors="replace")
    match = _STATE_LINE.search(text)
    if match is None:
        raise CheckpointError(
            f"{state.name} has no model_checkpoint_path; it is not the state file of a TensorFlow "
            "checkpoint: give the checkpoint's prefix instead."
        )
    prefix = _unescape(match["path"])
    path = PurePosixPath(prefix.replace("\\", "/"))
    if path.is_absolute() and isinstance(files, Folder):
        root = PurePosixPath(files.path.absolute().as_posix())
        if path.is_relative_to(root):
            path = path.relative_to(root)
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise CheckpointError(
            f"{state.name} refers to {prefix!r}, which is not inside {files.where}; give the "
            "prefix of the checkpoint itself."
        )
    return str(path)


def _unescape(text: str) -> str:
    """Decode a string literal of protobuf's text format: UTF-8 bytes above 127 are octal."""

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 0xFF]) if code.isdigit() else code

    return re.sub(rb"\\([0-7]{1,3}|.)", byte, text.encode()).decode(errors="replace")
