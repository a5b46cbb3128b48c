"""Kill conversions at random moments and check that their store always loads.

    python scripts/kill_test.py --kills 200
    python scripts/kill_test.py --kills 200 --checkpoint movinet_a0_stream/ --variant a0-stream

A store holds version 1 of a variant, in bfloat16. Again and again a child process converts the same
checkpoint in float32, which would become version 2, and is killed (SIGKILL): half of the times at a
moment drawn over the whole conversion, half of the times over the part that writes. After each kill
both what was there and what the store now calls newest must load, and have every tensor as a
conversion that nobody disturbed wrote it. What a killed run leaves behind stays for the next one; a
store that got its version 2 is set back.

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

    from movinet_convert.weights.file import Dtype

Contents = frozenset[tuple[str, int]]

KEPT: Dtype = "bfloat16"
WRITTEN: Dtype = "float32"


@dataclass(frozen=True)
class Job:
    """What is converted."""

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
        """The longest of three conversions that nobody disturbs, each in a process of its own."""
        whole, writing = [], []
        for attempt in range(3):
            begun = time.perf_counter()
            child = start(self.run, scratch / f"timed-{attempt}", WRITTEN)
            wait_for_writing(child, scratch / f"timed-{attempt}", frozenset())
            written = time.perf_counter()
            child.join()
            whole.append(time.perf_counter() - begun)
            writing.append(time.perf_counter() - written)
        return Timing(max(whole), max(writing))


@dataclass(frozen=True)
class Timing:
    """Seconds that a conversion takes in all, and from its first byte in the store on."""

    whole: float
    writing: float


def start(target: Callable[..., object], *args: object) -> BaseProcess:
    """Work in a child. Forked: a fresh interpreter would spend its life importing."""
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    return child


def wait_for_writing(child: BaseProcess, store: Path, before: Contents) -> None:
    """Until the child has put something new into the store, or has ended."""
    while child.is_alive() and contents(store) <= before:
        time.sleep(0.001)


def kill_conversions(job: Job, kills: int, seed: int, scratch: Path) -> Counter[str]:
    """Do it ``kills`` times; how often each outcome was seen. ``failed`` must not be among them."""
    pristine, complete, store = (scratch / name for name in ("pristine", "complete", "store"))
    job.run(pristine, KEPT)
    shutil.copytree(pristine, complete)
    job.run(complete, WRITTEN)
    right = {version: tensors(complete, job.variant, version) for version in (1, 2)}
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
        problem = fault(store, job.variant, right)
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
    """How far the killed run had come."""
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
    """The files, also of staging folders, by path and inode: a replaced one counts as new."""
    found = set()
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder) / name
            with suppress(FileNotFoundError):  # moved meanwhile
                found.add((path.relative_to(store).as_posix(), path.stat().st_ino))
    return frozenset(found)


def fault(store: Path, variant: str, right: Mapping[int, Mapping[str, torch.Tensor]]) -> str | None:
    """What is wrong with a store, if anything: version 1 and the newest one load, and are right."""
    try:
        newest = Store(store).find(variant).version
        for version in {1, newest}:
            loaded = tensors(store, variant, version)
            wrong = [
                name for name, value in right[version].items() if not same(loaded, name, value)
            ]
            if wrong or loaded.keys() != right[version].keys():
                return f"version {version} has other values in {wrong[:3]}"
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
