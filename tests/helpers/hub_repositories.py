"""Repositories like those of the Hugging Face Hub, in a folder; ``hub_server`` serves them.

Of each repository the commits, with the files of each, and the contents by digest. Requests and
answers have the form that the source of ``huggingface_hub`` 2.4 expects: ``hf_api.py`` (creation,
information, trees, validation of cards), ``_commit_api.py`` (preupload, commit) and ``lfs.py``
(batches, parts). Storage by Xet is not offered.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

BRANCH = "main"
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
REGULAR_BYTES = 10_000_000  # larger files are kept as LFS objects, as are binary ones

Entry = dict[str, Any]  # of a file in a commit: oid, size, lfs
Tree = dict[str, Entry]


class HubError(Exception):
    """An answer other than success; ``code`` is that of the header X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


def blob_oid(content: bytes) -> str:
    """git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A model repository in a folder."""

    folder: Path
    objects: Path

    @property
    def head(self) -> str:
        return (self.folder / "refs" / BRANCH).read_text()

    def commits(self) -> list[str]:
        """Summaries, the oldest first."""
        return [json.loads(path.read_text())["summary"] for path in self._in_order()]

    def _in_order(self) -> list[Path]:
        return sorted(self.folder.glob("commits/*"), key=lambda p: json.loads(p.read_text())["n"])

    def resolve(self, revision: str) -> str:
        """The commit of a branch or of a commit's own name."""
        if revision == BRANCH:
            return self.head
        if (self.folder / "commits" / revision).is_file():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, revision: str = BRANCH) -> Tree:
        text = (self.folder / "commits" / self.resolve(revision)).read_text()
        tree: Tree = json.loads(text)["tree"]
        return tree

    def commit(self, summary: str, tree: Tree) -> str:
        number = len(list((self.folder / "commits").iterdir()))
        text = json.dumps({"n": number, "summary": summary, "tree": tree})
        oid = hashlib.sha1(text.encode()).hexdigest()
        (self.folder / "commits" / oid).write_text(text)
        (self.folder / "refs" / BRANCH).write_text(oid)
        return oid

    def content(self, path: str, revision: str = BRANCH) -> bytes:
        commit = self.resolve(revision)
        entry = self.tree(commit).get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", commit)
        return (self.objects / (entry["lfs"] or entry["oid"])).read_bytes()


