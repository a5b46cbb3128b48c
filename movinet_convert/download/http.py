"""One file from a web server onto the disk, over networks that fail and servers that misbehave.

Going on after a cut, trying again, and the limits that end every transfer: on its size, on the
time it takes, on how slow it may be and on the number of requests.

A response with a content encoding is decoded while it is received, so what is counted and kept is
always the file itself. Only a response without one can be gone on with, because ranges count
encoded bytes; the request therefore asks for no encoding, and takes one that comes all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from movinet_convert.download.partial import Kept, Partial, Progress, Sink, too_large
from movinet_convert.download.request import (
    Head,
    OutOfTimeError,
    TransientError,
    WebRequest,
    shortened,
    shown,
)
from movinet_convert.errors import DownloadError
from movinet_convert.files.version import __version__

# A try that gets this much further than all before is not counted: a line that drops every few
# megabytes still arrives.
USEFUL_BYTES = 1 << 20
LONGEST_WAIT_SECONDS = 60.0  # that a server may ask for
# Statuses after which the same request may well succeed (RFC 9110, RFC 6585, RFC 8470).
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416
NUMBER = re.compile("[0-9]{1,18}", re.ASCII)
CONTENT_RANGE = re.compile("bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)

Notice = Callable[[str], object]
_Received = TypeVar("_Received")


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try.

    ``attempts`` counts tries that got no further, ``requests`` all of them. A transfer must bring
    ``minimum_rate`` bytes a second over every ``rate_seconds``, and may take as long in all as the
    largest file that is allowed would take at that rate, plus ``grace_seconds``.
    """

    connect_seconds: float = 15.0
    read_seconds: float = 30.0
    attempts: int = 5
    requests: int = 300
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    minimum_rate: float = 8192.0
    rate_seconds: float = 60.0
    grace_seconds: float = 600.0
    lock_seconds: float = 3600.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: twice as long each time."""
        return min(self.first_pause_seconds * 2.0 ** (failures - 1), self.longest_pause_seconds)

    def seconds_for(self, max_bytes: int) -> float:
        """How long a file of at most so many bytes may take in all."""
        return self.grace_seconds + max_bytes / self.minimum_rate


def download(
    url: str,
    partial: Partial,
    *,
    max_bytes: int,
    patience: Patience,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> bool:
    """Get ``url`` into ``partial``; whether it went on with bytes of an earlier run.

    ``notice`` is told in a sentence when and why a try failed and another follows. Raises
    DownloadError once trying again makes no sense. What has arrived stays for the next run where
    the server can tell that the file is still the same.
    """
    deadline = time.monotonic() + patience.seconds_for(max_bytes)
    job = _Job(url, partial, max_bytes, patience, progress, deadline)
    went_on = partial.kept(url).bytes > 0
    try:
        _until_it_works(job, notice)
    except BaseException:
        if partial.kept(url).bytes == 0:
            partial.discard()
        raise
    return went_on


def _until_it_works(job: _Job, notice: Notice | None) -> None:
    patience, ranged, failures = job.patience, True, 0
    farthest = job.partial.kept(job.url).bytes
    for _ in range(patience.requests):
        try:
            return job.attempt(ranged=ranged)
        except TransientError as failure:
            reached = job.partial.kept(job.url).bytes
            failures = 1 if reached >= farthest + USEFUL_BYTES else failures + 1
            farthest = max(farthest, reached)
            enough = min(patience.attempts, failure.tries or patience.attempts)
            # A refused range is no refusal of the file: the whole is asked for before giving up.
            if failures >= enough and not failure.range_refused:
                raise job.given_up(f"{failure}, after {failures} tries") from failure.__cause__
            ranged = not failure.range_refused
            pause = max(patience.pause(failures), min(failure.wait, LONGEST_WAIT_SECONDS))
            if notice is not None:
                notice(f"{shown(job.url)}: {failure}; trying again in {pause:.0f} s.")
            time.sleep(max(0.0, min(pause, job.deadline - time.monotonic())))
    raise job.given_up(f"it was cut off again and again, in {patience.requests} requests")


@dataclass(frozen=True)
class _Job:
    """A download: what every try of it has in common."""

    url: str
    partial: Partial
    max_bytes: int
    patience: Patience
    progress: Progress | None
    deadline: float  # as time.monotonic() counts

    def attempt(self, *, ranged: bool) -> None:
        """One request, for what is missing (``ranged``) or for the whole file."""
        patience = self.patience
        kept = self.partial.kept(self.url) if ranged else Kept()
        headers = {"Accept-Encoding": "identity", "User-Agent": f"movinet-convert/{__version__}"}
        if kept.bytes:
            headers |= {"Range": f"bytes={kept.bytes}-", "If-Range": kept.validator}
        timeout = (patience.connect_seconds, patience.read_seconds)
        clock = _Clock(self, time.monotonic() + sum(timeout))
        with closing(WebRequest(self.url, headers, timeout)) as request:
            head = clock.wait(request.head)
            with self._sink(head, kept) as sink:
                clock.start_counting()
                while chunk := clock.wait(request.chunk):
                    sink.write(chunk)
                    clock.count(len(chunk))
                if sink.total is not None and sink.done != sink.total:
                    raise TransientError("the server sent another number of bytes than it said")

    def given_up(self, why: str) -> DownloadError:
        return DownloadError(
            f"{shown(self.url)} could not be downloaded ({why}); check the network and the proxy "
            "settings, or name another source root."
        )

    def _sink(self, head: Head, kept: Kept) -> Sink:
        """Where the body goes; TransientError or DownloadError if it is not what was asked for."""
        encoded = head.headers.get("Content-Encoding", "identity").lower() != "identity"
        if head.status == OK:
            total = None if encoded else _number(head.headers.get("Content-Length", ""))
            if total is not None and total > self.max_bytes:
                raise too_large(shown(self.url), self.max_bytes)
            validator = None if encoded else _validator(head.headers)
            file = self.partial.begin(self.url, validator, total)
        elif head.status == PARTIAL_CONTENT and kept.bytes:
            total = _continued(head.headers, kept)
            if encoded or total is None:
                self.partial.discard()
                raise TransientError(
                    "the server answered with another range or another file than it was asked for",
                    range_refused=True,
                )
            file = self.partial.go_on()
        else:
            raise self._refused(head, bool(kept.bytes))
        where = shown(self.url)
        return Sink(file, where, self.max_bytes, total=total, progress=self.progress)

    def _refused(self, head: Head, ranged: bool) -> Exception:
        said = f"the server answered {head.status} {shortened(head.reason)}".rstrip()
        if head.status == RANGE_NOT_SATISFIABLE:
            self.partial.discard()
        if ranged or head.status in TRANSIENT_STATUSES or head.status < 400:
            wait = _number(head.headers.get("Retry-After", "")) or 0
            return TransientError(said, wait=float(wait), range_refused=ranged)
        return DownloadError(
            f"{shown(self.url)} could not be downloaded ({said}); check the source root, or "
            "download the file yourself and pass it with --checkpoint."
        )


class _Clock:
    """How long a try may wait: for the head, for bytes at the least rate, for all in all."""

    def __init__(self, job: _Job, head_by: float) -> None:
        self._job = job
        self._by = head_by
        self._why = "the server went silent"
        self._missing = 0.0

    def start_counting(self) -> None:
        """From now on, or from the last time it was enough, bytes must come at the least rate."""
        patience = self._job.patience
        self._by = time.monotonic() + patience.rate_seconds
        self._why = f"the server sent fewer than {patience.minimum_rate:,.0f} bytes a second"
        self._missing = patience.minimum_rate * patience.rate_seconds

    def count(self, received: int) -> None:
        self._missing -= received
        if self._missing <= 0:
            self.start_counting()

    def wait(self, receive: Callable[[float], _Received]) -> _Received:
        """What ``receive`` gets in time."""
        while True:
            now = time.monotonic()
            if now >= self._job.deadline:
                seconds = self._job.patience.seconds_for(self._job.max_bytes)
                raise self._job.given_up(f"it took more than {seconds:,.0f} s")
            if now >= self._by:
                raise TransientError(self._why)
            try:
                return receive(min(self._by, self._job.deadline) - now)
            except OutOfTimeError:
                continue


def _continued(headers: Mapping[str, str], kept: Kept) -> int | None:
    """The size of the whole file, if the range that is sent is the rest of what was kept."""
    sent = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if sent is None or _validator(headers) != kept.validator:
        return None
    first, last, total = (int(number) for number in sent.groups())
    is_the_rest = first == kept.bytes and last == total - 1 and kept.total in (None, total)
    return total if is_the_rest else None


def _validator(headers: Mapping[str, str]) -> str | None:
    """What tells one version of the file from the next: a strong entity tag, or its date."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or None


def _number(text: str) -> int | None:
    return int(text) if NUMBER.fullmatch(text) else None
