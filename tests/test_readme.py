"""Every block of code in the README runs, as it stands.

Blocks of one language run in order in one place. Where a command would ask the network, its answer
is local: archives of seeded weights, and a pip that finds everything installed.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from movinet_convert import convert
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import KINETICS_600_CLASSES, list_variants
from tests.helpers.colour_model import write_colours
from tests.helpers.seeded import choices, variables, write_checkpoint
from tests.scripts.test_regenerate import write_archive

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("sh", "python")
SHOWN = ("text",)  # pictures made of letters
RELEASES = ("a0-base", "a0-stream")
CHECKS = "bash scripts/check.sh"  # would run these tests again
# The comparison runs at its smallest here; its thoroughness is tested elsewhere.
QUICK = "--frames 3 --size 32x32"
UNCOMPARED = "--no-verify"  # beside a seeded checkpoint, which is compared


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int

    def __str__(self) -> str:
        return f"{self.language}-line-{self.line}"


def blocks() -> list[Block]:
    text = README.read_text("utf-8")
    return [
        Block(match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(text)
    ]


SHELL = [block for block in blocks() if block.language == "sh"]


def test_every_block_says_its_language() -> None:
    assert [block for block in blocks() if block.language not in RUN + SHOWN] == []


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def shims(folder: Path, home: Path) -> None:
    """Commands by the names that the README calls them by, from this environment."""
    python = sys.executable
    quick = (
        f'case "$*" in *--synthetic*|verify*|report*) set -- "$@" {QUICK};; '
        f'--arch*) set -- "$@" {UNCOMPARED};; esac'
    )
    command = f'{quick}\nexec "{python}" -m movinet_convert "$@"'
    environment = 'if [ "${1:-}" = -m ] && [ "${2:-}" = venv ]; then exit 0; fi'
    regenerate = f'case "${{1:-}}" in */regenerate_weights.py) set -- "$@" {QUICK};; esac'
    interpreter = f'{environment}\n{regenerate}\nexec "{python}" "$@"'
    for bin_folder in (folder, home / ".venv" / "bin"):
        script(bin_folder / "movinet-convert", command)
        script(bin_folder / "python", interpreter)
        script(bin_folder / "python3", interpreter)
        script(bin_folder / "torchrun", f'exec "{python}" -m torch.distributed.run "$@"')
        script(bin_folder / "pip", 'echo "pip $*"')


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone of the repository, with the files that the README speaks of."""
    home = tmp_path_factory.mktemp("home")
    for name in ("scripts", "weights_manifest.yaml", "movinet_convert"):
        (home / name).symlink_to(ROOT / name)
    (home / "mirror").mkdir()
    for name in RELEASES:
        write_archive(home / "mirror", name)
    (home / "movinet_a0_stream.tar.gz").symlink_to(home / "mirror" / "movinet_a0_stream.tar.gz")
    arrays = variables("a0-stream", KINETICS_600_CLASSES)
    write_checkpoint(home / "PATH", "a0-stream", arrays)
    for name in ("a0-base", "a0-stream"):
        archive = home / "mirror" / get_variant(name).archive_name
        convert(name, archive, **choices(name), out=home / "store", parity=None)
    write_colours(home / "dance.mp4", "red", "blue")
    for label in ("abseiling", "zumba"):
        write_colours(home / "videos" / label / "one.mp4", "green")
    shims(home / "bin", home)
    return home


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MOVINET_WEIGHTS_DIR": str(home / "store"),
        "MOVINET_CACHE_DIR": str(home / "cache"),
        "MOVINET_SOURCE_ROOT": str(home / "mirror"),
    }


def run(command: list[str], home: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_run(block: Block, home: Path, environment: dict[str, str]) -> None:
    run(["bash", "-euo", "pipefail", "-c", block.code.replace(CHECKS, "true")], home, environment)


def test_python_blocks_run_one_after_another(home: Path, environment: dict[str, str]) -> None:
    code = "\n".join(block.code for block in blocks() if block.language == "python")
    run([sys.executable, "-c", code], home, environment)


def test_the_test_command_is_what_ci_runs() -> None:
    (command,) = (line for block in SHELL for line in block.code.splitlines() if CHECKS in line)
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_table_of_variants_says_what_the_variants_are() -> None:
    text = README.read_text("utf-8")
    for name in list_variants():
        (row,) = (
            line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line
        )
        variant = get_variant(name)
        clip, accuracy = variant.input, variant.accuracy
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == [f"{clip.frames} x {clip.size} x {clip.size}", f"{clip.fps:g}"]
        column = 4 if variant.causal else 3
        assert cells[column] == f"{accuracy.top1:.2f} / {accuracy.top5:.2f}"