@dataclass
class Hub:
    """The repositories in ``folder``, and what was asked of them.

    ``refuse`` maps a part of a request, ``"METHOD /path"``, to the status of its answer.
    ``part_bytes`` splits uploads into parts of so many bytes.
    """

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    part_bytes: int | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def objects(self) -> Path:
        return self.folder / "objects"

    def repository(self, name: str) -> Repository:
        folder = self.folder / "models" / name
        if not folder.is_dir():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return Repository(folder, self.objects)

    def store(self, content: bytes, name: str) -> None:
        self.objects.mkdir(parents=True, exist_ok=True)
        (self.objects / name).write_bytes(content)

    # What a request asks for, by method and path

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"{body['organization']}/{body['name']}"
        folder = self.folder / "models" / name
        answer = {"url": f"{self.url}/{name}", "name": name}
        if folder.is_dir():
            raise HubError(409, json.dumps({"error": "You already created this repo", **answer}))
        for part in ("commits", "refs"):
            (folder / part).mkdir(parents=True)
        oid = blob_oid(GIT_ATTRIBUTES)
        self.store(GIT_ATTRIBUTES, oid)
        entry = {"oid": oid, "size": len(GIT_ATTRIBUTES), "lfs": None}
        Repository(folder, self.objects).commit("initial commit", {".gitattributes": entry})
        return answer

    def info(self, name: str, revision: str) -> dict[str, Any]:
        repository = self.repository(name)
        commit = repository.resolve(revision)
        files = [{"rfilename": path} for path in repository.tree(commit)]
        return {"id": name, "modelId": name, "sha": commit, "private": False, "siblings": files}

    def listing(self, name: str, revision: str) -> list[dict[str, Any]]:
        return [
            {
                "type": "file",
                "path": path,
                "oid": entry["oid"],
                "size": entry["size"],
                **({"lfs": lfs(entry)} if entry["lfs"] else {}),
            }
            for path, entry in self.repository(name).tree(revision).items()
        ]

    def preupload(self, name: str, revision: str, body: dict[str, Any]) -> dict[str, Any]:
        tree = self.repository(name).tree(revision)
        files = []
        for file in body["files"]:
            sample, entry = base64.b64decode(file["sample"]), tree.get(file["path"])
            large = file["size"] > REGULAR_BYTES or b"\0" in sample
            answer = {
                "path": file["path"],
                "uploadMode": "lfs"
                if large or file["path"].endswith(".safetensors")
                else "regular",
                "shouldIgnore": False,
            }
            if entry is not None:
                answer["oid"] = entry["lfs"] or entry["oid"]
            files.append(answer)
        return {"files": files}

    def batch(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.repository(name)
        assert body["operation"] == "upload"
        assert body["hash_algo"] == "sha256"
        return {
            "transfer": "basic",
            "objects": [self._upload(wanted) for wanted in body["objects"]],
        }

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size = wanted["oid"], wanted["size"]
        assert re.fullmatch("[0-9a-f]{64}", oid)
        if (self.objects / oid).is_file():
            return {"oid": oid, "size": size}
        upload: dict[str, Any] = {"href": f"{self.url}/lfs/{oid}"}
        if self.part_bytes and size > self.part_bytes:
            count = -(-size // self.part_bytes)
            parts = {str(n): f"{self.url}/lfs/{oid}/{n}" for n in range(1, count + 1)}
            upload = {
                "href": f"{self.url}/lfs/{oid}/complete",
                "header": {"chunk_size": str(self.part_bytes), **parts},
            }
        verify = {"href": f"{self.url}/lfs/{oid}/verify"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def complete(self, oid: str, body: dict[str, Any]) -> dict[str, Any]:
        assert body["oid"] == oid
        numbers = [part["partNumber"] for part in body["parts"]]
        assert numbers == sorted(numbers)
        parts = [(self.objects / f"{oid}.{number}").read_bytes() for number in numbers]
        self.receive(oid, b"".join(parts))
        return {}

    def receive(self, name: str, content: bytes) -> None:
        """Keep an uploaded object, or a part of one."""
        if "." not in name and hashlib.sha256(content).hexdigest() != name:
            raise HubError(400, "The content has another sha256")
        self.store(content, name)

    def verify(self, oid: str, body: dict[str, Any]) -> dict[str, Any]:
        if (self.objects / oid).stat().st_size != body["size"]:
            raise HubError(400, "The content has another size")
        return {}

    def commit(self, name: str, revision: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        repository = self.repository(name)
        header = lines[0]["value"]
        assert lines[0]["key"] == "header"
        if header.get("parentCommit", repository.head) != repository.resolve(revision):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = repository.tree()
        for line in lines[1:]:
            value = line["value"]
            tree[value["path"]] = getattr(self, f"_{line['key']}")(value)
        oid = repository.commit(header["summary"], tree)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}

    def _file(self, value: dict[str, Any]) -> Entry:
        assert value["encoding"] == "base64"
        content = base64.b64decode(value["content"], validate=True)
        oid = blob_oid(content)
        self.store(content, oid)
        return {"oid": oid, "size": len(content), "lfs": None}

    def _lfsFile(self, value: dict[str, Any]) -> Entry:  # noqa: N802 - as on the wire
        assert value["algo"] == "sha256"
        if not (self.objects / value["oid"]).is_file():
            raise HubError(400, "The LFS object was not uploaded")
        size = (self.objects / value["oid"]).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\n"
        oid = blob_oid(f"{pointer}size {size}\n".encode())
        return {"oid": oid, "size": size, "lfs": value["oid"]}

    def validate(self, body: dict[str, Any]) -> dict[str, Any]:
        """A card must have metadata that the client's own parser understands."""
        try:
            data = ModelCard(body["content"]).data.to_dict()
        except (ValueError, TypeError) as error:
            errors = {"errors": [{"message": str(error)}], "warnings": []}
            raise HubError(400, json.dumps(errors)) from None
        return {"errors": [], "warnings": [] if data else [{"message": "empty or missing yaml"}]}


def lfs(entry: Entry) -> dict[str, Any]:
    return {"oid": entry["lfs"], "size": entry["size"], "pointerSize": 134}
