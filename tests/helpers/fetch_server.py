"""A web server on the loopback interface that serves one archive and misbehaves as scripted."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import ssl
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.seeded import variables, write_checkpoint
from tests.helpers.serving import serving

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler, bytes], None]


@functools.lru_cache(maxsize=4)
def release_tar(name: str = "a0-base", num_classes: int = 600, seed: int = 0) -> bytes:
    """A seeded checkpoint in the layout of the release."""
    with tempfile.TemporaryDirectory() as folder:
        written = write_checkpoint(Path(folder), name, variables(name, num_classes, seed))
        return tar_of({path.name: path.read_bytes() for path in sorted(written.iterdir())})


def noise_tar(seed: bytes = b"weights", data_bytes: int = 200_000) -> bytes:
    """A small tar with the files of a release, filled with seeded noise."""
    noise = hashlib.shake_256(seed).digest(data_bytes)
    return tar_of(
        {
            "checkpoint": b'model_checkpoint_path: "ckpt-1"\n',
            "ckpt-1.index": noise[:500],
            "ckpt-1.data-00000-of-00001": noise,
        }
    )


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar of files in one folder, padded as the published ones are."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"movinet/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def with_a_flipped_bit(body: bytes) -> bytes:
    """The tar with one bit flipped in the middle, where the weights are."""
    position = len(body) // 2
    return body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]


@dataclass
class ReleaseServer:
    """What is served, and how each request in turn is answered (the last answer repeats)."""

    root: str
    body: bytes
    script: list[Answer]
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serve(body: bytes, *script: Answer, certificate: Path | None = None) -> Iterator[ReleaseServer]:
    """Serve ``body``, by https if there is a ``certificate`` (with its key)."""
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
    with serving(httpd):
        yield server


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
    """Half of the requested bytes, from a server that supports ranges."""
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
    """Half the body, ended by closing the connection, which looks like a complete response."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2 // 512 * 512])


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler, _: bytes) -> None:
        send(handler, code, b"<html>no</html>", headers)

    return answer


def error_page(handler: Handler, _: bytes) -> None:
    """The login page of a hotel's network: status 200 and HTML."""
    send(handler, 200, b"<html>Please log in</html>" * 100, {"Content-Type": "text/html"})


def gzip_encoding(handler: Handler, body: bytes) -> None:
    packed = gzip.compress(body, mtime=0)
    send(handler, 200, packed, {"Content-Encoding": "gzip", "ETag": entity_tag(body)})


def cut_gzip_encoding(handler: Handler, body: bytes) -> None:
    packed = gzip.compress(body, mtime=0)
    headers = {"Content-Encoding": "gzip", "ETag": entity_tag(body)}
    send(handler, 200, packed, headers, cut=len(packed) // 2)


def gzip_file(handler: Handler, body: bytes) -> None:
    """A real gzip file, without a content encoding."""
    send(handler, 200, gzip.compress(body, mtime=0), {})


def gzip_members(handler: Handler, body: bytes) -> None:
    """The same in many members (block gzip), padded with zeros."""
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    send(handler, 200, b"".join(gzip.compress(chunk, mtime=0) for chunk in chunks) + bytes(512), {})


def empty_gzip_members(handler: Handler, _: bytes) -> None:
    send(handler, 200, gzip.compress(b"", mtime=0) * 20_000, {})


def gzip_bomb(handler: Handler, _: bytes) -> None:
    send(handler, 200, gzip.compress(bytes(50_000_000)), {})


def flipped(handler: Handler, body: bytes) -> None:
    """The right length, with one byte of the data changed."""
    send(handler, 200, with_a_flipped_bit(body), {})


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


# Answers to a request for a range, after a first one that was cut


def refusing_ranges(code: int) -> Answer:
    """The whole file where it is requested, an error where a range is."""

    def answer(handler: Handler, body: bytes) -> None:
        if "Range" in handler.headers:
            status(code)(handler, body)
        else:
            with_ranges(handler, body)

    return answer


def rest_of_another_file(**changes: str | None) -> Answer:
    """A 206 with bytes of another file; ``changes`` of its headers, None for one to omit."""

    def answer(handler: Handler, body: bytes) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        headers = {"ETag": entity_tag(body), "Content-Range": span}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        rest = bytes(len(body) - start)
        send(handler, 206, rest, {k: v for k, v in headers.items() if v is not None})

    return answer


def cut_at(size: int, **headers: str) -> Answer:
    """The first ``size`` bytes of the whole file, whatever was requested."""

    def answer(handler: Handler, body: bytes) -> None:
        send(handler, 200, body, headers, cut=len(body) - size)

    return answer


def in_chunks_of(size: int) -> Answer:
    """What is requested, cut after ``size`` bytes."""

    def answer(handler: Handler, body: bytes) -> None:
        asked = handler.headers.get("Range", "bytes=0-")
        left = len(body) - int(asked.removeprefix("bytes=").removesuffix("-"))
        send_range(handler, body, cut=max(0, left - size))

    return answer


# Answers that never end


def endless(start: bytes, again: bytes, pause: float = 0.01) -> Answer:
    """``start``, and then ``again`` repeatedly until the client disconnects."""

    def answer(handler: Handler, _: bytes) -> None:
        gone = threading.Event()
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while not gone.wait(pause):
                handler.wfile.write(again)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"
# One byte now and then of the headers, the body, the length of a chunk; and at full speed a body
# that decompresses to nothing: a gzip stream of empty blocks (RFC 1951, section 3.2.4).
slow_head = endless(HEAD + b"X: ", b"x")
slow_body = endless(HEAD + b"Content-Length: 100000\r\n\r\n", b"x")
slow_chunk = endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x")
empty_body = endless(
    HEAD + b"Content-Encoding: gzip\r\n\r\n" + b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    b"\0\0\0\xff\xff" * 1000,
    pause=0.0,
)


def redirect_with_endless_body(location: str) -> Answer:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: {1 << 40}\r\n\r\n"
    return endless(head.encode(), bytes(1 << 20), pause=0.0)
