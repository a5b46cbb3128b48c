"""One file from a web server onto the disk, over networks that fail.

pooch's downloader moves the bytes; here is what it leaves to its callers: going on after a cut,
trying again, limits on size, and words for what went wrong. Proxies are those of the environment
(``HTTPS_PROXY``, ``NO_PROXY``, ...), as everywhere in ``requests``.

A response with a content encoding is decoded while it is received, so what is counted and kept is
always the file itself. Only a response without one can be gone on with, because ranges count
encoded bytes; the request therefore asks for no encoding, and takes one that comes all the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from movinet_convert import __version__
from movinet_convert.errors import DownloadError

if TYPE_CHECKING:
    from pathlib import Path

# What a cut loses at most: the downloader drops a chunk that did not become full.
CHUNK_BYTES = 1 << 16
# A try that gains this much is not counted: a line that drops every few megabytes still arrives.
USEFUL_BYTES = 1 << 20
LONGEST_WAIT_SECONDS = 60.0  # that a server may ask for
# Statuses after which the same request may well succeed (RFC 9110, RFC 6585, RFC 8470).
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_NOT_SATISFIABLE = 416


class Progress(Protocol):
    """Told how far a transfer is: bytes so far, and in all where the server says so."""

    def __call__(self, done: int, total: int | None, /) -> None: ...


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try. ``attempts`` counts tries that got no further."""

    connect_seconds: float = 15.0
    read_seconds: float = 30.0
    attempts: int = 5
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    lock_seconds: float = 3600.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: twice as long each time."""
        return min(self.first_pause_seconds * 2.0 ** (failures - 1), self.longest_pause_seconds)


class _TransientError(Exception):
    """A failure after which another try makes sense; ``wait`` is what the server asked for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class Partial:
    """An unfinished file, and beside it the validator that tells whether it can be gone on with."""

    path: Path

    @property
    def note_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def kept(self, url: str) -> tuple[int, str | None]:
        """The bytes that a range request for ``url`` may follow, and the validator it needs."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            validator, size = note["validator"], self.path.stat().st_size
            usable = note["url"] == _fingerprint(url) and isinstance(validator, str)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0, None
        return (size, validator) if usable and size > 0 else (0, None)

    def note(self, url: str, validator: str | None) -> None:
        if validator is None:
            self.note_path.unlink(missing_ok=True)
        else:
            text = json.dumps({"url": _fingerprint(url), "validator": validator})
            self.note_path.write_text(text, encoding="utf-8")

    def discard(self) -> None:
        self.note_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class Sink:
    """Where received bytes go: counted, bounded, reported, appended to a file."""

    def __init__(self, path: Path, where: str, max_bytes: int, progress: Progress | None) -> None:
        self._file = path.open("ab")
        self._where = where
        self._max_bytes = max_bytes
        self._progress = progress
        self.done = self._file.tell()
        self.total: int | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def start(self, done: int, total: int | None) -> None:
        """Keep the first ``done`` bytes; ``total`` are announced."""
        if total is not None and total > self._max_bytes:
            raise self._too_large()
        self._file.truncate(done)
        self.done, self.total = done, total
        self._report()

    def write(self, chunk: bytes) -> None:
        if self.done + len(chunk) > self._max_bytes:
            raise self._too_large()
        self._file.write(chunk)
        self.done += len(chunk)
        self._report()

    def flush(self) -> None:
        """pooch flushes after every chunk; closing is often enough."""

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self.total)

    def _too_large(self) -> DownloadError:
        return DownloadError(
            f"{self._where} is larger than the {self._max_bytes:,} bytes it may have at most; "
            "it is not the published file: check the source root."
        )


def download(
    url: str,
    partial: Partial,
    *,
    max_bytes: int,
    patience: Patience,
    progress: Progress | None = None,
) -> bool:
    """Get ``url`` into ``partial``; whether it went on with bytes of an earlier run.

    Raises DownloadError once trying again makes no sense. What has arrived stays for the next run
    where the server can tell that the file is still the same.
    """
    went_on = partial.kept(url)[0] > 0
    try:
        _until_it_works(url, partial, max_bytes, patience, progress)
    except BaseException:
        if partial.kept(url)[0] == 0:
            partial.discard()
        raise
    return went_on


def _until_it_works(
    url: str, partial: Partial, max_bytes: int, patience: Patience, progress: Progress | None
) -> None:
    failures = 0
    while True:
        before, _ = partial.kept(url)
        try:
            return _attempt(url, partial, max_bytes, patience, progress)
        except _TransientError as failure:
            gained = partial.kept(url)[0] - before
            failures = 1 if gained >= USEFUL_BYTES else failures + 1
            if failures >= patience.attempts:
                raise DownloadError(
                    f"{shown(url)} could not be downloaded ({failure}, after "
                    f"{patience.attempts} tries); check the network and the proxy settings, or "
                    "name another source root."
                ) from failure.__cause__
            time.sleep(max(patience.pause(failures), min(failure.wait, LONGEST_WAIT_SECONDS)))


def shown(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _attempt(
    url: str, partial: Partial, max_bytes: int, patience: Patience, progress: Progress | None
) -> None:
    import pooch
    import requests

    done, validator = partial.kept(url)
    headers = {"Accept-Encoding": "identity", "User-Agent": f"movinet-convert/{__version__}"}
    if validator is not None:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with Sink(partial.path, shown(url), max_bytes, progress) as sink:
        downloader = pooch.HTTPDownloader(
            chunk_size=CHUNK_BYTES,
            timeout=(patience.connect_seconds, patience.read_seconds),
            headers=headers,
            hooks={"response": lambda response, **_: _begin(url, response, done, partial, sink)},
        )
        try:
            downloader(url, sink, None)
        except requests.exceptions.HTTPError as error:
            if error.response.status_code == RANGE_NOT_SATISFIABLE:
                partial.discard()
            raise _refused(url, error.response) from error
        except (
            requests.exceptions.InvalidSchema,
            requests.exceptions.InvalidURL,
            requests.exceptions.SSLError,
            requests.exceptions.TooManyRedirects,
        ) as error:
            raise DownloadError(
                f"{shown(url)} could not be downloaded ({_reason(error)}); check the source root "
                "and the proxy settings."
            ) from error
        except requests.exceptions.RequestException as error:
            raise _TransientError(_reason(error)) from error
        except ValueError as error:
            raise _TransientError("the server's answer is malformed") from error


def _begin(url: str, response: Any, done: int, partial: Partial, sink: Sink) -> None:
    """Look at a response's head before its body is received."""
    if response.is_redirect:
        target = response.headers["Location"]
        if response.url.startswith("https:") and target.lower().startswith("http:"):
            raise DownloadError(
                f"{shown(url)} redirects from https to {shown(target)}, which anyone on the way "
                "can change; it is not followed: name another source root."
            )
        return
    if response.status_code >= 400:
        return  # the downloader raises
    encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() and not encoded else None
    if response.status_code == 200:
        partial.note(url, None if encoded else _validator(response.headers))
        sink.start(0, announced)
    elif response.status_code == 206 and done > 0 and not encoded:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            partial.discard()
            raise _TransientError("the server answered with another range than it was asked for")
        sink.start(done, None if announced is None else done + announced)
    else:
        partial.discard()
        raise _TransientError(
            f"the server answered with an unexpected status {response.status_code}"
        )


