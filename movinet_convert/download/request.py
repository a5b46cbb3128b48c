"""One GET request, made in a thread of its own so that no server can hold it open.

``requests`` follows redirects, uses the proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``,
...) and decodes content encodings. But its timeout restarts with every byte, so a server that sends
one now and then (of the headers, the length of a chunk or the body) never exceeds it. Here whoever
waits for the answer decides how long.
"""

from __future__ import annotations

import errno
import http.client
import itertools
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from movinet_convert.errors import DownloadError

CHUNK_BYTES = 1 << 16  # what a cut loses at most: an incomplete chunk is dropped
QUEUED_CHUNKS = 4  # received and not yet asked for
MAX_REDIRECTS = 10
SHOWN_CHARACTERS = 200  # of what a server sends
SILENT = "the server went silent"
MALFORMED = "the connection was cut, or the server's answer is malformed"
# Without a network one more try is enough: it rarely comes back within seconds.
NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
NO_NETWORK_TRIES = 2
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


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


@contextmanager
def get(url: str, **options: Any) -> Iterator[Callable[[float], Any]]:
    """GET with the options of ``requests.get``: a function that waits for what arrives.

    Called with the seconds to wait, it returns the response, then the decoded chunks of the body,
    then ``b""``; it raises queue.Empty, TransientError and DownloadError. The thread does nothing
    but fill the queue, and ends by itself once the context has been left.
    """
    items: queue.Queue[Any] = queue.Queue(QUEUED_CHUNKS)
    responses: list[requests.Response] = []
    left = threading.Event()

    def run() -> None:
        try:
            with requests.Session() as session:
                session.max_redirects = MAX_REDIRECTS
                session.hooks["response"].append(_check_redirect)
                with session.get(url, stream=True, **options) as response:
                    responses.append(response)
                    chunks = filter(None, response.iter_content(CHUNK_BYTES))
                    for item in itertools.chain([response], chunks, [b""]):
                        items.put(item)
                        if left.is_set():
                            return
        except Exception as error:
            items.put(_classified(error, url))

    def receive(seconds: float) -> Any:
        item = items.get(timeout=max(0.0, seconds))
        if isinstance(item, Exception):
            raise item
        return item

    threading.Thread(target=run, daemon=True).start()
    try:
        yield receive
    finally:
        left.set()
        with suppress(IndexError, ValueError, RuntimeError, OSError):
            responses[0].raw.shutdown()  # wakes the thread where it waits for bytes
        with suppress(queue.Empty):
            while True:  # and where it waits for room in the queue
                items.get_nowait()


def _check_redirect(response: requests.Response, **_: object) -> None:
    """Follow to http and https alone, and never from https to http."""
    if not response.is_redirect:
        return
    response.close()  # requests would read its body, however long, into memory
    target = urljoin(response.url, response.headers["Location"])
    before, after = (urlsplit(url).scheme.lower() for url in (response.url, target))
    if after not in ("http", "https"):
        problem = f"to {shown(target)}, which is no address on the web"
    elif (before, after) == ("https", "http"):
        problem = f"from https to {shown(target)}, which anyone on the way can change"
    else:
        return
    raise DownloadError(
        f"{shown(response.url)} redirects {problem}; it is not followed: name another source root."
    )


def _classified(error: Exception, url: str) -> Exception:
    """A failed request as TransientError or DownloadError.

    requests wraps urllib3, which wraps the socket's error, each in another attribute. Of the
    innermost only a fixed text is shown: the texts of libraries quote the URL with its secrets.
    """
    if not isinstance(error, NETWORK_ERRORS):
        return error
    inner: BaseException = error
    while causes := [cause for cause in _causes(inner) if isinstance(cause, BaseException)]:
        inner = causes[0]
    reason = shortened(getattr(inner, "strerror", None) or MALFORMED)
    if isinstance(inner, TimeoutError) or "timed out" in str(inner).lower():
        reason = SILENT
    code, unresolved = getattr(inner, "errno", None), isinstance(inner, socket.gaierror)
    if code == socket.EAI_AGAIN if unresolved else code in NO_NETWORK:
        return TransientError(reason, tries=NO_NETWORK_TRIES)
    if isinstance(error, requests.exceptions.TooManyRedirects):
        reason = f"more than {MAX_REDIRECTS} redirects"
    elif isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        reason = "an address, or that of the proxy, is not valid or of an unknown kind"
    elif not unresolved and not isinstance(inner, ssl.SSLCertVerificationError):
        return TransientError(reason)
    return failed(url, reason)


def _causes(error: BaseException) -> tuple[object, ...]:
    return (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)


def failed(url: str, reason: str) -> DownloadError:
    return DownloadError(
        f"{shown(url)} could not be downloaded ({reason}); check the network, the proxy settings "
        "and the source root, or download the file yourself and pass it with --checkpoint."
    )


def shown(url: str) -> str:
    """The URL without what may be secret in it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed address"
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Text of others, cut to a length that fits a message."""
    return text if len(text) <= characters else f"{text[:characters]}..."
