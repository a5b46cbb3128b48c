"""Every block of code in the README, CONTRIBUTING and docs/ runs, as it stands.

The shell blocks of a document run first, then its Python blocks in one process. Where a command
would need the network, its answer is local: archives of seeded weights, and a pip that finds
everything installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from movinet_convert import convert
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import KINETICS_600_CLASSES, list_variants
from movinet_convert.weights.hub_files import FILE_NAME
from scripts.tflite_writer import StreamWriter
from tests.helpers.colour_model import write_colours
from tests.helpers.hub_repositories import Hub
from tests.helpers.hub_server import as_the_hub, serve_hub
from tests.helpers.seeded import choices, variables, write_checkpoint
from tests.helpers.verified_store import add_verified
from tests.scripts.test_regenerate import write_archive

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("sh", "python")
SHOWN = ("text", "bibtex")
RELEASES = ("a0-base", "a0-stream")
CHECKS = "bash scripts/check.sh"  # would run these tests again
# The comparison runs at its smallest here; its thoroughness is tested elsewhere.
QUICK = "--frames 3 --size 32x32"
QUICK_CLIPS = "--frames 4 --size 48"
UNCOMPARED = "--no-verify"  # beside a seeded checkpoint, which is compared
TRAINING = "--epochs 1 --shapes-count 8 --size 32 --frames 6"

# What a document's Python takes for granted: a clip, labels, a video.
GIVEN = {
    "docs/finetune.md": """
import numpy as np, torch
clip, labels = torch.rand(2, 3, 8, 32, 32), torch.tensor([3, 50])
names = [f"class {i}" for i in range(51)]
video = np.random.rand(2, 32, 32, 3).astype("float32")
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.reference import Reference
variant = get_variant("a0-stream")
official_model = Reference(variant, variant.settings("keras"), 4).model
""",
}


@dataclass(frozen=True)
class Block:
    document: Path
    language: str
    code: str
    line: int

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}-line-{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    return [
        Block(document, match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(text)
    ]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
PYTHON = sorted({block.document for block in BLOCKS if block.language == "python"})


def test_every_block_names_its_language() -> None:
    assert [str(block) for block in BLOCKS if block.language not in RUN + SHOWN] == []


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def shims(folder: Path, home: Path) -> None:
    """The commands that documents call, from this environment and at their smallest."""
    python = sys.executable
    quick = (
        f'case "$*" in *--synthetic*|verify*|report*) set -- "$@" {QUICK};; '
        f'--arch*) set -- "$@" {UNCOMPARED};; *--gating*) set -- "$@" {QUICK_CLIPS};; esac'
    )
    served = f'[ "${{1:-}}" != demo ] || exec "{python}" -m tests.helpers.served "$@"'
    command = f'{quick}\n{served}\nexec "{python}" -m movinet_convert "$@"'
    environment = 'if [ "${1:-}" = -m ] && [ "${2:-}" = venv ]; then exit 0; fi'
    smallest = (
        f'case "$*" in */regenerate_weights.py*) set -- "$@" {QUICK};; '
        f'"-m examples.finetune"*) set -- "$@" {TRAINING};; esac'
    )
    interpreter = f'{environment}\n{smallest}\nexec "{python}" "$@"'
    for bin_folder in (folder, home / ".venv" / "bin"):
        script(bin_folder / "movinet-convert", command)
        script(bin_folder / "python", interpreter)
        script(bin_folder / "python3", interpreter)
        script(bin_folder / "torchrun", f'exec "{python}" -m torch.distributed.run "$@"')
        script(bin_folder / "pip", 'echo "pip $*"')
        script(bin_folder / "mkdocs", f'exec "{python}" -m mkdocs "$@"')


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone of the repository, with the files that the documents mention."""
    home = tmp_path_factory.mktemp("home")
    shared = (
        *("movinet_convert", "scripts", "examples", "tests", "docs", "mkdocs.yml"),
        *("weights_manifest.yaml", "pyproject.toml"),
    )
    for name in shared:
        (home / name).symlink_to(ROOT / name)
    (home / "mirror").mkdir()
    for name in RELEASES:
        write_archive(home / "mirror", name)
    (home / "movinet_a0_stream.tar.gz").symlink_to(home / "mirror" / "movinet_a0_stream.tar.gz")
    spec, size = get_variant("a0-stream").spec, get_variant("a0-stream").input.size
    stream = StreamWriter(spec, classes=KINETICS_600_CLASSES, size=size, eight_bits=False)
    (home / "movinet_a0_stream.tflite").write_bytes(stream.file())
    arrays = variables("a0-stream", KINETICS_600_CLASSES)
    for prefix in ("PATH", "mine"):
        write_checkpoint(home / prefix, "a0-stream", arrays)
    for name in RELEASES:
        archive = home / "mirror" / get_variant(name).archive_name
        convert(name, archive, **choices(name), out=home / "store", parity=None)
    (home / "regenerated").symlink_to(add_verified(home / "verified", "a0-base").folder)
    write_colours(home / "dance.mp4", "red", "blue")
    for label in ("abseiling", "zumba"):
        for index in range(8):
            write_colours(home / "videos" / label / f"{index}.mp4", "green")
    (home / "kinetics600").mkdir()
    (home / "kinetics600" / "val").symlink_to(home / "videos")
    shims(home / "bin", home)
    return home


@pytest.fixture(scope="module")
def hub(home: Path) -> Iterator[Hub]:
    """A Hub with the weights that the documents name."""
    with serve_hub(home / "hub") as hub, as_the_hub(hub, home / "hub-cache"):
        api, (weights,) = HfApi(), (home / "store").glob("movinet-a0-stream-*.safetensors")
        api.create_repo("ORG/movinet-a0-stream")
        api.upload_file(
            path_or_fileobj=weights, path_in_repo=FILE_NAME, repo_id="ORG/movinet-a0-stream"
        )
        yield hub


@pytest.fixture(scope="module")
def environment(home: Path, hub: Hub) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MOVINET_WEIGHTS_DIR": str(home / "store"),
        "MOVINET_CACHE_DIR": str(home / "cache"),
        "MOVINET_SOURCE_ROOT": str(home / "mirror"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(home / "hub-cache"),
    }


def run(command: list[str], home: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_run(block: Block, home: Path, environment: dict[str, str]) -> None:
    if "mkdocs" in block.code and importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs, of the extra [docs]")
    for results in home.glob("evaluation-*"):  # of another document, to be resumed
        shutil.rmtree(results)
    run(["bash", "-euo", "pipefail", "-c", block.code.replace(CHECKS, "true")], home, environment)


@pytest.mark.parametrize("document", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run_one_after_another(
    document: Path, home: Path, environment: dict[str, str]
) -> None:
    given = GIVEN.get(str(document.relative_to(ROOT)), "")
    code = [block.code for block in blocks(document) if block.language == "python"]
    run([sys.executable, "-c", "\n".join([given, *code])], home, environment)


def test_the_test_command_is_what_ci_runs() -> None:
    lines = {line for block in SHELL for line in block.code.splitlines() if CHECKS in line}
    (command,) = lines
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


def test_the_table_of_variants_is_that_of_the_code() -> None:
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
