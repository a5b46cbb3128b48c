"""What the command prints: tables and sentences for people, objects for programs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
from rich.table import Table

from movinet_convert.cli.terminal import console, echo, progress
from movinet_convert.model.settings import with_origins
from movinet_convert.parity import report_json
from movinet_convert.parity.summary import report_table
from movinet_convert.weights.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from movinet_convert.conversion.pipeline import Conversion
    from movinet_convert.parity import ParityReport
    from movinet_convert.weights.manifest import ConvertedVersion, Manifest, VariantEntry

MEGABYTE = 1e6


def conversion_json(conversion: Conversion) -> dict[str, Any]:
    converted, stored = conversion.converted, conversion.stored
    return {
        "variant": converted.variant.name,
        "path": str(stored.path),
        "created": stored.created,
        **stored.entry.model_dump(mode="json", exclude={"parity", "parity_as_stored"}),
        "drawn": list(converted.drawn),
        "ignored": dict(converted.checkpoint.ignored),
        "gating_evidence": evidence.to_json() if (evidence := conversion.gating_evidence) else None,
        "parity": report_json(conversion.report) if conversion.report else None,
        "parity_as_stored": report_json(conversion.as_stored) if conversion.as_stored else None,
    }


def print_conversion(conversion: Conversion) -> None:
    converted, stored = conversion.converted, conversion.stored
    entry = stored.entry
    echo(
        f"{converted.variant.name} from {entry.source.name} ({entry.source.layout} layout, "
        f"{entry.source.kind}), {entry.num_classes} classes"
    )
    echo(f"  {settings_line(entry)}")
    if conversion.gating_evidence is not None:
        echo(f"  gating read from the moving statistics: {conversion.gating_evidence.summary()}")
    for name, reason in converted.checkpoint.ignored.items():
        echo(f"  left out: {name} ({reason})")
    if converted.drawn:
        echo("  Warning: the checkpoint has no classifier; an untrained one was drawn.")
    if conversion.as_stored:
        echo(f"The official model with the values as stored, in {entry.dtype}:")
        print_report(conversion.as_stored)
        echo("The official model with the values of the checkpoint:")
    if conversion.report:
        print_report(conversion.report)
    else:
        echo("Not compared with the official model (--no-verify).")
    size = f"{entry.bytes / MEGABYTE:.1f} MB"
    if stored.created:
        echo(f"Wrote {stored.path} ({size}, sha256 {entry.sha256})")
    else:
        echo(f"Unchanged: {stored.path} ({size}, sha256 {entry.sha256})")


def settings_line(entry: ConvertedVersion) -> str:
    """What no checkpoint tells, each with where it was taken from: ``gating keras (user), ...``."""
    described = with_origins(entry.settings, entry.origins)
    return ", ".join(f"{name} {value}" for name, value in described.items())


def print_report(report: ParityReport) -> None:
    console().print(report_table(report))


def print_store(store: Store, manifest: Manifest) -> None:
    """The variants, and below each what was converted; accuracy beside the releases alone."""
    table = Table(title=str(store.folder), title_justify="left")
    for heading in ("variant", "clip", "fps", "top-1", "top-5", "converted"):
        table.add_column(heading, no_wrap=heading != "converted")
    for name, entry in manifest.variants.items():
        clip = f"{entry.input.frames} x {entry.input.size}²"
        current = entry.current_version
        versions = "\n".join(
            f"v{v.version}{' (current)' if v == current and len(entry.versions) > 1 else ''}: "
            f"{v.source.kind or 'source not recorded'}, {v.num_classes} classes, {v.dtype}, "
            f"{settings_line(v)}"
            for v in entry.versions
        )
        table.add_row(name, clip, f"{entry.input.fps:g}", *_published(entry), versions or "-")
    console().print(table)


def _published(entry: VariantEntry) -> tuple[str, str]:
    """Top-1 and top-5 of the release, unless the name stands for other weights than those."""
    current, accuracy = entry.current_version, entry.accuracy
    if current is not None and current.source.kind != "release":
        return "", ""
    return f"{accuracy.top1:.2f}", "" if accuracy.top5 is None else f"{accuracy.top5:.2f}"


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A progress bar for one download, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns) as bar:
        task = bar.add_task(name, total=None)

        def show(received: int, total: int | None) -> None:
            bar.update(task, completed=received, total=total)

        yield show
