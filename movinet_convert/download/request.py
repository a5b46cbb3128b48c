"""One GET request, run in its own thread so that no server can block the caller.

``requests`` follows redirects, uses the environment's proxies (``HTTPS_PROXY``, ...) and decodes
content encodings. But its timeout restarts with every byte, so a server that sends single bytes (of
the headers, a chunk length or the body) never exceeds it. Here the caller sets the limits.
"""

from __future__ import annotations

import errno
import http.client
import itertools
import queue
import socket
import ssl
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from movinet_convert.errors import DownloadError

CHUNK_BYTES = 1 << 16  # the most that an interruption loses: an incomplete chunk is dropped
QUEUED_CHUNKS = 4  # received, not yet consumed
MAX_REDIRECTS = 10
MAX_SHOWN_CHARACTERS = 200  # of text from a server
SILENT = "the server stopped responding"
BROKEN = "the connection was lost, or the response is malformed"
NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Limits:
    """Timeouts and numbers of attempts.

    ``attempts`` limits consecutive attempts without progress, ``requests`` all of them. A download
    must receive ``minimum_rate`` bytes a second in every interval of ``rate_seconds``, and may take
    as long as the largest allowed file takes at that rate, plus ``grace_seconds``.
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


@dataclass(eq=False)
class TransientError(Exception):
    """A failure that is worth another attempt.

    ``wait``: seconds that the server asked for. ``attempts``: the number to give up after, if lower
    than usual. ``range_refused``: the next attempt must request the whole file.
    """

    reason: str
    wait: float = 0.0
    attempts: int | None = None
    range_refused: bool = False


def get(url: str, headers: Mapping[str, str], limits: Limits, deadline: float) -> Generator[Any]:
    """Yield the response and then the decoded chunks of its body.

    They must arrive within the ``limits`` and before the ``deadline`` (of ``time.monotonic``).
    Raises TransientError and DownloadError. Closing the generator ends the thread.
    """
    items: queue.Queue[Any] = queue.Queue(QUEUED_CHUNKS)
    closed = threading.Event()
    timeout = (limits.connect_seconds, limits.read_seconds)
    options = {"headers": headers, "timeout": timeout, "stream": True}
    threading.Thread(target=_receive, args=(url, options, items, closed), daemon=True).start()
    due, missing, problem = time.monotonic() + sum(timeout), 0.0, SILENT
    response: Any = None
    try:
        while True:
            try:
                item = items.get(timeout=max(0.0, min(due, deadline) - time.monotonic()))
            except queue.Empty:
                raise TransientError(problem) from None
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            response = item if response is None else response
            yield item
            missing -= len(item) if isinstance(item, bytes) else 0
            if missing <= 0:
                due = time.monotonic() + limits.rate_seconds
                missing = limits.minimum_rate * limits.rate_seconds
                problem = f"the server sent fewer than {limits.minimum_rate:,.0f} bytes a second"
    finally:
        closed.set()
        with suppress(AttributeError, ValueError, RuntimeError, OSError):
            response.raw.shutdown()  # wakes the thread if it waits for bytes
        with suppress(queue.Empty):
            while True:  # or for space in the queue
                items.get_nowait()


def _receive(
    url: str, options: Mapping[str, Any], items: queue.Queue[Any], closed: threading.Event
) -> None:
    """Queue the response, the chunks and None, or the exception, until ``closed``."""
    try:
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            session.hooks["response"].append(_check_redirect)
            with session.get(url, **options) as response:
                chunks = filter(None, response.iter_content(CHUNK_BYTES))
                for item in itertools.chain([response], chunks, [None]):
                    items.put(item)
                    if closed.is_set():
                        return
    except Exception as error:
        items.put(_classified(error, url) if isinstance(error, NETWORK_ERRORS) else error)


def _check_redirect(response: requests.Response, **_: object) -> None:
    """Follow redirects only to http and https, and never from https to http."""
    if not response.is_redirect:
        return
    response.close()  # requests would read its body, however long, into memory
    target = urljoin(response.url, response.headers["Location"])
    schemes = tuple(urlsplit(url).scheme.lower() for url in (response.url, target))
    if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
        raise DownloadError(
            f"{shown(response.url)} redirects from {schemes[0]} to {shown(target)}, which is "
            "unsafe and not followed; use another source root."
        )


def _classified(error: Exception, url: str) -> TransientError | DownloadError:
    """Classify an error as transient or final.

    requests wraps urllib3, which wraps the socket's error, each in another attribute. Their
    messages quote the URL with its secrets, so only the innermost system message is shown.
    """
    inner: BaseException = error
    while True:
        causes = (getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__)
        following = [cause for cause in causes if isinstance(cause, BaseException)]
        if not following:
            break
        inner = following[0]
    reason = shortened(getattr(inner, "strerror", None) or BROKEN)
    if isinstance(inner, TimeoutError) or "timed out" in str(inner).lower():
        reason = SILENT
    code, unresolved = getattr(inner, "errno", None), isinstance(inner, socket.gaierror)
    if code == socket.EAI_AGAIN if unresolved else code in NO_NETWORK:
        return TransientError(reason, attempts=2)  # a network rarely recovers within seconds
    if isinstance(error, requests.exceptions.TooManyRedirects):
        reason = f"more than {MAX_REDIRECTS} redirects"
    elif isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        reason = "the URL, or that of the proxy, is invalid or has an unknown scheme"
    elif not unresolved and not isinstance(inner, ssl.SSLCertVerificationError):
        return TransientError(reason)
    return failed(url, reason)


def failed(url: str, reason: str) -> DownloadError:
    return DownloadError(
        f"{shown(url)} could not be downloaded ({reason}); check the network, the proxy settings "
        "and the source root, or download the file yourself and pass it with --checkpoint."
    )


def shown(url: str) -> str:
    """The URL without possible secrets: user, password, query and fragment."""
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """External text, truncated for a message."""
    return text if len(text) <= characters else f"{text[:characters]}..."
