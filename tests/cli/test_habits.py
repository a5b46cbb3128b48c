"""What people expect of any command: completion, help with examples, ``python -m``, types."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from movinet_convert.cli.app import main
from movinet_convert.parity.options import MAX_TOLERANCES, MIN_FRAMES, MIN_SIZE, TOLERANCES


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completion_script_is_printed(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MOVINET_CONVERT_COMPLETE", f"{shell}_source")
    result = CliRunner().invoke(main, prog_name="movinet-convert")
    assert "_MOVINET_CONVERT_COMPLETE" in result.output


def test_completion_lists_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MOVINET_CONVERT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "movinet-convert pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    result = CliRunner().invoke(main, prog_name="movinet-convert")
    assert result.output.strip() == "plain,predict"


@pytest.mark.parametrize("command", [None, *sorted(main.commands)])
def test_every_help_page_shows_an_example(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    result = CliRunner().invoke(main, arguments, prog_name="movinet-convert")
    assert "Example" in result.output
    assert "  movinet-convert " in result.output or ": movinet-convert " in result.output


def test_python_dash_m_runs_the_command() -> None:
    command = [sys.executable, "-m", "movinet_convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, movinet_convert.cli.app; "
        "heavy = {'torch', 'numpy', 'rich.console', 'pydantic', 'requests'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from movinet_convert.cli.app import main; "
        f"main(['list', '--weights-dir', {str(tmp_path)!r}], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_states_the_limits_of_a_comparison() -> None:
    text = " ".join(CliRunner().invoke(main, ["verify", "--help"]).output.split())
    assert f"at least {MIN_FRAMES};" in text
    assert f"at least {MIN_SIZE}x{MIN_SIZE};" in text
    limits = f"{TOLERANCES['float32']:g} for float32, at most {MAX_TOLERANCES['float32']:g}."
    assert limits in text


def test_the_package_is_typed() -> None:
    assert (resources.files("movinet_convert") / "py.typed").is_file()


@pytest.mark.parametrize("name", ["A0-Stream", "a0_stream", "a0stream", "movinet_a0_stream"])
def test_another_spelling_of_a_name_is_told_the_right_one(name: str) -> None:
    for command in (["verify", name], ["inspect", name], ["fetch", name]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2
        assert f"There is no MoViNet variant {name!r} (did you mean a0-stream?)" in result.stderr


def test_an_architecture_alone_is_told_both_modes() -> None:
    stderr = CliRunner().invoke(main, ["verify", "a3"]).stderr
    assert "did you mean a3-base or a3-stream?" in stderr
    assert "did you mean" not in CliRunner().invoke(main, ["verify", "a9-base"]).stderr


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["a0-stream"], "movinet-convert --arch a0 --causal;"),
        (["A2_base", "--out", "x"], "movinet-convert --arch a2;"),
        (["convert", "a0-stream"], "movinet-convert --arch a0 --causal;"),
    ],
)
def test_a_name_in_place_of_a_command_is_told_how_to_convert_it(
    arguments: list[str], advice: str
) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert f"No such command {arguments[0]!r}." in result.stderr
    assert advice in " ".join(result.stderr.split())


def test_architectures_are_taken_in_capitals() -> None:
    result = CliRunner().invoke(main, ["--arch", "A0", "--gating", "keras"])
    assert "a0-base is a base model" in result.stderr
