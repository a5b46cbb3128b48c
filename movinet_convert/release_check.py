"""Whether what was received is a whole archive at all."""

from __future__ import annotations

import os
from pathlib import Path

from movinet_convert.checkpoint.archive import open_archive
from movinet_convert.errors import CheckpointError, DownloadError

END_OF_TAR = bytes(1024)  # two zero blocks (POSIX pax, "ustar Interchange Format")


def check_tar(path: Path, source: str) -> None:
    """Refuse an error page, a cut file or an unsafe archive; DownloadError."""
    try:
        archive = open_archive(path)
    except CheckpointError as error:
        raise DownloadError(f"{source} is not usable: {error}") from error
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(END_OF_TAR)))
        complete = file.read() == END_OF_TAR
    if archive is None or not archive.members or not complete:
        problem = "is not a tar archive" if archive is None else "is a tar archive that ends early"
        raise DownloadError(
            f"{source} {problem}; expected the released checkpoint: check the source root and "
            "that no proxy answers in its place, then try again."
        )