def _validator(headers: Any) -> str | None:
    """What tells one version of the file from the next: a strong entity tag, or its date."""
    tag = headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return str(tag)
    date = headers.get("Last-Modified")
    return None if date is None else str(date)


def _refused(url: str, response: Any) -> Exception:
    status = response.status_code
    said = f"the server answered {status} {response.reason or ''}".rstrip()
    if status in TRANSIENT_STATUSES or status == RANGE_NOT_SATISFIABLE:
        wait = response.headers.get("Retry-After", "")
        return _TransientError(said, float(wait) if wait.isdecimal() else 0.0)
    return DownloadError(
        f"{shown(url)} could not be downloaded ({said}); check the source root, or download the "
        "file yourself and pass it with --checkpoint."
    )


def _reason(error: BaseException) -> str:
    """What a failed request comes down to, without addresses in memory and repeated URLs."""
    text = _innermost(error)
    if "timed out" in text.lower():
        return "the server went silent"
    return text.rsplit(">: ", 1)[-1].strip() or type(error).__name__


def _innermost(error: BaseException) -> str:
    """requests wraps urllib3, which wraps the socket's error: in ``reason`` or as an argument."""
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return str(error) if inner is None else _innermost(inner)


def _fingerprint(url: str) -> str:
    """Stands for a URL in a file, since the URL may hold a password."""
    return hashlib.sha256(url.encode()).hexdigest()
