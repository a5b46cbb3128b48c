"""Kill conversions at random times and check that their store always loads.

    python scripts/kill_test.py --kills 200
    python scripts/kill_test.py --kills 200 --checkpoint movinet_a0_stream/ --variant a0-stream

A store has version 1 of a variant, in bfloat16. A child process repeatedly converts the same
checkpoint in float32, which would become version 2, and is killed (SIGKILL): half of the time at a
random time during the whole conversion, half of the time while it writes. After each kill version 1
and the newest version must load, with the same tensors as from an undisturbed conversion. Leftovers
of a killed run stay for the next one; a store that got version 2 is reset.

Exits with 1 if a store did not load. Without --checkpoint the weights are random.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from movinet_convert import convert, create_model, load_converted
from movinet_convert.errors import MovinetError
from movinet_convert.export.tensorflow import export_checkpoint
from movinet_convert.model.settings import get_variant
from movinet_convert.weights.manifest import MANIFEST_NAME
from movinet_convert.weights.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.process import BaseProcess

    from movinet_convert.weights.header import Dtype

Contents = frozenset[tuple[str, int]]

KEPT: Dtype = "bfloat16"
WRITTEN: Dtype = "float32"


@dataclass(frozen=True)
class Job:
    """The conversion to run."""

    variant: str
    checkpoint: Path

    def run(self, store: Path, dtype: Dtype) -> None:
        stream = get_variant(self.variant).causal
        convert(
            self.variant,
            self.checkpoint,
            gating="keras" if stream else None,
            head_activation="swish" if stream else None,
            out=store,
            dtype=dtype,
            parity=None,
        )

    def timing(self, scratch: Path) -> Timing:
        """The longest of three undisturbed conversions, each in a process of its own."""
        whole, writing = [], []
        for attempt in range(3):
            begin = time.perf_counter()
            child = start(self.run, scratch / f"timed-{attempt}", WRITTEN)
            wait_for_writing(child, scratch / f"timed-{attempt}", frozenset())
            written = time.perf_counter()
            child.join()
            whole.append(time.perf_counter() - begin)
            writing.append(time.perf_counter() - written)
        return Timing(max(whole), max(writing))


@dataclass(frozen=True)
class Timing:
    """Seconds of a whole conversion, and from its first byte in the store on."""

    whole: float
    writing: float


def start(target: Callable[..., object], *args: object) -> BaseProcess:
    """Start a child process, forked, as a fresh interpreter would spend its time importing."""
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    return child


def wait_for_writing(child: BaseProcess, store: Path, before: Contents) -> None:
    """Wait until the child has written to the store, or has ended."""
    while child.is_alive() and contents(store) <= before:
        time.sleep(0.001)


def kill_conversions(job: Job, kills: int, seed: int, scratch: Path) -> Counter[str]:
    """Kill ``kills`` conversions and count the outcomes; ``failed`` must not be among them."""
    pristine, complete, store = (scratch / name for name in ("pristine", "complete", "store"))
    job.run(pristine, KEPT)
    shutil.copytree(pristine, complete)
    job.run(complete, WRITTEN)
    expected = {version: tensors(complete, job.variant, version) for version in (1, 2)}
    moments = random.Random(seed)
    timing = job.timing(scratch)
    shutil.copytree(pristine, store)
    seen: Counter[str] = Counter()
    while seen["killed"] < kills:
        before = contents(store)
        child = start(job.run, store, WRITTEN)
        if moments.random() < 0.5:
            time.sleep(moments.uniform(0, timing.whole))
        else:
            wait_for_writing(child, store, before)
            time.sleep(moments.uniform(0, timing.writing))
        child.kill()
        child.join()
        problem = fault(store, job.variant, expected)
        if child.exitcode == -signal.SIGKILL:
            seen["killed"] += 1
            seen[reached(store, before)] += 1
            if seen["killed"] % 20 == 0:
                print(f"{seen['killed']} of {kills} kills", file=sys.stderr)
        elif child.exitcode == 0:
            seen["finished before its kill"] += 1
        else:
            problem = f"a conversion failed by itself, with exit status {child.exitcode}"
        if problem is not None:
            seen["failed"] += 1
            print(f"after kill {seen['killed']}: {problem}", file=sys.stderr)
        if problem is not None or len(Store(store).manifest().versions(job.variant)) > 1:
            shutil.rmtree(store)
            shutil.copytree(pristine, store)
    return seen


def reached(store: Path, before: Contents) -> str:
    """How far the killed run got."""
    if "-v2." in Store(store).manifest_path.read_text(encoding="utf-8"):
        return "killed after it replaced the manifest"
    new = [name for name, _ in contents(store) - before]
    if any("-v2." in name for name in new):
        return "killed between weights and manifest"
    if any(name.endswith(f"/{MANIFEST_NAME}") for name in new):
        return "killed while it wrote the manifest"
    if any(name.endswith(".safetensors") for name in new):
        return "killed while it wrote or compared the weights"
    return "killed before it wrote"


def contents(store: Path) -> Contents:
    """The files, including staging folders, by path and inode: a replaced file counts as new."""
    found = set()
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder) / name
            with suppress(FileNotFoundError):  # moved meanwhile
                found.add((path.relative_to(store).as_posix(), path.stat().st_ino))
    return frozenset(found)


def fault(
    store: Path, variant: str, expected: Mapping[int, Mapping[str, torch.Tensor]]
) -> str | None:
    """The problem of a store, or None if version 1 and the newest load with the right values."""
    try:
        newest = Store(store).find(variant).version
        for version in {1, newest}:
            loaded = tensors(store, variant, version)
            wrong = [
                name for name, value in expected[version].items() if not same(loaded, name, value)
            ]
            if wrong or loaded.keys() != expected[version].keys():
                return f"version {version} has wrong values in {wrong[:3]}"
    except MovinetError as error:
        return str(error)
    return None


def same(loaded: Mapping[str, torch.Tensor], name: str, value: torch.Tensor) -> bool:
    return name in loaded and torch.equal(loaded[name], value)


def tensors(store: Path, variant: str, version: int) -> dict[str, torch.Tensor]:
    return load_converted(variant, weights_dir=store, version=version).state_dict()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--checkpoint", type=Path, help="a folder, prefix or file; else random weights"
    )
    parser.add_argument("--variant", default="a0-stream")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked child must not wait for threads that it does not have
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        scratch = Path(folder)
        checkpoint = options.checkpoint
        if checkpoint is None:
            torch.manual_seed(options.seed)
            checkpoint = export_checkpoint(create_model(options.variant), scratch / "checkpoint")
        job = Job(options.variant, checkpoint)
        seen = kill_conversions(job, options.kills, options.seed, scratch)
    for outcome, count in sorted(seen.items()):
        print(f"{count:6}  {outcome}")
    print(f"{seen['killed']} kills, {seen['failed']} stores that failed to load")
    return 1 if seen["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
