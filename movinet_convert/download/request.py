"""One GET request, run in its own thread so that no server can block the caller.

``requests`` follows redirects, uses the environment's proxies (``HTTPS_PROXY``, ...) and decodes
content encodings. But its timeout restarts with every byte, so a server that sends single bytes (of
the headers, a chunk length or the body) never exceeds it. Here the caller sets the limits.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import queue
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from movinet_convert.download.account import NoAccount
from movinet_convert.download.failures import (
    MAX_REDIRECTS,
    SILENT,
    TransientError,
    classified,
    shown,
)
from movinet_convert.errors import DownloadError

CHUNK_BYTES = 1 << 16  # the most that an interruption loses: an incomplete chunk is dropped
QUEUED_CHUNKS = 4  # received, not yet consumed
SYSTEM_RETRY_SECONDS = 3.0  # resolvers and TCP have then repeated their first packet
THREAD_NAME = "movinet-download"
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)

# urllib3 logs every address with its signature, and headers that it cannot parse.
logging.getLogger("urllib3.connectionpool").addFilter(
    lambda record: record.threadName != THREAD_NAME
)


@dataclass(frozen=True)
class Limits:
    """Timeouts and numbers of attempts.

    ``attempts`` limits consecutive attempts without progress, ``unreachable_attempts`` those
    without a connection, ``requests`` all of them. A download must receive ``minimum_rate`` bytes a
    second in every interval of ``rate_seconds``, and may take as long as the largest allowed file
    takes at that rate, plus ``grace_seconds``.
    """

    connect_seconds: float = 15.0
    read_seconds: float = 30.0
    attempts: int = 5
    unreachable_attempts: int = 2  # a network rarely recovers within seconds
    requests: int = 300
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    minimum_rate: float = 8192.0
    rate_seconds: float = 60.0
    grace_seconds: float = 600.0
    longest_retry_after: float = 60.0
    lock_seconds: float = 3600.0

    def with_fallback(self) -> Limits:
        """Limits for a source that has a substitute: one that fails costs less than a minute."""
        return replace(
            self,
            connect_seconds=min(self.connect_seconds, 5.0),
            read_seconds=min(self.read_seconds, 10.0),
            attempts=min(self.attempts, 2),
            unreachable_attempts=1,
            rate_seconds=min(self.rate_seconds, 20.0),
            longest_retry_after=min(self.longest_retry_after, 5.0),
        )

    def allowed(self, failure: TransientError, seconds: float) -> int:
        """The consecutive attempts to make if one fails like this after so many seconds."""
        if not failure.unreachable:
            return min(self.attempts, failure.attempts or self.attempts)
        # The system has itself tried several times if this took seconds.
        again = seconds < SYSTEM_RETRY_SECONDS
        return min(self.attempts, self.unreachable_attempts) if again else 1


class _Session(requests.Session):  # type: ignore[misc]
    """A session that sends no password to the target of a redirect to another host.

    requests would also look one up in ``.netrc`` for the new host, where a signed address is all
    that is needed, and where a default entry would give the user's password away.
    """

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        before, after = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, after):
            prepared_request.headers.pop("Authorization", None)


def get(
    url: str,
    headers: Mapping[str, str],
    limits: Limits,
    deadline: float,
    auth: NoAccount | None = None,
) -> Generator[Any]:
    """Yield the response and then the decoded chunks of its body.

    They must arrive within the ``limits`` and before the ``deadline`` (of ``time.monotonic``).
    ``auth`` is for the host of ``url`` alone; with None, a password in the URL or in ``.netrc`` is
    used. Raises TransientError and DownloadError. Closing the generator ends the thread.
    """
    items: queue.Queue[Any] = queue.Queue(QUEUED_CHUNKS)
    closed = threading.Event()
    timeout = (limits.connect_seconds, limits.read_seconds)
    options = {"headers": headers, "timeout": timeout, "stream": True, "auth": auth}
    threading.Thread(
        target=_receive, args=(url, options, items, closed), name=THREAD_NAME, daemon=True
    ).start()
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
        with _Session() as session:
            session.max_redirects = MAX_REDIRECTS
            session.hooks["response"].append(_check_redirect)
            with session.get(url, **options) as response:
                chunks = filter(None, response.iter_content(CHUNK_BYTES))
                for item in itertools.chain([response], chunks, [None]):
                    items.put(item)
                    if closed.is_set():
                        return
    except Exception as error:
        items.put(classified(error, url) if isinstance(error, NETWORK_ERRORS) else error)


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
            "unsafe and not followed; use another --source.",
            reason=f"it redirects from {schemes[0]} to {schemes[1]}, which is unsafe",
        )
