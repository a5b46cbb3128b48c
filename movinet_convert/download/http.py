"""A resumable HTTP download that tolerates unreliable networks and misbehaving servers.

``urllib3.Retry`` knows which statuses to retry and parses ``Retry-After``, but does not retry once
the body has started. So the retry loop is here, and resumes an interrupted body. Ranges count
encoded bytes, so only a response without a content encoding can be resumed; none is requested, and
one that is sent anyway is decoded.

The cache folder may be shared, and its file names are predictable. So a partial file is always
created new (a link or pipe of that name is removed, not followed), and resumed only if it is a
regular file of this user without other hard links.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pydantic
import requests
import urllib3

from movinet_convert.download import checksums
from movinet_convert.download.account import KaggleAccount, NoAccount
from movinet_convert.download.failures import (
    DAMAGED,
    TransientError,
    failed,
    shown,
    status_problem,
)
from movinet_convert.download.request import Limits, get
from movinet_convert.errors import DownloadError
from movinet_convert.files.reading import open_regular
from movinet_convert.files.version import __version__

# An attempt that gets this much further than all before does not count: a connection that drops
# every few megabytes still delivers the file.
USEFUL_BYTES = 1 << 20
MAX_STATE_BYTES = 1 << 16  # more than twice urllib3's limit for a header
OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416
EXPIRED = (400, 403)  # answers of Google's and Amazon's storage to an expired signed address
# Statuses after which the same request may succeed (RFC 9110, RFC 6585, RFC 8470).
RETRY = urllib3.Retry(status_forcelist=(408, 425, 429, 500, 502, 503, 504))
NUMBER = re.compile("[0-9]{1,18}", re.ASCII)
CONTENT_RANGE = re.compile("bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)

Progress = Callable[[int, int | None], object]  # bytes so far; total bytes, if known
Notice = Callable[[str], object]  # a sentence: why an attempt failed, and that a retry follows


class ResumeState(pydantic.BaseModel):
    """Identifies the file, and its version, that a partial file belongs to; stored next to it.

    ``url`` is a digest, as a URL may contain a password. ``checksums`` are those that the server
    sent with the first part, ``bytes`` is the size on disk.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str
    validator: str
    total: int | None = pydantic.Field(ge=0)
    checksums: str = ""
    bytes: int = pydantic.Field(default=0, exclude=True)


@dataclass(frozen=True)
class PartialFile:
    """The partial file of ``url`` at ``path``, with its ``ResumeState`` next to it."""

    path: Path
    url: str = field(repr=False)

    @property
    def state_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def state(self) -> ResumeState:
        """The state that a range request can resume; ``bytes`` is 0 if there is none."""
        nothing = self._state("", None)
        try:
            with open_regular(self.state_path, DownloadError) as file:
                stored = ResumeState.model_validate_json(file.read(MAX_STATE_BYTES))
            found = self.path.lstat()
        except (OSError, ValueError, DownloadError):
            return nothing
        usable = stored.url == nothing.url and stored.validator and _is_own_file(found)
        return stored.model_copy(update={"bytes": found.st_size}) if usable else nothing

    def create(
        self, validator: str | None = None, total: int | None = None, checksums: str = ""
    ) -> BinaryIO:
        """Open a new, empty file, which can be resumed later if it has a ``validator``."""
        self.discard()
        file = create_file(self.path)
        if validator is not None:
            with create_file(self.state_path) as target:
                state = self._state(validator, total, checksums)
                target.write(state.model_dump_json().encode())
        return file

    def append(self) -> BinaryIO:
        """Open the file for appending."""
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0)), "ab")
        if not _is_own_file(os.fstat(file.fileno())):
            file.close()
            raise FileExistsError(0, "another program has replaced a partial download")
        return file

    def discard(self) -> None:
        self.state_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _state(self, validator: str, total: int | None, checksums: str = "") -> ResumeState:
        digest = hashlib.sha256(self.url.encode()).hexdigest()
        return ResumeState(url=digest, validator=validator, total=total, checksums=checksums)


