"""Serve the page on this machine, without a request to any other host."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from movinet_convert.errors import UsageError
from movinet_convert.video.demo.page import Limits, launch_settings

LOCAL = ("127.0.0.1", "localhost")
GRACE_SECONDS = 1  # to finish requests at the end
PROXIES = ("NO_PROXY", "no_proxy")


@contextmanager
def serving(
    page: Any, limits: Limits, host: str = LOCAL[0], port: int | None = None, *, browser: bool
) -> Iterator[str]:
    """Serve ``page`` in other threads while the block runs; yields its address.

    ``port`` None is the first free one from 7860 on; ``browser`` opens the page in a browser.
    Raises UsageError if the host or the port cannot be used.
    """
    settings = launch_settings(limits)
    where = f"{host}:{port}" if port is not None else host
    try:
        _check_address(host, port or 0)  # Gradio would try a wrong host with a hundred ports
        with _without_proxy(host):
            page.launch(
                server_name=host,
                server_port=port,
                inbrowser=browser,
                prevent_thread_lock=True,
                **settings,
            )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The page cannot be served at {where} ({getattr(error, 'strerror', None) or error}); "
            "choose another with --host and --port."
        ) from None
    try:
        yield str(page.local_url)
    finally:
        _close(page)


def _check_address(host: str, port: int) -> None:
    """Raise OSError unless this machine can serve at the address; port 0 is any."""
    (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after an earlier page
        tried.bind(address)


def _close(page: Any) -> None:
    """Stop serving, and delete the uploads; pages that are still open are cut off, silently."""
    log = logging.getLogger("uvicorn.error")
    before = log.level
    log.setLevel(logging.CRITICAL)
    page.server.config.timeout_graceful_shutdown = GRACE_SECONDS
    page.close(verbose=False)
    log.setLevel(before)


@contextmanager
def _without_proxy(host: str) -> Iterator[None]:
    """Gradio asks its own server whether it runs, for which it would use a proxy."""
    before = {name: os.environ.get(name) for name in PROXIES}
    for name, value in before.items():
        os.environ[name] = ",".join(filter(None, (value, *LOCAL, host)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
