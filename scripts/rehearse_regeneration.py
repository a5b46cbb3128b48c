#!/usr/bin/env python3
"""Rehearse the script that regenerates all weights, on synthetic archives from a local mirror.

    python scripts/rehearse_regeneration.py                      all twelve
    python scripts/rehearse_regeneration.py a0-base a0-stream    some

Runs ``regenerate_weights.py`` with an empty store, then again, then with another empty store and
one damaged archive. Exit code 0 if the first run converts and verifies all, the second has nothing
to do and takes less than a tenth of the time, and in the third only the damaged archive fails.
"""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package beside this script, installed or not

from movinet_convert.files.reading import file_sha256  # noqa: E402
from movinet_convert.model.settings import get_variant  # noqa: E402
from movinet_convert.parity.synthetic import write_synthetic_archive  # noqa: E402
from movinet_convert.variants import list_variants  # noqa: E402
from movinet_convert.weights import manifest as manifests  # noqa: E402
from movinet_convert.weights.manifest import ReleaseSource  # noqa: E402
from scripts.regenerate_weights import default_jobs  # noqa: E402

SCRIPT = ROOT / "scripts" / "regenerate_weights.py"
SMALL = ("--frames", "5", "--size", "36x36")  # TensorFlow is slow at 3D convolutions on a CPU


@dataclass(frozen=True)
class Run:
    """One run of the script: its exit code, its output, and how long it took."""

    code: int
    output: str
    seconds: float

    def count(self, state: str) -> int:
        return sum(f" {state} " in line for line in self.output.splitlines() if "│" in line)


def make_archive(name: str, folder: Path) -> None:
    write_synthetic_archive(get_variant(name), folder)


def make_archives(names: Sequence[str], folder: Path) -> None:
    """Each in a process of its own: TensorFlow frees its memory only when its process ends."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(default_jobs(), maxtasksperchild=1) as pool:
        pool.map(functools.partial(make_archive, folder=folder), names, chunksize=1)


def pin(names: Sequence[str], archives: Path, path: Path) -> None:
    """Write a catalogue with the digests of the archives, as they are before one is damaged."""
    catalogue = manifests.catalogue()
    variants = dict(catalogue.variants)
    for name in names:
        archive = archives / get_variant(name).archive_name
        url = get_variant(name).source_url or ""
        seen = ReleaseSource(url=url, sha256=file_sha256(archive), bytes=archive.stat().st_size)
        variants[name] = variants[name].model_copy(update={"source": seen})
    path.write_text(manifests.dump(catalogue.model_copy(update={"variants": variants})), "utf-8")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave the terminal to the script."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def damage(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)


def run(names: Sequence[str], url: str, scratch: Path, attempt: str) -> Run:
    """Run the script; ``attempt`` names the store and the cache that it uses."""
    where = ("--source", url, "--manifest", str(scratch / "catalogue.yaml"))
    command = [sys.executable, str(SCRIPT), *names, *where, *SMALL]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "--weights-dir", str(scratch / f"store-{attempt}")],
        env={**os.environ, "MOVINET_CACHE_DIR": str(scratch / f"cache-{attempt}")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, time.monotonic() - start)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def main(names: tuple[str, ...]) -> None:
    """Rehearse the regeneration of some variants; all twelve unless some are named."""
    chosen = [get_variant(name).name for name in names] or list_variants()
    with tempfile.TemporaryDirectory(prefix="movinet-rehearsal-") as folder:
        scratch = Path(folder)
        archives = scratch / "mirror"
        archives.mkdir()
        make_archives(chosen, archives)
        pin(chosen, archives, scratch / "catalogue.yaml")
        with serve(archives) as url:
            first = run(chosen, url, scratch, "whole")
            again = run(chosen, url, scratch, "whole")
            damage(archives / get_variant(chosen[0]).archive_name)
            damaged = run(chosen, url, scratch, "damaged")
    count = len(chosen)
    checks = {
        f"{count} converted and verified": first.code == 0 and first.count("converted") == count,
        "the second run has nothing to do": again.code == 0 and again.count("unchanged") == count,
        "in under a tenth of the time": again.seconds < first.seconds / 10,
        f"{chosen[0]}, damaged, fails alone": damaged.code == 1
        and (damaged.count("failed"), damaged.count("converted")) == (1, count - 1),
    }
    for title, done in (("first", first), ("again", again), ("damaged", damaged)):
        click.echo(f"{title}: exit code {done.code}, {done.seconds:.1f} s\n{done.output}")
    for check, passed in checks.items():
        click.echo(f"{'yes' if passed else 'NO '}  {check}")
    if not all(checks.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
