"""Making all converted weights anew from the releases, and saying what came out differently.

Each variant is fetched, converted, compared with the official model and with the digests of a
catalogue (a manifest) in a process of its own: TensorFlow gives memory back only when its process
ends, and a process that is killed takes no other variant with it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from movinet_convert.conversion import sources
from movinet_convert.download.fetch import fetch_release
from movinet_convert.errors import MovinetError
from movinet_convert.files.atomic import replacing
from movinet_convert.files.version import __version__
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import Release, Variant
from movinet_convert.weights.manifest import ConvertedVersion, Manifest, ReleaseSource, describe
from movinet_convert.weights.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from movinet_convert.conversion.sources import Source

State = Literal["unchanged", "made", "differs", "failed"]

BYTES_PER_JOB = 4 << 30  # what comparing the largest variant takes, with room to spare
REPORTS = "reports"


@dataclass(frozen=True)
class Task:
    """One variant: where from, where to, what is expected, how to compare."""

    name: str
    store: Path
    source_root: str | None
    offline: bool
    parity: ParityOptions
    release: Release | None  # the archive that the catalogue pins
    sha256: str | None  # the converted file that the catalogue pins

    @property
    def variant(self) -> Variant:
        return get_variant(self.name)


@dataclass(frozen=True)
class Outcome:
    """What came of a task; ``problem`` is one sentence where it differs or failed."""

    name: str
    state: State
    seconds: float = 0.0
    entry: ConvertedVersion | None = None
    release: Release | None = None
    problem: str | None = None

    @property
    def good(self) -> bool:
        return self.state in ("unchanged", "made")


def tasks(
    names: Sequence[str],
    catalogue: Manifest,
    store: Path,
    *,
    source_root: str | None = None,
    offline: bool = False,
    parity: ParityOptions | None = None,
) -> list[Task]:
    """The tasks for some variants, with what the catalogue pins for them."""
    made = []
    for name in names:
        entry = catalogue.variants.get(name) or describe(get_variant(name))
        release = None
        if entry.source and entry.source.sha256 and entry.source.bytes:
            release = Release(entry.source.bytes, entry.source.sha256)
        current = entry.current_version
        pinned = current.sha256 if current is not None else None
        options = parity or ParityOptions()
        made.append(Task(name, store, source_root, offline, options, release, pinned))
    return made


def regenerate(
    todo: Sequence[Task], jobs: int, progress: Callable[[Outcome], object] | None = None
) -> list[Outcome]:
    """Run tasks, ``jobs`` at a time; those whose result is there already take no process.

    ``progress`` is told each outcome as it comes. Returns them in the order of the tasks.
    """

    def one(task: Task) -> Outcome:
        outcome = _there(task) or _in_process(task, jobs)
        if progress is not None:
            progress(outcome)
        return outcome

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(one, todo))


def updated(catalogue: Manifest, outcomes: Sequence[Outcome]) -> Manifest:
    """The catalogue with what was seen; variants that failed stay as they are pinned."""
    for outcome in outcomes:
        if outcome.entry is None or outcome.release is None:
            continue
        entry = catalogue.variants.get(outcome.name) or describe(get_variant(outcome.name))
        url = entry.source.url if entry.source else (get_variant(outcome.name).source_url or "")
        seen = ReleaseSource(url=url, sha256=outcome.release.sha256, bytes=outcome.release.bytes)
        changed = entry.model_copy(update={"source": seen, "versions": (outcome.entry,)})
        variants = {**catalogue.variants, outcome.name: changed}
        catalogue = catalogue.model_copy(update={"variants": variants})
    return catalogue


def report_path(store: Path, entry: ConvertedVersion) -> Path:
    """Where the comparison of a file is kept, for the page."""
    return store / REPORTS / f"{Path(entry.file).stem}.json"


def default_jobs() -> int:
    """As many as there are cores, and memory for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _available_bytes() // BYTES_PER_JOB))


def _available_bytes() -> int:
    """Memory that can be had without swapping; room for one job where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return BYTES_PER_JOB


def _there(task: Task) -> Outcome | None:
    """The outcome of an earlier run, if all that it rests on is still the same."""
    start = time.monotonic()
    store = Store(task.store)
    try:
        versions = [
            entry for entry in store.manifest().versions(task.name) if _vouched(entry, task)
        ]
        if not versions:
            return None
        source = _fetch(task)
        same = [e for e in versions if e.source.archive_sha256 == source.archive_sha256]
        entry = same[-1] if same else None
        if entry is None or not store.is_intact(entry):
            return None
    except MovinetError:
        return None  # the process that does the work will say it
    return _judged(task, "unchanged", entry, source, time.monotonic() - start)


def _vouched(entry: ConvertedVersion, task: Task) -> bool:
    """Whether this version of the converter compared the file, at least as thoroughly."""
    return (
        report_path(task.store, entry).is_file()
        and entry.converter == __version__
        and entry.parity is not None
        and entry.parity.tolerance <= task.parity.tolerance_for(entry.dtype)
        and (entry.parity.coverage == "full" or task.parity.coverage == "partial")
    )


def _fetch(task: Task) -> Source:
    return sources.release(
        fetch_release(
            task.variant, source_root=task.source_root, offline=task.offline, known=task.release
        )
    )


def _judged(
    task: Task, state: State, entry: ConvertedVersion, source: Source, seconds: float
) -> Outcome:
    """An outcome, once compared with what the catalogue pins."""
    release = Release(source.path.stat().st_size, source.archive_sha256 or "")
    outcome = Outcome(task.name, state, seconds, entry, release)
    if task.sha256 is None or entry.sha256 == task.sha256:
        return outcome
    problem = f"{entry.file} has sha256 {entry.sha256}; the catalogue pins {task.sha256}."
    return replace(outcome, state="differs", problem=problem)


def _in_process(task: Task, jobs: int) -> Outcome:
    """Do the work in a process of its own, and wait for it."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, sender, jobs), daemon=True)
    process.start()
    sender.close()
    try:
        outcome: Outcome = receiver.recv()
    except EOFError:
        process.join()
        problem = (
            f"The process that compared {task.name} ended with code {process.exitcode}; if it ran "
            "out of memory, try fewer --jobs."
        )
        outcome = Outcome(task.name, "failed", problem=problem)
    process.join()
    return replace(outcome, seconds=time.monotonic() - start)


def _work(task: Task, sender: Connection, jobs: int) -> None:
    """The body of a process: one task from the fetch to the store."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    try:
        outcome = _make(task)
    except MovinetError as error:
        outcome = Outcome(task.name, "failed", problem=str(error))
    except Exception as error:
        outcome = Outcome(task.name, "failed", problem=f"{type(error).__name__}: {error}")
    sender.send(outcome)


def _make(task: Task) -> Outcome:
    from movinet_convert.checkpoint import open_checkpoint
    from movinet_convert.conversion.pipeline import convert_checkpoint, staged
    from movinet_convert.conversion.recognition import recognise
    from movinet_convert.parity.report.entry import compare, entry_of

    source = _fetch(task)
    checkpoint = open_checkpoint(source.path)
    converted = convert_checkpoint(checkpoint, recognise(checkpoint, source, name=task.name))
    with staged(converted, source, Store(task.store)) as file:
        report, profile = compare(file.model, converted.variables, task.parity)
        report.raise_for_failure()
        stored = file.commit(report)
        entry = entry_of(stored.path, file.model, report, profile)
    path = report_path(task.store, stored.entry)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(entry.model_dump_json(), "utf-8")
    return _judged(task, "made", stored.entry, source, 0.0)
