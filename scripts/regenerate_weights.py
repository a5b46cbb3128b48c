#!/usr/bin/env python3
"""Fetch, convert and compare the released MoViNets, and report what differs from the catalogue.

    python scripts/regenerate_weights.py                      all twelve
    python scripts/regenerate_weights.py a0-base a0-stream    some
    python scripts/regenerate_weights.py --all-sources        from both official sources
    python scripts/regenerate_weights.py --source kaggle      from one source alone

Each variant is converted, and compared with the official model, in a process of its own: TensorFlow
frees its memory only when its process ends, and a process that is killed takes no other variant
with it. Results of earlier runs are reused. Exit code 1 if anything failed or differs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package beside this script, installed or not

from movinet_convert.cli import options  # noqa: E402
from movinet_convert.cli.command import Command  # noqa: E402
from movinet_convert.cli.convert_many import in_own_process  # noqa: E402
from movinet_convert.conversion import sources  # noqa: E402
from movinet_convert.conversion.sources import Source  # noqa: E402
from movinet_convert.conversion.tensors import Converted, convert_checkpoint  # noqa: E402
from movinet_convert.download.fetch import fetch_release  # noqa: E402
from movinet_convert.errors import MovinetError, UsageError  # noqa: E402
from movinet_convert.files.version import __version__  # noqa: E402
from movinet_convert.files.writing import replacing  # noqa: E402
from movinet_convert.model.settings import get_variant  # noqa: E402
from movinet_convert.parity.comparison import verify_model  # noqa: E402
from movinet_convert.parity.options import ParityOptions  # noqa: E402
from movinet_convert.parity.reference import shared_reference  # noqa: E402
from movinet_convert.parity.report import Section, section_of, write_page  # noqa: E402
from movinet_convert.variants import OfficialSource, Release, list_variants  # noqa: E402
from movinet_convert.weights import manifest as manifests  # noqa: E402
from movinet_convert.weights.entries import ConvertedVersion, ReleaseSource  # noqa: E402
from movinet_convert.weights.manifest import Manifest  # noqa: E402
from movinet_convert.weights.naming import store_folder  # noqa: E402
from movinet_convert.weights.store import Store  # noqa: E402

BYTES_PER_JOB = 4 << 30  # enough to compare the largest variant
COLOURS = {"unchanged": "green", "converted": "green", "differs": "red", "failed": "red"}


@dataclass(frozen=True)
class Task:
    """One variant: its source, its store, the comparison, and the digests in the catalogue."""

    name: str
    store: Path
    source: str | None
    offline: bool
    parity: ParityOptions
    releases: Mapping[OfficialSource, Release]
    tensors: str | None  # sha256
    sha256: str | None  # of the converted file
    all_sources: bool = False

    def fetch(self, source: str | None = None) -> Source:
        fetched = fetch_release(
            get_variant(self.name),
            source=source or self.source,
            offline=self.offline,
            known=self.releases,
            notice=lambda sentence: click.echo(sentence, err=True),
        )
        return sources.release(fetched, self.tensors)


@dataclass(frozen=True)
class Result:
    """The result of a task; ``problem`` is a sentence if it differs or failed."""

    name: str
    state: Literal["unchanged", "converted", "differs", "failed"]
    seconds: float = 0.0
    entry: ConvertedVersion | None = None
    seen: Mapping[str, Release] = field(default_factory=dict)  # by source
    problem: str | None = None

    @property
    def good(self) -> bool:
        return self.state in ("unchanged", "converted")


def tasks(
    names: Sequence[str],
    catalogue: Manifest,
    store: Path,
    *,
    source: str | None = None,
    offline: bool = False,
    parity: ParityOptions | None = None,
    all_sources: bool = False,
) -> list[Task]:
    """The tasks for some variants, with their digests in the catalogue."""
    todo = []
    for name in names:
        entry = catalogue.variants.get(name) or manifests.describe(get_variant(name))
        seen: dict[OfficialSource, ReleaseSource | None]
        seen = {"model-garden": entry.source, "kaggle": entry.kaggle}
        releases = {
            where: Release(archive.bytes, archive.sha256)
            for where, archive in seen.items()
            if archive and archive.sha256 and archive.bytes
        }
        pinned = entry.current_version.sha256 if entry.current_version else None
        options = parity or ParityOptions()
        tensors = entry.tensors_sha256
        todo.append(
            Task(name, store, source, offline, options, releases, tensors, pinned, all_sources)
        )
    return todo


def regenerate(
    todo: Sequence[Task], jobs: int, progress: Callable[[Result], object] | None = None
) -> list[Result]:
    """Run tasks, ``jobs`` at a time, and return their results in order.

    ``progress`` is called with each result as it comes.
    """

    def run(task: Task) -> Result:
        start = time.monotonic()
        result = _earlier_result(task) or _in_process(task, jobs)
        result = replace(result, seconds=time.monotonic() - start)
        if progress is not None:
            progress(result)
        return result

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(run, todo))


def updated(catalogue: Manifest, results: Sequence[Result]) -> Manifest:
    """The catalogue with the digests of the results; variants that failed stay as they are."""
    variants = dict(catalogue.variants)
    for result in results:
        if result.entry is None:
            continue
        variant = get_variant(result.name)
        entry = variants.get(result.name) or manifests.describe(variant)
        changes: dict[str, Any] = {
            "versions": (result.entry,),
            "tensors_sha256": result.entry.source.digest,
        }
        for source, release in result.seen.items():
            where = "kaggle" if source == "kaggle" else "source"
            archive = getattr(entry, where) or getattr(manifests.describe(variant), where)
            digest = {"sha256": release.sha256, "bytes": release.bytes}
            changes[where] = archive.model_copy(update=digest)
        variants[result.name] = entry.model_copy(update=changes)
    return catalogue.model_copy(update={"variants": variants})


def report_path(store: Path, entry: ConvertedVersion) -> Path:
    """The path of the stored comparison of a converted file, for the report."""
    return store / "reports" / f"{Path(entry.file).stem}.json"


def default_jobs() -> int:
    """The number of jobs that cores and memory allow; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    available = BYTES_PER_JOB
    if (meminfo := Path("/proc/meminfo")).is_file():
        values = dict(line.split(":") for line in meminfo.read_text().splitlines())
        available = int(values["MemAvailable"].split()[0]) * 1024
    return max(1, min(cores or 1, available // BYTES_PER_JOB))


def _earlier_result(task: Task) -> Result | None:
    """The result of an earlier run, if release, converter and comparison are still the same."""
    if task.all_sources:
        return None
    store = Store(task.store)
    try:
        versions = [entry for entry in store.manifest().versions(task.name) if _valid(entry, task)]
        if not versions:
            return None
        source = task.fetch()
        same = [e for e in versions if e.source.archive_sha256 == source.archive_sha256]
        if not same or not store.is_intact(same[-1]):
            return None
    except MovinetError:
        return None  # the worker process reports it
    return _compared_with_catalogue(task, "unchanged", same[-1], source)


def _valid(entry: ConvertedVersion, task: Task) -> bool:
    """Whether this version of the converter compared the file, at least as thoroughly."""
    return (
        read_section(report_path(task.store, entry)) is not None
        and entry.converter == __version__
        and entry.parity is not None
        and entry.parity.tolerance <= task.parity.tolerance_for(entry.dtype)
        and (entry.parity.coverage == "full" or task.parity.coverage == "partial")
    )


def _compared_with_catalogue(
    task: Task, state: Literal["unchanged", "converted"], entry: ConvertedVersion, source: Source
) -> Result:
    result = Result(task.name, state, entry=entry, seen={_source_name(source): _seen(source)})
    if task.sha256 is None or entry.sha256 == task.sha256:
        return result
    problem = f"{entry.file} has sha256 {entry.sha256}; the catalogue pins {task.sha256}."
    return replace(result, state="differs", problem=problem)


def _in_process(task: Task, jobs: int) -> Result:
    try:
        return in_own_process(_work, task, jobs)
    except BrokenProcessPool:
        problem = (
            f"The process that compared {task.name} was killed; if memory ran out, try fewer "
            "--jobs."
        )
        return Result(task.name, "failed", problem=problem)


def _work(task: Task, jobs: int) -> Result:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    try:
        return _convert(task)
    except MovinetError as error:
        return Result(task.name, "failed", problem=str(error))
    except Exception as error:
        return Result(task.name, "failed", problem=f"{type(error).__name__}: {error}")


def _convert(task: Task) -> Result:
    """Download, convert, compare and store one variant."""
    from movinet_convert.conversion.pipeline import staged

    converted, seen = from_all_sources(task) if task.all_sources else from_one_source(task)
    with staged(converted, Store(task.store)) as file:
        model = file.model
        reference = shared_reference(model.variant, model.settings, model.num_classes)
        result = verify_model(model, converted.variables, task.parity, reference=reference)
        result.raise_for_failure()
        stored = file.commit(result)
        section = section_of(stored.path, model, result, reference)
    path = report_path(task.store, stored.entry)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(section.model_dump_json(), "utf-8")
    result = _compared_with_catalogue(task, "converted", stored.entry, converted.source)
    return replace(result, seen=seen)


def from_one_source(task: Task) -> tuple[Converted, dict[str, Release]]:
    """The release as a network, and the archive that was seen, by source."""
    source = task.fetch()
    return convert_checkpoint(source, name=task.name), {_source_name(source): _seen(source)}


def from_all_sources(task: Task) -> tuple[Converted, dict[str, Release]]:
    """The release as a network, and the archive of each source.

    Each must have the tensors that are pinned, or those of the first: ``convert_checkpoint`` raises
    CheckpointError otherwise.
    """
    archives = {name: task.fetch(name) for name in get_args(OfficialSource)}
    first, *_ = [convert_checkpoint(source, name=task.name) for source in archives.values()]
    return first, {name: _seen(source) for name, source in archives.items()}


def _seen(source: Source) -> Release:
    return Release(source.path.stat().st_size, source.archive_sha256 or "")


def _source_name(source: Source) -> str:
    return source.fetched.source if source.fetched else source.kind


catalogue_option = click.option(
    "--manifest",
    "catalogue_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / manifests.MANIFEST_NAME,
    help="The catalogue with the expected digests. [default: the repository's]",
)


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.weights_dir
@options.source
@click.option(
    "--all-sources",
    is_flag=True,
    help="Fetch each release from both official sources; their tensors must be equal.",
)
@click.option("--offline", is_flag=True, help="Use only releases that were fetched before.")
@catalogue_option
@click.option("--update", is_flag=True, help="Write the digests into the catalogue.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a parity report (HTML).")
@click.option("--jobs", type=click.IntRange(min=1), help="Variants at a time.")
@options.parity
def main(
    names: tuple[str, ...],
    weights_dir: str | None,
    source: str | None,
    all_sources: bool,
    offline: bool,
    catalogue_path: Path,
    update: bool,
    report: Path | None,
    jobs: int | None,
    **settings: Any,
) -> None:
    """Fetch, convert and compare the released MoViNets; all twelve unless some are named.

    \b
    Example: python scripts/regenerate_weights.py --jobs 2 --update --report report.html
    """
    store, catalogue = store_folder(weights_dir), manifests.read(catalogue_path)
    chosen = [get_variant(name).name for name in names] or list_variants()
    if source and all_sources:
        raise UsageError("--source and --all-sources both select sources; choose one.")
    where = {"source": source, "offline": offline, "all_sources": all_sources}
    todo = tasks(chosen, catalogue, store, **where, parity=options.parity_settings(settings))
    results = _with_progress_bar(todo, jobs or default_jobs())
    _print_summary(results)
    if update:
        text = manifests.dump(updated(catalogue, results))
        catalogue_path.write_text(text, encoding="utf-8")
    if report is not None:
        _write_report(report, store, results)
    if not all(result.good for result in results):
        sys.exit(1)


def _with_progress_bar(todo: list[Task], jobs: int) -> list[Result]:
    """Run the tasks with a bar on a terminal, and a line for each result anywhere."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar_task = bar.add_task(f"{jobs} at a time", total=len(todo))

        def show(result: Result) -> None:
            state = f"[{COLOURS[result.state]}]{result.state}[/]"
            console.print(f"{result.name:<10} {state} {result.seconds:.1f} s", highlight=False)
            bar.advance(bar_task)

        return regenerate(todo, jobs, show)


def _print_summary(results: list[Result]) -> None:
    table = Table(title="Regenerated weights", title_justify="left")
    for heading in ("variant", "from", "result", "TF fp32\nPT fp32", "seconds", "sha256"):
        right = heading in ("TF fp32\nPT fp32", "seconds")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for result in results:
        entry = result.entry
        distance = f"{entry.parity.tf_fp32_pt_fp32:.1e}" if entry and entry.parity else ""
        state = Text(result.state, style=COLOURS[result.state])
        digest = entry.sha256[:12] if entry else ""
        origin = "\n".join(result.seen)
        table.add_row(result.name, origin, state, distance, f"{result.seconds:.1f}", digest)
    Console().print(table)
    for result in results:
        if result.problem:
            click.echo(f"{result.name}: {result.problem}")
    click.echo(f"{sum(result.good for result in results)} of {len(results)} as expected")


def _write_report(path: Path, store: Path, results: list[Result]) -> None:
    sections = [
        read_section(report_path(store, result.entry)) for result in results if result.entry
    ]
    write_page(path, [section for section in sections if section is not None])


def read_section(path: Path) -> Section | None:
    """A stored section of the report; None where it is missing or of another version."""
    try:
        return Section.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main()
