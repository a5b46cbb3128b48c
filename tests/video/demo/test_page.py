"""The page in a server, the command, and the Space."""

from __future__ import annotations

import json
import runpy
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import HfApi

from movinet_convert.cli import demo
from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.video.demo.models import Models
from movinet_convert.video.demo.page import Limits, build
from movinet_convert.video.demo.server import serving
from movinet_convert.weights.hub_files import FILE_NAME
from tests.helpers.colour_model import write_colours
from tests.helpers.hub_server import as_the_hub, serve_hub
from tests.video.demo.test_views import printed, rows

pytest.importorskip("gradio", reason="needs gradio, of the extra [demo]")
ROOT = Path(__file__).resolve().parents[3]
SPACE = ROOT / "examples" / "space"


@pytest.fixture(scope="module")
def address(models: Models, tmp_path_factory: pytest.TempPathFactory):
    """The page, served where a proxy is set that answers nothing."""
    limits = Limits(megabytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        with serving(build(models, limits), limits, browser=False) as found:
            patch.setenv("no_proxy", "127.0.0.1,localhost")  # for what the tests ask
            yield found


def test_a_video_that_is_sent_to_the_page_is_classified(
    address: str, models: Models, red_then_blue: Path
) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    for name in ("s", "b"):
        video = handle_file(str(red_then_blue))
        prediction, _ = client.predict(video, name, 0, 0, api_name="/classify")
        assert rows(prediction) == printed(models.titles[name], red_then_blue)


def test_a_video_that_is_too_large_is_refused(address: str, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2 << 20))
    with pytest.raises(Exception, match="413|[Ss]ize|large"):
        Client(address, verbose=False).predict(
            handle_file(str(large)), "s", 0, 0, api_name="/classify"
        )


def test_a_file_that_was_not_sent_to_the_page_is_not_read(
    address: str, red_then_blue: Path
) -> None:
    named = {"path": str(red_then_blue), "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [named, "s", 0, 0]}).encode()
    calls = f"{address}gradio_api/call/classify"
    request = urllib.request.Request(calls, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{calls}/{event}") as answer:
        text = answer.read().decode()
    assert text.startswith("event: error")
    assert "red" not in text


def test_the_page_asks_no_other_host(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        html = answer.read().decode()
    with urllib.request.urlopen(address + "theme.css") as answer:
        css = answer.read().decode()
    for text in (html, css):
        assert "fonts.googleapis" not in text
        assert "cdn" not in text.lower()
    assert "@font-face" not in css
    with pytest.raises(urllib.error.HTTPError, match="403|404"):
        urllib.request.urlopen(address + "monitoring/summary")


def test_uploads_are_deleted_at_the_end_though_a_page_is_open(
    models: Models,
    red_then_blue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from gradio_client import Client, handle_file

    def kept() -> list[str]:
        return [path.name for path in tmp_path.rglob("*") if path.is_file()]

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    limits = Limits()
    with serving(build(models, limits), limits, browser=False) as address:
        client = Client(address, verbose=False)
        client.predict(handle_file(str(red_then_blue)), "s", 0, 0, api_name="/classify")
        page = urllib.request.urlopen(address + "gradio_api/heartbeat/someone")
        assert kept() == [red_then_blue.name]
    page.close()
    assert kept() == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_a_sentence(models: Models) -> None:
    limits = Limits()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match=f"127.0.0.1:{port} \\(Address already in use\\)"),
            serving(build(models, limits), limits, port=port, browser=False),
        ):
            pass


def test_a_host_of_another_machine_is_a_sentence(models: Models) -> None:
    limits = Limits()
    with (
        pytest.raises(UsageError, match=r"served at 192\.0\.2\.1 \(Cannot assign requested"),
        serving(build(models, limits), limits, host="192.0.2.1", browser=False),
    ):
        pass


def test_ctrl_c_ends_the_command_quietly(
    stream_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "sleep", interrupted)
    result = CliRunner().invoke(main, ["demo", str(stream_file), "--no-browser"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("The page is at http://127.0.0.1:")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence", "exit_code"),
    [
        (["missing.safetensors"], "There is no file missing.safetensors.", 1),
        (["missing.onnx"], "There is no file missing.onnx.", 2),
        (["a9-stream"], "a9-stream", 2),
        ([], "has no weights; convert some", 2),
    ],
)
def test_what_is_named_is_checked_before_the_page_is_served(
    arguments: list[str],
    sentence: str,
    exit_code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOVINET_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr("movinet_convert.video.demo.server.serving", None)
    result = CliRunner().invoke(main, ["demo", *arguments, "--no-browser"])
    assert result.exit_code == exit_code, result.output
    assert sentence in result.output


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert "needs the extra [demo]; install it with " in result.output


def test_the_space_shows_a_network_from_the_hub(
    stream_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio_client import Client, handle_file

    video = write_colours(tmp_path / "v.mp4", "green")
    monkeypatch.setenv("MOVINET_DEMO", "hf://people/colours")
    with serve_hub(tmp_path / "hub") as hub, as_the_hub(hub, tmp_path / "cache"):
        HfApi().create_repo("people/colours")
        HfApi().upload_file(
            path_or_fileobj=stream_file, path_in_repo=FILE_NAME, repo_id="people/colours"
        )
        space = runpy.run_path(str(SPACE / "app.py"))
        with serving(space["demo"], space["LIMITS"], browser=False) as address:
            client = Client(address, verbose=False)
            prediction, _ = client.predict(
                handle_file(str(video)), "colours", 0, 0, api_name="/classify"
            )
    assert rows(prediction)[0][0] == "green"


def test_the_space_names_the_gradio_that_is_tested() -> None:
    _, front, _ = (SPACE / "README.md").read_text("utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "gradio"
    assert (SPACE / facts["app_file"]).is_file()
    assert f"gradio=={facts['sdk_version']}" in (ROOT / "constraints.txt").read_text().split()
