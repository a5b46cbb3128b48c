"""Why a download failed, in one sentence that shows no secret.

Messages of requests and urllib3 quote addresses with their signatures, so none is passed on.
"""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import requests

from movinet_convert.errors import DownloadError

MAX_REDIRECTS = 10
MAX_SHOWN_CHARACTERS = 200  # of text from a server
SILENT = "the server stopped responding"
BROKEN = "the connection was lost, or the response is malformed"
DAMAGED = "the bytes received do not match the checksum that the server sent (x-goog-hash)"
NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})

CHECK_NETWORK = "check the network and the proxy settings"
CHECK_CERTIFICATES = (
    "if a proxy inspects encrypted connections, set $REQUESTS_CA_BUNDLE to its certificate"
)
# The meaning of a status, and what to do.
STATUSES = {
    401: ("the server asks for an account", "check the account"),
    403: ("the server refuses access", "try again later"),
    404: ("the server has no such file", "check the address"),
    410: ("the server has removed the file", "look for a newer version of movinet-convert"),
    429: ("the server accepts no more requests for now", "wait a while"),
}
FAILING = ("the server failed", "try again later")


@dataclass(eq=False)
class TransientError(Exception):
    """A failure that is worth another attempt.

    ``wait``: seconds that the server asked for. ``attempts``: the number to give up after, if lower
    than usual. ``range_refused``: the next attempt must request the whole file. ``expired``: a
    server refused the signed address that it was redirected to; a new redirect has a new signature.
    """

    reason: str
    advice: str = CHECK_NETWORK
    wait: float = 0.0
    attempts: int | None = None
    range_refused: bool = False
    expired: bool = False


def failed(url: str, reason: str, advice: str = CHECK_NETWORK) -> DownloadError:
    return DownloadError(
        f"{shown(url)} could not be downloaded ({reason}); {advice}, use another --source, or "
        "download the file yourself and pass it with --checkpoint.",
        reason=reason,
    )


def status_problem(response: requests.Response) -> tuple[str, str]:
    """What the status of a response means, and what to do."""
    status = response.status_code
    answer = f"{status} {shortened(response.reason or '')}".rstrip()
    if response.history:
        answer += f" from {urlsplit(response.url).hostname}"
    if status in STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        meaning, advice = STATUSES.get(status, FAILING)
        return f"{meaning}: {answer}", advice
    return f"the server answered {answer}", CHECK_NETWORK


def classified(error: Exception, url: str) -> TransientError | DownloadError:
    """Classify an error of the network as transient or final.

    requests wraps urllib3, which wraps the socket's error, each in another attribute. Only the
    innermost system message is shown, and the host, which a redirect may have changed.
    """
    inner: BaseException = error
    while True:
        causes = (getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__)
        following = [cause for cause in causes if isinstance(cause, BaseException)]
        if not following:
            break
        inner = following[0]
    system = shortened(str(getattr(inner, "strerror", None) or BROKEN))
    host = urlsplit(getattr(getattr(error, "request", None), "url", None) or url).hostname
    if isinstance(inner, socket.gaierror):
        reason = f"the name {host} cannot be resolved: {system}"
        # Another attempt may succeed, but a network rarely recovers within seconds.
        again = inner.errno == socket.EAI_AGAIN
        return TransientError(reason, attempts=2) if again else failed(url, reason)
    if isinstance(inner, ssl.SSLCertVerificationError):
        reason = f"the certificate of {host} is not trusted: {shortened(inner.verify_message)}"
        return failed(url, reason, CHECK_CERTIFICATES)
    if isinstance(inner, ssl.SSLError):
        reason = f"no TLS connection to {host}: {system}"
        return TransientError(reason, CHECK_CERTIFICATES, attempts=2)
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return failed(url, f"more than {MAX_REDIRECTS} redirects")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return failed(url, "the URL, or that of the proxy, is invalid or has an unknown scheme")
    if isinstance(inner, TimeoutError) or "timed out" in str(inner).lower():
        return TransientError(SILENT)
    return TransientError(
        system, attempts=2 if getattr(inner, "errno", None) in NO_NETWORK else None
    )


def shown(url: str) -> str:
    """The URL without possible secrets: user, password, query and fragment."""
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """External text, truncated for a message."""
    return text if len(text) <= characters else f"{text[:characters]}..."
