"""One GET request, made in a thread of its own so that no server can keep the caller waiting.

``requests`` follows redirects, uses the proxies of the environment (``HTTPS_PROXY``, ...) and
decodes content encodings. But its timeout restarts with every byte, so a server that sends single
bytes (of the headers, the length of a chunk or the body) never exceeds it. Here the caller decides
how long to wait.
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

CHUNK_BYTES = 1 << 16  # what a cut loses at most: an incomplete chunk is dropped
QUEUED_CHUNKS = 4  # received and not yet asked for
MAX_REDIRECTS = 10
MAX_SHOWN_CHARACTERS = 200  # of what a server sends
SILENT = "the server went silent"
BROKEN = "the connection was cut, or the response is malformed"
NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Limits:
    """How long to wait and how often to try.

    ``attempts`` counts tries that got no further, ``requests`` all of them. A transfer must bring
    ``minimum_rate`` bytes a second in every interval of ``rate_seconds``, and may take as long as
    the largest allowed file would take at that rate, plus ``grace_seconds``.
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
    """A failure after which another try makes sense.

    ``wait``: seconds that the server asked for. ``tries``: the tries to give up after, where fewer
    than usual. ``range_refused``: the next try has to ask for the whole file.
    """

    reason: str
    wait: float = 0.0
    tries: int | None = None
    range_refused: bool = False


def get(url: str, headers: Mapping[str, str], limits: Limits, deadline: float) -> Generator[Any]:
    """Yield the response and then the decoded chunks of its body, as long as they come in time.

    That is within the ``limits`` and before the ``deadline`` (of ``time.monotonic``). Raises
    TransientError and DownloadError. The thread only fills a queue; closing leaves it to end.
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
            response.raw.shutdown()  # wakes the thread where it waits for bytes
        with suppress(queue.Empty):
            while True:  # and where the queue is full
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
    """Follow to http and https alone, and never from https to http."""
    if not response.is_redirect:
        return
    response.close()  # requests would read its body, however long, into memory
    target = urljoin(response.url, response.headers["Location"])
    schemes = tuple(urlsplit(url).scheme.lower() for url in (response.url, target))
    if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
        raise DownloadError(
            f"{shown(response.url)} redirects from {schemes[0]} to {shown(target)}, which is not "
            "safe and not followed; name another source root."
        )


def _classified(error: Exception, url: str) -> TransientError | DownloadError:
    """Whether another try makes sense after a failed request.

    requests wraps urllib3, which wraps the socket's error, each in another attribute. Their texts
    quote the URL with its secrets, so only the system's text of the innermost error is shown.
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
        return TransientError(reason, tries=2)  # a network rarely comes back within seconds
    if isinstance(error, requests.exceptions.TooManyRedirects):
        reason = f"more than {MAX_REDIRECTS} redirects"
    elif isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        reason = "an address, or that of the proxy, is not valid or of an unknown kind"
    elif not unresolved and not isinstance(inner, ssl.SSLCertVerificationError):
        return TransientError(reason)
    return failed(url, reason)


def failed(url: str, reason: str) -> DownloadError:
    return DownloadError(
        f"{shown(url)} could not be downloaded ({reason}); check the network, the proxy settings "
        "and the source root, or download the file yourself and pass it with --checkpoint."
    )


def shown(url: str) -> str:
    """The URL without what may be secret in it: user, password, query and fragment."""
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """Text of others, cut to a length that fits a message."""
    return text if len(text) <= characters else f"{text[:characters]}..."
