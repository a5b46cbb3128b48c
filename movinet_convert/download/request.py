"""One HTTP request, made in a thread of its own so that no server can hold it open.

The timeout of a socket starts anew with every byte, so a server that sends one now and then (in the
head, in the length of a chunk, in the body) never lets it run out. Here whoever waits for the
answer says how long. Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...), as
everywhere in ``requests``.
"""

from __future__ import annotations

import errno
import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from movinet_convert.errors import DownloadError

# What a cut loses at most: a chunk that did not become full is dropped.
CHUNK_BYTES = 1 << 16
WAITING_CHUNKS = 4  # received, and not yet asked for
MALFORMED = "the server's answer is malformed"
MAX_REDIRECTS = 10
# Without a network one more try is enough: it rarely comes back in seconds.
NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
NO_NETWORK_TRIES = 2
SHOWN_CHARACTERS = 200  # of what a server says


class TransientError(Exception):
    """A failure after which another try makes sense.

    ``wait``: seconds that the server asked for. ``tries``: how many such failures in a row are
    enough, where that is fewer than for others. ``range_refused``: the next try asks for the whole.
    """

    def __init__(
        self, what: str, *, wait: float = 0.0, tries: int | None = None, range_refused: bool = False
    ) -> None:
        super().__init__(what)
        self.wait = wait
        self.tries = tries
        self.range_refused = range_refused


class OutOfTimeError(Exception):
    """Nothing has arrived in the time allowed."""


@dataclass(frozen=True)
class Head:
    """What a server says before it sends the body; ``headers`` ignore the case of names."""

    status: int
    reason: str
    headers: Mapping[str, str]


class WebRequest:
    """A GET request on its way: first its ``head``, then ``chunk`` after ``chunk``.

    A content encoding is undone, so chunks are those of the file itself. Redirects are followed to
    http and https alone, and never from https to http. Both methods raise OutOfTimeError after the
    seconds given, TransientError and DownloadError. ``close`` leaves the thread to end by itself:
    it writes nothing, and holds nothing but its connection.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: tuple[float, float]) -> None:
        self._url = url
        self._headers = dict(headers)
        self._timeout = timeout
        self._items: queue.Queue[Head | bytes | Exception] = queue.Queue(WAITING_CHUNKS)
        self._closed = threading.Event()
        self._response: Any = None
        threading.Thread(target=self._run, daemon=True).start()

    def head(self, seconds: float) -> Head:
        item = self._take(seconds)
        assert isinstance(item, Head)
        return item

    def chunk(self, seconds: float) -> bytes:
        """The next bytes; none at the end of the body."""
        item = self._take(seconds)
        assert isinstance(item, bytes)
        return item

    def close(self) -> None:
        self._closed.set()
        # Wakes the thread if it waits for bytes (urllib3 has this since 2.3).
        with suppress(AttributeError, ValueError, RuntimeError, OSError):
            self._response.raw.shutdown()
        # Wakes it if it waits for room in the queue.
        with suppress(queue.Empty):
            while True:
                self._items.get_nowait()

    def _take(self, seconds: float) -> Head | bytes:
        try:
            item = self._items.get(timeout=seconds)
        except queue.Empty:
            raise OutOfTimeError from None
        if isinstance(item, Exception):
            raise item
        return item

    def _put(self, item: Head | bytes | Exception) -> bool:
        """Hand over an item; whether anybody still wants more."""
        self._items.put(item)
        return not self._closed.is_set()

    def _run(self) -> None:
        try:
            self._receive()
        except DownloadError as error:
            self._put(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._put(self._failure(error))  # what requests and urllib3 raise is one of these
        except Exception as error:
            self._put(_urllib3_failure(error) or error)

    def _receive(self) -> None:
        import requests

        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            with session.get(
                self._url,
                headers=self._headers,
                timeout=self._timeout,
                stream=True,
                hooks={"response": self._check_redirect},
            ) as response:
                self._response = response
                wanted = self._put(
                    Head(response.status_code, response.reason or "", response.headers)
                )
                chunks = response.iter_content(CHUNK_BYTES)
                while wanted and (chunk := next(chunks, None)) is not None:
                    wanted = not chunk or self._put(chunk)
        self._put(b"")

    def _check_redirect(self, response: Any, **_: object) -> None:
        if not response.is_redirect:
            return
        response.close()  # requests would read its body, however long, into memory
        target = urljoin(response.url, response.headers["Location"])
        schemes = urlsplit(response.url).scheme.lower(), urlsplit(target).scheme.lower()
        if schemes[1] not in ("http", "https"):
            raise DownloadError(
                f"{shown(self._url)} redirects to {shown(target)}, which is no address on the "
                "web; it is not followed: name another source root."
            )
        if schemes == ("https", "http"):
            raise DownloadError(
                f"{shown(self._url)} redirects from https to {shown(target)}, which anyone on the "
                "way can change; it is not followed: name another source root."
            )

    def _failure(self, error: Exception) -> Exception:
        """What became of the request, without what may be secret in the texts of libraries."""
        import requests.exceptions as kinds

        inner = _innermost(error)
        what = _reason(inner)
        if _is_without_network(inner):
            return TransientError(what, tries=NO_NETWORK_TRIES)
        if isinstance(error, kinds.TooManyRedirects):
            what = f"more than {MAX_REDIRECTS} redirects"
        elif isinstance(error, kinds.InvalidURL | kinds.InvalidSchema | kinds.MissingSchema):
            what = "an address, or that of the proxy, is not valid or of an unknown kind"
        elif not isinstance(inner, socket.gaierror | ssl.SSLCertVerificationError):
            return TransientError(what)
        return DownloadError(
            f"{shown(self._url)} could not be downloaded ({what}); check the network, the source "
            "root and the proxy settings."
        )


def shown(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed address"
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Foreign text, no longer than a message can bear."""
    return text if len(text) <= characters else f"{text[:characters]}..."


def _urllib3_failure(error: Exception) -> TransientError | None:
    """What requests lets through of urllib3's own errors."""
    import urllib3

    return TransientError(MALFORMED) if isinstance(error, urllib3.exceptions.HTTPError) else None


def _is_without_network(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, OSError) and error.errno in NO_NETWORK


def _reason(error: BaseException) -> str:
    """What a failed request comes down to."""
    if isinstance(error, TimeoutError) or "timed out" in str(error).lower():
        return "the server went silent"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    if isinstance(error, OSError) and error.strerror:
        return shortened(str(error.strerror))
    return MALFORMED


def _innermost(error: BaseException) -> BaseException:
    """requests wraps urllib3, which wraps the socket's error, each in another place."""
    inner = getattr(error, "reason", None)
    if not isinstance(inner, BaseException):
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    inner = inner or error.__cause__ or error.__context__
    return error if inner is None else _innermost(inner)
