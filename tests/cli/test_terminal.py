"""Output to the terminal: the text of others is shown literally, never interpreted."""

from __future__ import annotations

import ast
import errno
import io
import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.table import Table
from rich.text import Text

import movinet_convert
from movinet_convert.cli import terminal
from movinet_convert.cli.app import main
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import printable
from movinet_convert.errors import WeightsError

PACKAGE = Path(movinet_convert.__file__).parent
# What only the module `terminal` may use: each of these writes what it is given.
WRITERS = {
    "click": {"echo", "secho", "echo_via_pager", "get_text_stream"},
    "rich": {"print", "get_console"},
    "rich.console": {"Console"},
    "rich.live": {"Live"},
    "rich.progress": {"Progress", "TextColumn", "track"},
    "rich.status": {"Status"},
    "sys": {"stdout", "__stdout__", "__stderr__"},
}
HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "one-byte introducer": "\x9b2J",
    "line": "good\nError: forged",
    "carriage return": "real\rfake",
    "bidi": "a\u202etxt.exe",
    "isolate": "\u2066x\u2069",
    "line separator": "a\u2028b",
    "surrogate": "a\udc9bb",
    "tag": "a\U000e0041",
    "null": "a\0b",
}
MARKUP = ("[red]x[/red]", "[link=http://x]y[/link]", ":pile_of_poo:")
TEXTS = ("Größe 0 · 跳舞", "\u0645\u06cc\u200c\u062e\u0648", "👩\u200d👩\u200d👧", "12 % \\ [red]")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_control_and_invisible_characters_are_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\\" in shown


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_any_script_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_error_is_one_line_even_if_it_quotes_line_breaks(text: str) -> None:
    @click.command(cls=Command)
    def command() -> None:
        raise WeightsError(f"The label {text} is wrong.")

    result = CliRunner().invoke(command)
    assert result.stderr.endswith("is wrong.\n")
    assert result.stderr[:-1].isprintable()


@pytest.mark.parametrize("text", [*HOSTILE.values(), *MARKUP])
def test_a_table_prints_its_cells_literally(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    out = terminal.console()
    out.print(table, Text(text), text)
    written = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in written)
    if text.startswith(("[", ":")):
        assert written.count(text) >= 3


def test_a_progress_bar_prints_markup_and_escapes_literally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with terminal.progress("[red]x\x1b]0;owned\x07", "{task.fields[seen]}", seen="") as update:
        update(completed=1, seen=":pile_of_poo:[b]")
    written = capsys.readouterr().err
    assert "[red]x\\x1b]0;owned\\x07" in written
    assert ":pile_of_poo:[b]" in written
    assert "\x1b]0;" not in written


def test_bars_and_spinners_are_shown_on_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("bar", total=2) as update, terminal.doing("spinner"):
        update(completed=1)
    assert capsys.readouterr().err == ""


def test_lines_are_printed_above_a_bar_on_the_same_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress("bar"):
        terminal.echo("to a file")
        terminal.echo("a notice", err=True)
    out, err = capsys.readouterr()
    assert out == "to a file\n"
    assert "\x1b[2Ka notice\n" in err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with terminal.doing("spinner"):
        terminal.echo_json({"x": 1})
    out, err = capsys.readouterr()
    assert out == ""
    assert '{"x": 1}\n\x1b[32m' in err, "a line of its own, and the spinner below"
    terminal.echo("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


def test_a_spinner_shows_the_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.doing("Converting") as stage:
        stage("case 1 of 7")
    assert capsys.readouterr().err == "", "on a terminal only"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.doing("Converting") as stage:
        stage("case 2 of 7: \x1b]0;x")
    assert "Converting: case 2 of 7: \\x1b]0;x" in capsys.readouterr().err


def test_characters_outside_the_output_encoding_are_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    terminal.echo("Größe 跳")
    sys.stdout.flush()
    assert raw.getvalue() == "Größe \\u8df3\n".encode("latin-1")


def test_a_full_disk_prints_one_sentence() -> None:
    @click.command(cls=Command)
    def command() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/file.pt2")

    result = CliRunner().invoke(command)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The system could not read or write /x/file.pt2: No space left on device.\n"
    )


def test_debug_can_follow_the_command(tmp_path: Path) -> None:
    arguments = ["verify", "a0-base", "--weights-dir", str(tmp_path)]
    plain = CliRunner().invoke(main, arguments)
    assert isinstance(plain.exception, SystemExit)
    with_debug = CliRunner().invoke(main, [*arguments, "--debug"])
    assert isinstance(with_debug.exception, WeightsError)


def test_list_prints_ascii_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["list", "--json", "--weights-dir", str(tmp_path)])
    assert result.stdout.isascii()


def test_only_the_terminal_module_prints() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path != Path(terminal.__file__)]
    assert [use for path in paths for use in uses_of_writers(path)] == []


def uses_of_writers(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: set[str] = set()
        if isinstance(node, ast.ImportFrom):
            names = WRITERS.get(node.module or "", set()) & {a.name for a in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = WRITERS.get(node.value.id, set()) & {node.attr}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = {"print"} & {node.func.id}
        if isinstance(node, ast.stmt | ast.expr):
            found += [f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}" for name in names]
    return found
