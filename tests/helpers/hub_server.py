"""A server on the loopback interface that plays the Hugging Face Hub for ``huggingface_hub`` 2.4.

It serves ``hub_repositories`` with the headers that ``file_download.py`` and ``utils/_http.py`` of
the client read. Large files are redirected to a host of another name, as to a CDN: the client must
not send its token there.
"""

from __future__ import annotations

import http.server
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.helpers.hub_repositories import BRANCH, Hub, HubError
from tests.helpers.serving import serving

TOKEN = "hf_of_the_tests"

REPOSITORY = r"(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
OID = r"(?P<oid>[0-9a-f]{64})"
ROUTES: dict[str, Callable[..., Any]] = {
    "POST /api/repos/create": Hub.create,
    "POST /api/validate-yaml": Hub.validate,
    f"GET /api/models/{REPOSITORY}/revision/{REVISION}": Hub.info,
    f"GET /api/models/{REPOSITORY}/tree/{REVISION}": Hub.listing,
    f"GET /api/models/{REPOSITORY}": lambda hub, name: hub.info(name, BRANCH),
    f"POST /api/models/{REPOSITORY}/preupload/{REVISION}": Hub.preupload,
    f"POST /api/models/{REPOSITORY}/commit/{REVISION}": Hub.commit,
    rf"POST /{REPOSITORY}\.git/info/lfs/objects/batch": Hub.batch,
    f"POST /lfs/{OID}/complete": Hub.complete,
    f"POST /lfs/{OID}/verify": Hub.verify,
}
RESOLVE = re.compile(f"/{REPOSITORY}/resolve/{REVISION}/(?P<path>.+)")
STORED = re.compile(r"/(lfs|cdn)/(?P<oid>[0-9a-f]{64})(/(?P<part>[0-9]+))?")


class HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def _answer(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {unquote(path)}")
            try:
                self._refuse()
                self._route(path, body)
            except HubError as error:
                self._send_error(error)

    def _refuse(self) -> None:
        for part, status in self.hub.refuse.items():
            if part in self.hub.requests[-1]:
                raise HubError(status, "Refused by the test")
        writes = self.command in ("POST", "PUT") and not self.path.startswith("/lfs/")
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HubError(401, "Invalid credentials in Authorization header")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _route(self, path: str, body: bytes) -> None:
        if stored := STORED.fullmatch(path):
            self._stored(stored["oid"], stored["part"], body)
        elif (found := RESOLVE.fullmatch(path)) and self.command in ("GET", "HEAD"):
            self._resolve(**{key: unquote(value) for key, value in found.groupdict().items()})
        else:
            for route, answer in ROUTES.items():
                if found := re.fullmatch(route, f"{self.command} {path}"):
                    self._send_json(self._called(answer, found.groupdict(), body))
                    return
            raise HubError(404, f"The server of the tests has no {self.command} {path}")

    def _called(self, answer: Callable[..., Any], given: dict[str, str], body: bytes) -> Any:
        arguments: dict[str, Any] = {key: unquote(value) for key, value in given.items()}
        wanted = inspect.signature(answer).parameters
        if "body" in wanted:
            arguments["body"] = json.loads(body)
        if "lines" in wanted:
            assert self.headers["Content-Type"] == "application/x-ndjson"
            arguments["lines"] = [json.loads(line) for line in body.splitlines()]
        return answer(self.hub, **arguments)

    def _stored(self, oid: str, part: str | None, body: bytes) -> None:
        """An object of large files: uploaded, or downloaded as from a CDN."""
        assert "Authorization" not in self.headers, "the token was sent to the storage host"
        if self.command == "PUT":
            self.hub.receive(f"{oid}.{part}" if part else oid, body)
            self._send(200, b"", {"ETag": f'"{oid}-{part}"'})
        else:
            self._send_range((self.hub.objects / oid).read_bytes(), {"ETag": f'"{oid}"'})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.hub.repository(name)
        content, commit = repository.content(path, revision), repository.resolve(revision)
        entry = repository.tree(commit)[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if entry["lfs"] is None:
            self._send_range(content, headers)
            return
        headers["X-Linked-Etag"] = f'"{entry["lfs"]}"'
        headers["X-Linked-Size"] = str(entry["size"])
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self._send(302, b"", {**headers, "Location": f"{elsewhere}/cdn/{entry['lfs']}"})

    def _send_range(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content, headers)
            return
        start = int(asked[1])
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], {**headers, "Content-Range": span})

    def _send_json(self, data: Any, status: int = 200, **headers: str) -> None:
        text = json.dumps(data).encode()
        self._send(status, text, {"Content-Type": "application/json", **headers})

    def _send_error(self, error: HubError) -> None:
        text = str(error)
        data = json.loads(text) if text.startswith("{") else {"error": text}
        headers = {"X-Error-Message": HTTPStatus(error.status).phrase}
        if error.code:
            headers["X-Error-Code"] = error.code
        if error.commit:
            headers["X-Repo-Commit"] = error.commit
        self._send_json(data, error.status, **headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve_hub(folder: Path) -> Iterator[Hub]:
    """Serve the repositories in ``folder``."""
    hub = Hub(folder)
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield hub


@contextmanager
def as_the_hub(hub: Hub, cache: Path, token: str | None = TOKEN) -> Iterator[None]:
    """Let ``huggingface_hub``, which reads its environment when imported, use the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        if token is None:
            patch.delenv("HF_TOKEN", raising=False)
        else:
            patch.setenv("HF_TOKEN", token)
        yield
