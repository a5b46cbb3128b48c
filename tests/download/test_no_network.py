"""Without a network, or with a proxy that does not work: what is tried, said and advised."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
import requests
from click.testing import CliRunner

from movinet_convert import variants
from movinet_convert.cli.app import main
from movinet_convert.download import request as request_module
from movinet_convert.download.failures import TransientError, classified
from movinet_convert.errors import DownloadError
from tests.download.fetching import BODY, NOWHERE, SHORT_LIMITS, fetch_from
from tests.helpers import fetch_server as servers

GARDEN, KAGGLE = "garden.invalid", "kaggle.invalid"
FIVE_ATTEMPTS = replace(SHORT_LIMITS, attempts=5)
FOR_NOW = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
Resolver = Callable[[socket.gaierror], list[str]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Makes every name but that of this machine unresolved; the names asked for."""
    monkeypatch.setattr(variants, "MODEL_GARDEN_ROOT", f"http://{GARDEN}")
    monkeypatch.setattr(variants, "KAGGLE_ROOT", f"http://{KAGGLE}")
    resolve = socket.getaddrinfo

    def failing_with(error: socket.gaierror) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, *more: object, **options: object) -> object:
            if host == "127.0.0.1":
                return resolve(host, *more, **options)  # type: ignore[arg-type]
            asked.append(host)
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return failing_with


def failure(source: str = "auto", **options: object) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        fetch_from(source, limits=FIVE_ATTEMPTS, **options)
    return caught.value


@pytest.mark.parametrize(
    ("error", "names"), [(UNKNOWN, [GARDEN, KAGGLE]), (FOR_NOW, [GARDEN, KAGGLE, KAGGLE])]
)
def test_both_sources_are_tried_and_the_sentence_says_that_there_is_no_network(
    error: socket.gaierror, names: list[str], resolver: Resolver
) -> None:
    asked = resolver(error)
    said: list[str] = []
    message = str(failure(notice=said.append))
    assert asked == names
    assert message.startswith("a0-base could not be downloaded, as there seems to be no network (")
    assert all(word in message for word in (GARDEN, KAGGLE, "--offline", "--source DIR"))
    assert "\n" not in message
    assert said[0] == f"a0-base: downloading from Model Garden at {GARDEN}."
    assert f"downloading from Kaggle, version 3 at {KAGGLE} (Model Garden failed: " in said[1]
    assert len(said) == len(names)
    assert all("trying again in 0 s (attempt 2 of 2)" in retry for retry in said[2:])


def test_a_name_is_not_tried_again_after_a_slow_answer(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "SYSTEM_RETRY_SECONDS", 0.0)
    asked = resolver(FOR_NOW)
    assert failure().no_network
    assert asked == [GARDEN, KAGGLE]


def test_later_releases_of_a_run_are_tried_once(resolver: Resolver) -> None:
    asked = resolver(FOR_NOW)
    failing: dict[str, str] = {}
    failure(failing=failing)
    asked.clear()
    failure(failing=failing)
    assert asked == [GARDEN, KAGGLE]


@pytest.mark.parametrize("source", ["model-garden", "kaggle"])
def test_a_named_official_source_gives_the_same_advice(source: str, resolver: Resolver) -> None:
    resolver(UNKNOWN)
    assert "there seems to be no network" in str(failure(source))


def test_an_unknown_mirror_does_not_mean_no_network(resolver: Resolver) -> None:
    resolver(UNKNOWN)
    message = str(failure("http://mirror.invalid"))
    assert "the name mirror.invalid cannot be resolved" in message
    assert "no network" not in message


def test_an_answer_of_one_source_means_a_network(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(UNKNOWN)
    with servers.serve(BODY, servers.status(410)) as server:
        monkeypatch.setattr(variants, "KAGGLE_ROOT", server.root)
        message = str(failure())
    assert "could not be downloaded from any official source" in message
    assert "410 Gone" in message


def test_a_redirect_to_an_unknown_host_means_a_network(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(UNKNOWN)
    with servers.serve(b"", servers.redirect("http://storage.invalid/x")) as server:
        monkeypatch.setattr(variants, "KAGGLE_ROOT", server.root)
        message = str(failure())
    assert "could not be downloaded from any official source" in message
    assert "the name storage.invalid cannot be resolved" in message


def test_command_goes_on_without_a_network_and_names_each(resolver: Resolver) -> None:
    resolver(UNKNOWN)
    done = CliRunner().invoke(main, ["fetch", "a0-base", "a0-stream"])
    assert done.exit_code == 1
    assert done.stderr.count("there seems to be no network") == 2
    assert "Error: 2 of 2 releases could not be fetched: a0-base, a0-stream." in done.stderr


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        (NOWHERE, f"the proxy {NOWHERE} cannot be used: Connection refused, after 2 attempts"),
        ("http://u:secret@p.invalid:8", "the proxy http://p.invalid:8 cannot be used: Name or"),
    ],
)
def test_a_proxy_that_does_not_work_is_named(
    proxy: str, reason: str, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(UNKNOWN)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    message = str(failure())
    assert reason in message
    assert "no network" not in message
    assert "secret" not in message


def test_refusal_of_a_proxy_is_quoted(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(UNKNOWN)
    with servers.serve(b"", servers.whole) as proxy:  # which has no CONNECT: 501
        address = proxy.root.removesuffix("/models")
        monkeypatch.setenv("https_proxy", address)
        message = str(failure("https://mirror.invalid"))
    assert f"the proxy {address} cannot be used: Tunnel connection failed: 501" in message


def test_a_host_that_does_not_answer_is_unreachable() -> None:
    error = requests.exceptions.ConnectTimeout(TimeoutError("timed out"))
    problem = classified(error, "https://host.invalid/x")
    assert isinstance(problem, TransientError)
    assert (problem.unreachable, problem.no_network) == (True, True)
    assert problem.reason == "host.invalid does not answer"


def test_login_of_a_network_has_its_sentence() -> None:
    with servers.serve(BODY, servers.status(511)) as server:
        message = str(failure(server.root))
    assert "this network asks for a login: 511" in message
    assert "log in with a browser" in message
