"""The message for a missing extra names a command that works where the package came from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from movinet_convert.cli.app import main
from movinet_convert.files import extras

GIT = {"url": "https://example.org/movinet.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
WHEEL = {"url": "https://example.org/movinet_convert-1-py3-none-any.whl", "archive_info": {}}


@pytest.fixture
def installed_from(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(shutil, "which", lambda _: str(Path(sys.executable).with_name("pip")))

    def install(origin: object) -> None:
        text = None if origin is None else json.dumps(origin)
        package = SimpleNamespace(read_text=lambda _: text)
        monkeypatch.setattr(extras, "distribution", lambda _: package)

    return install


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'movinet-convert[video]'"),
        ("damaged", "pip install 'movinet-convert[video]'"),
        (WHEEL, f"pip install 'movinet-convert[video] @ {WHEEL['url']}'"),
        (GIT, f"pip install 'movinet-convert[video] @ git+{GIT['url']}@ab12'"),
        (
            GIT | {"vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "ab12"}},
            f"pip install 'movinet-convert[video] @ git+{GIT['url']}@main'",
        ),
    ],
)
def test_the_command_installs_from_where_the_package_came(
    origin: object, expected: str, installed_from: object
) -> None:
    installed_from(origin)
    assert extras.install_command("video") == expected


@pytest.mark.parametrize("editable", [True, False])
def test_a_folder_is_installed_again_with_its_constraints(
    editable: bool, installed_from: object, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "constraints.txt").touch()
    installed_from({"url": folder.as_uri(), "dir_info": {"editable": editable}})
    flag = "-e " if editable else ""
    constraints = f"-c '{folder}/constraints.txt' "
    assert extras.install_command("tf") == f"pip install {constraints}{flag}'{folder}[tf]'"
    assert extras.install_command("litert") == f"pip install {flag}'{folder}[litert]'"
    assert "in an environment of its own" in str(extras.missing_extra("It", "litert"))


def test_a_folder_that_is_gone_is_not_named(installed_from: object, tmp_path: Path) -> None:
    installed_from({"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    message = str(extras.missing_extra("It", "video"))
    assert "with pip install '.[video]' in a clone of the repository." in message


def test_another_environments_pip_is_not_used(
    installed_from: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_from(None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/pip")
    assert extras.install_command("tf").startswith(f"{sys.executable} -m pip install ")


def test_without_tensorflow_a_conversion_says_how_to_go_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    result = CliRunner().invoke(main, ["--arch", "a0", "--checkpoint", "does-not-exist"])
    assert result.exit_code == 1
    assert "needs the extra [tf]; install it with pip install " in result.stderr.replace(
        f"{sys.executable} -m pip", "pip"
    )
    assert result.stderr.endswith("or convert without the comparison: --no-verify.\n")
