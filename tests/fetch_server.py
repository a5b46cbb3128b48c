"""A web server on the loopback that serves one archive, and misbehaves as a script tells it."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler, bytes], None]


def release_tar(seed: bytes = b"weights", data_bytes: int = 200_000) -> bytes:
    """A tar with the files of a release and seeded content, padded as the published ones are."""
    noise = hashlib.shake_256(seed).digest(data_bytes)
    files = {
        "checkpoint": b'model_checkpoint_path: "ckpt-1"\n',
        "ckpt-1.index": noise[:500],
        "ckpt-1.data-00000-of-00001": noise,
    }
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"movinet/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


@dataclass
class ReleaseServer:
    """What is served, how each request in turn is answered (the last answer repeats)."""

    root: str
    body: bytes
    script: list[Answer]
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serve(body: bytes, *script: Answer, certificate: Path | None = None) -> Iterator[ReleaseServer]:
    """Serve ``body`` for a while, by https if there is a ``certificate`` (with its key)."""
    lock = threading.Lock()

    class ScriptedHandler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                server.requests.append(dict(self.headers))
                server.paths.append(self.path)
                answer = server.script[min(len(server.paths), len(server.script)) - 1]
            self.close_connection = True
            answer(self, server.body)

        def log_message(self, *_: object) -> None:
            """Keep the test output clean."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ScriptedHandler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    server = ReleaseServer(f"{scheme}://127.0.0.1:{httpd.server_port}/models", body, list(script))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def send(handler: Handler, status: int, body: bytes, headers: dict[str, str], cut: int = 0) -> None:
    """A response whose body lacks its last ``cut`` bytes."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) - cut])


def whole(handler: Handler, body: bytes) -> None:
    send(handler, 200, body, {})


def with_ranges(handler: Handler, body: bytes) -> None:
    send_range(handler, body, cut=0)


def cut_with_ranges(handler: Handler, body: bytes) -> None:
    """Half of what was asked for, from a server that knows ranges."""
    send_range(handler, body, cut=len(body) // 2)


def send_range(handler: Handler, body: bytes, cut: int, tag: str | None = None) -> None:
    tag = tag or entity_tag(body)
    asked = handler.headers.get("Range", "")
    if asked and handler.headers.get("If-Range") == tag:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(handler, 206, body[start:], {"ETag": tag, "Content-Range": span}, cut)
    else:
        send(handler, 200, body, {"ETag": tag}, cut)


def entity_tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def cut_without_ranges(handler: Handler, body: bytes) -> None:
    send(handler, 200, body, {}, cut=len(body) // 2)


def cut_without_length(handler: Handler, body: bytes) -> None:
    """Half the body, ended by closing the connection: nothing on the wire tells."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2 // 512 * 512])


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler, _: bytes) -> None:
        send(handler, code, b"<html>no</html>", headers)

    return answer


def error_page(handler: Handler, _: bytes) -> None:
    """What a hotel's network answers instead of the server: 200 and a page."""
    send(handler, 200, b"<html>Please log in</html>" * 100, {"Content-Type": "text/html"})


def gzip_encoding(handler: Handler, body: bytes) -> None:
    packed = gzip.compress(body, mtime=0)
    send(handler, 200, packed, {"Content-Encoding": "gzip", "ETag": entity_tag(body)})


def cut_gzip_encoding(handler: Handler, body: bytes) -> None:
    packed = gzip.compress(body, mtime=0)
    headers = {"Content-Encoding": "gzip", "ETag": entity_tag(body)}
    send(handler, 200, packed, headers, cut=len(packed) // 2)


def gzip_file(handler: Handler, body: bytes) -> None:
    """A gzip file without a content encoding: somebody packed the tar for real."""
    send(handler, 200, gzip.compress(body, mtime=0), {})


def gzip_bomb(handler: Handler, _: bytes) -> None:
    send(handler, 200, gzip.compress(bytes(50_000_000)), {})


def flipped(handler: Handler, body: bytes) -> None:
    """The right length, with one byte of the data changed."""
    position = len(body) // 2
    changed = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
    send(handler, 200, changed, {})


def stalled(release: threading.Event) -> Answer:
    """Some bytes, then silence until ``release`` is set."""

    def answer(handler: Handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:1000])
        handler.wfile.flush()
        release.wait(30)

    return answer


def redirect(location: str) -> Answer:
    return status(302, Location=location)
