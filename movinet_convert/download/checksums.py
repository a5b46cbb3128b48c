"""The checksums that Google's storage sends with an object, in the header ``x-goog-hash``.

They are of the object as stored (https://cloud.google.com/storage/docs/xml-api/reference-headers).
A server that decompresses an object for the client still sends those of the compressed one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import google_crc32c

CHUNK_BYTES = 1 << 20
KNOWN = ("crc32c", "md5")


def announced(headers: Mapping[str, str]) -> str:
    """The header's value if it is of the bytes as received, else ''."""
    encodings = (headers.get("Content-Encoding"), headers.get("x-goog-stored-content-encoding"))
    if any(encoding and encoding.lower() != "identity" for encoding in encodings):
        return ""
    return headers.get("x-goog-hash", "")


def match(path: Path, checksums: str) -> bool:
    """Whether a file has all of the checksums that are of a known kind."""
    pairs = (item.strip().partition("=") for item in checksums.split(","))
    expected = {(kind.lower(), value) for kind, _, value in pairs if kind.lower() in KNOWN}
    if not expected:
        return True
    crc, md5 = google_crc32c.Checksum(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc.update(chunk)
            md5.update(chunk)
    found = {"crc32c": crc.digest(), "md5": md5.digest()}
    return all(base64.b64encode(found[kind]).decode() == value for kind, value in expected)
