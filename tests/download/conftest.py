"""Isolation from the user's proxies, settings and cache; a certificate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download.fetching import Mirror, kaggle


@pytest.fixture(autouse=True)
def _no_proxy_and_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "requests_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("MOVINET_SOURCE", "MOVINET_SOURCE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=["mirror", "kaggle"])
def fetch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Fetches from a mirror, and by way of Kaggle's redirect to another host."""
    if request.param == "mirror":
        yield Mirror()
    else:
        with kaggle(monkeypatch) as from_kaggle:
            yield from_kaggle


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="package")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with the openssl command")
    folder = tmp_path_factory.mktemp("certificate")
    key, signed, both = folder / "key.pem", folder / "signed.pem", folder / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    target = ["-keyout", str(key), "-out", str(signed)]
    subprocess.run([*command.split(), *names, *target], check=True, capture_output=True)
    both.write_text(key.read_text() + signed.read_text())
    return both