@dataclass(frozen=True)
class Download:
    """A download of ``partial.url`` into ``partial``, of at most ``max_bytes``.

    Every attempt begins at ``partial.url``, so a redirect to a signed address is signed anew.
    ``auth`` is sent to the host of that URL alone.
    """

    partial: PartialFile
    max_bytes: int
    limits: Limits
    progress: Progress | None = None
    notice: Notice | None = None
    auth: NoAccount | None = None

    def run(self) -> None:
        """Complete the file; DownloadError once another attempt makes no sense."""
        url, limits, failures = self.partial.url, self.limits, 0
        ranged, expired = True, False
        farthest = self.partial.state().bytes
        seconds = limits.grace_seconds + self.max_bytes / limits.minimum_rate
        deadline = time.monotonic() + seconds
        for _ in range(limits.requests):
            started = time.monotonic()
            try:
                return self._attempt(deadline, ranged=ranged)
            except TransientError as failure:
                now = time.monotonic()
                if now >= deadline:
                    raise failed(url, f"it took more than {seconds:,.0f} s") from None
                reached = self.partial.state().bytes
                failures = 1 if reached >= farthest + USEFUL_BYTES else failures + 1
                farthest = max(farthest, reached)
                # A server that refuses a range may still send the whole file, so always request it;
                # but first, once, the range again with a new signature.
                ranged = not failure.range_refused or (failure.expired and not expired)
                expired = failure.expired
                allowed = limits.allowed(failure, now - started)
                if failures >= allowed and not failure.range_refused:
                    several = f", after {failures} attempts" if failures > 1 else ""
                    reason, no_network = f"{failure.reason}{several}", failure.no_network
                    raise failed(url, reason, failure.advice, no_network=no_network) from None
                backoff = limits.first_pause_seconds * 2.0 ** (failures - 1)
                pause = max(min(backoff, limits.longest_pause_seconds), failure.wait)
                if self.notice is not None:
                    again = f"trying again in {pause:.0f} s (attempt {failures + 1} of {allowed})"
                    self.notice(f"{shown(url)}: {failure.reason}; {again}.")
                time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        raise failed(url, f"it was interrupted again and again, in {limits.requests} requests")

    def _attempt(self, deadline: float, *, ranged: bool) -> None:
        """One request, for the missing bytes (``ranged``) or for the whole file."""
        url, state = self.partial.url, self.partial.state()
        headers = {"Accept-Encoding": "identity", "User-Agent": f"movinet-convert/{__version__}"}
        if ranged := ranged and state.bytes > 0:
            headers |= {"Range": f"bytes={state.bytes}-", "If-Range": state.validator}
        with closing(get(url, headers, self.limits, deadline, self.auth)) as items:
            response = next(items)
            file, total = self._open(response, state if ranged else None)
            with file:
                size = write_chunks(items, file, shown(url), self.max_bytes, total, self.progress)
        if total is not None and size != total:
            raise TransientError("the server sent a different number of bytes than announced")
        announced = checksums.announced(response.headers) or self.partial.state().checksums
        if not checksums.match(self.partial.path, announced):
            self.partial.discard()
            raise TransientError(DAMAGED)

    def _open(
        self, response: requests.Response, state: ResumeState | None
    ) -> tuple[BinaryIO, int | None]:
        """The file for the body and its expected size, if the response fits the request."""
        url, status, headers = self.partial.url, response.status_code, response.headers
        encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
        if status == OK:
            length = headers.get("Content-Length", "")
            total = int(length) if NUMBER.fullmatch(length) and not encoded else None
            validator = None if encoded else _validator(headers)
            return self.partial.create(validator, total, checksums.announced(headers)), total
        if status == PARTIAL_CONTENT and state:
            total = None if encoded else _total_if_continued(headers, state)
            if total is not None:
                return self.partial.append(), total
            self.partial.discard()
            problem = "the server answered with a different range or file than requested"
            raise TransientError(problem, range_refused=True)
        if status == RANGE_NOT_SATISFIABLE:
            self.partial.discard()
        reason, advice = status_problem(response)
        expired = bool(response.history) and status in EXPIRED
        if state or expired or status < 400 or RETRY.is_retry("GET", status):
            raise TransientError(
                reason,
                advice,
                wait=min(_retry_after(response), self.limits.longest_retry_after),
                attempts=3 if expired else None,
                range_refused=bool(state),
                expired=expired,
            )
        if isinstance(self.auth, KaggleAccount) and status in (401, 403) and not response.history:
            reason = f"the server refuses the account of {self.auth.variables}: {status}"
            advice = "correct or unset it, as no account is needed"
        raise failed(url, reason, advice)


def create_file(path: Path) -> BinaryIO:
    """Create a new file; anything at ``path`` is unlinked first, never written through."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def write_chunks(
    chunks: Iterable[bytes],
    file: BinaryIO,
    where: str,
    max_bytes: int,
    total: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Append ``chunks``, report progress, and return the size; DownloadError beyond the limit."""
    size = file.seek(0, os.SEEK_END)
    for chunk in itertools.chain([b""], chunks):
        size += len(chunk)
        if max(size, total or 0) > max_bytes:
            raise DownloadError(
                f"{where} is larger than the {max_bytes:,} bytes allowed for the release; it is "
                "not the published file: check the source.",
                reason=f"it is larger than the {max_bytes:,} bytes allowed",
            )
        file.write(chunk)
        if progress is not None:
            progress(size, total)
    return size


def _is_own_file(found: os.stat_result) -> bool:
    """Whether it is a regular file of this user without other hard links."""
    user = os.geteuid() if hasattr(os, "geteuid") else found.st_uid
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == user


def _total_if_continued(headers: Mapping[str, str], state: ResumeState) -> int | None:
    """The size of the file, if the response is the rest of the partial file."""
    sent = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if sent is None or _validator(headers) != state.validator:
        return None
    first, last, total = (int(number) for number in sent.groups())
    is_the_rest = first == state.bytes and last == total - 1 and state.total in (None, total)
    return total if is_the_rest else None


def _validator(headers: Mapping[str, str]) -> str | None:
    """The validator of the file's version: a strong ETag, or Last-Modified."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or None


def _retry_after(response: requests.Response) -> float:
    """Seconds to wait by ``Retry-After`` (a number or a date); 0 if invalid."""
    try:
        return RETRY.get_retry_after(response) or 0.0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0
