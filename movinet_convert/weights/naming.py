"""The names of weights in a store: variants, names that users chose, and versions (``NAME@N``).

Shells complete them, so this imports nothing that takes long.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from movinet_convert.errors import UsageError
from movinet_convert.variants import ARCHS, VARIANTS, meant_variants

# Names become file names; on some systems these are the same in upper and lower case.
OWN_NAME = "^[a-z0-9][a-z0-9_-]{0,63}$"
WEIGHTS_DIR_VARIABLE = "MOVINET_WEIGHTS_DIR"
SUFFIX = ".safetensors"
_FILE = re.compile(rf"movinet-(?P<name>.+)-v(?P<version>[1-9][0-9]*){re.escape(SUFFIX)}")
_STORED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_-]*)(@(?P<version>[^@./\\]*))?")


def check_own_name(name: str) -> None:
    """Raise UsageError unless weights can be stored under this name, beside the variants."""
    if not re.match(OWN_NAME, name) or name.endswith("\n"):
        raise UsageError(
            f"{name!r} cannot name weights in a store; use up to 64 lower-case letters, digits, "
            "'-' and '_', such as cattle-2026."
        )
    letters = re.sub("[^a-z0-9]|v[0-9]+$", "", name).removeprefix("movinet")
    if letters in ARCHS or letters in {variant.replace("-", "") for variant in VARIANTS}:
        meant = " or ".join(meant_variants(name))
        raise UsageError(f"{name!r} would be taken for {meant}; give your weights another name.")


def split_version(written: str, version: int | None = None) -> tuple[str, int | None] | None:
    """Name and version of ``NAME`` or ``NAME@N``; None for what can only be a path.

    What exists as ``NAME@TEXT``, such as a folder of checkpoints, is a path too. Raises UsageError
    for another version that is not a number from 1, or is not ``version``, if given.
    """
    match = _STORED.fullmatch(written)
    if match is None:
        return None
    name, number = match["name"], match["version"]
    if number is None:
        return name, version
    if not re.fullmatch("[1-9][0-9]{0,8}", number):
        if os.path.lexists(written):
            return None
        raise UsageError(
            f"{written!r} has the version {number!r}; a version is a number from 1, as in {name}@1."
        )
    if version not in (None, int(number)):
        raise UsageError(f"{written} and version {version} contradict each other; give one.")
    return name, int(number)


def unknown_name(written: str, own_names: Iterable[str]) -> UsageError:
    """The error for a name that is neither of a variant nor in the store."""
    own = list(own_names)
    meant = [*meant_variants(written), *difflib.get_close_matches(written, own, n=2)]
    hint = f" (did you mean {' or '.join(dict.fromkeys(meant))}?)" if meant else ""
    known = ", ".join([*VARIANTS, *own])
    return UsageError(f"There is no MoViNet variant {written!r}{hint}; choose one of {known}.")


def store_folder(weights_dir: str | os.PathLike[str] | None = None) -> Path:
    """The given folder, or $MOVINET_WEIGHTS_DIR, or the per-user data folder.

    Raises UsageError for a file, and for a name that safetensors cannot open.
    """
    chosen = weights_dir or os.environ.get(WEIGHTS_DIR_VARIABLE)
    folder = Path(chosen) if chosen else platformdirs.user_data_path("movinet-convert")
    if folder.is_file():
        raise UsageError(f"{folder} is a file; the store is a folder: name another.")
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        # safetensors cannot open such a path: fail before a conversion, not after it.
        raise UsageError(
            f"The name of the folder {str(folder)!a} is not valid UTF-8; use another store."
        ) from None
    return folder


def file_name(name: str, version: int) -> str:
    return f"movinet-{name}-v{version}{SUFFIX}"


def stored_names(folder: Path) -> list[str]:
    """The names in a store, and ``NAME@N`` where one has several versions, by its file names."""
    versions: dict[str, list[int]] = {}
    for path in sorted(folder.glob(f"movinet-*{SUFFIX}")):
        if match := _FILE.fullmatch(path.name):
            versions.setdefault(match["name"], []).append(int(match["version"]))
    several = {name: sorted(known) for name, known in versions.items() if len(known) > 1}
    return [*versions, *(f"{name}@{number}" for name in several for number in several[name])]
