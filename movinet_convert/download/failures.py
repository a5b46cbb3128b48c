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
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})

CHECK_NETWORK = "check the network and the proxy settings"
NO_NETWORK = (
    "connect this machine, or do without: --source DIR takes the released archives from a folder, "
    "--offline those in the cache, and a conversion with --synthetic needs no download"
)
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
    511: ("this network asks for a login", "log in with a browser"),
}
FAILING = ("the server failed", "try again later")


@dataclass(eq=False)
class TransientError(Exception):
    """A failure that is worth another attempt.

    ``wait``: seconds that the server asked for. ``attempts``: the number to give up after, if lower
    than usual. ``range_refused``: the next attempt must request the whole file. ``expired``: a
    server refused the signed address that it was redirected to; a new redirect has a new signature.
    ``unreachable``: no connection was made. ``no_network``: as of ``DownloadError``.
    """

    reason: str
    advice: str = CHECK_NETWORK
    wait: float = 0.0
    attempts: int | None = None
    range_refused: bool = False
    expired: bool = False
    unreachable: bool = False
    no_network: bool = False


def failed(
    url: str, reason: str, advice: str = CHECK_NETWORK, *, no_network: bool = False
) -> DownloadError:
    return DownloadError(
        f"{shown(url)} could not be downloaded ({reason}); {advice}, use another --source, or "
        "download the file yourself and pass it with --checkpoint.",
        reason=reason,
        no_network=no_network,
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
    requested = getattr(getattr(error, "request", None), "url", None) or url
    host = urlsplit(requested).hostname
    redirected = host != urlsplit(url).hostname  # by a host that answered
    unresolved = isinstance(inner, socket.gaierror)
    unknown_name = unresolved and getattr(inner, "errno", None) != socket.EAI_AGAIN
    if isinstance(error, requests.exceptions.ProxyError):
        # A proxy's refusal is an OSError without a number: "Tunnel connection failed: 407 ..."
        system = system if getattr(inner, "strerror", None) else shortened(str(inner) or BROKEN)
        reason = f"{_proxy(requested)} cannot be used: {system}"
        return failed(url, reason) if unknown_name else TransientError(reason, unreachable=True)
    if unresolved:
        reason = f"the name {host} cannot be resolved: {system}"
        if unknown_name:
            return failed(url, reason, no_network=not redirected)
        return TransientError(reason, unreachable=True, no_network=not redirected)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        reason = f"{host} does not answer"
        return TransientError(reason, unreachable=True, no_network=not redirected)
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
    number = getattr(inner, "errno", None)
    no_route = number in NO_ROUTE
    unreachable = no_route or number == errno.ECONNREFUSED
    no_network = no_route and not redirected
    return TransientError(system, unreachable=unreachable, no_network=no_network)


def _proxy(url: str) -> str:
    """The proxy that requests took from the environment for a URL."""
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    return f"the proxy {shown(proxy)}" if proxy else "the proxy"


def shown(url: str) -> str:
    """The URL without possible secrets: user, password, query and fragment."""
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shortened(plain.geturl())


def shortened(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """External text, truncated for a message."""
    return text if len(text) <= characters else f"{text[:characters]}..."
