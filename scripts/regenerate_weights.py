#!/usr/bin/env python3
"""Fetch, convert and compare the released MoViNets, and say what differs from the catalogue.

    python scripts/regenerate_weights.py                      all twelve
    python scripts/regenerate_weights.py a0-base a0-stream    some

Stopped and started again, it goes on where it was. Exit code 1 where anything failed or differs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package beside this script, installed or not

from movinet_convert.cli.options import (  # noqa: E402
    parity_options,
    reported,
    to_parity,
    weights_dir_option,
)
from movinet_convert.model.settings import get_variant  # noqa: E402
from movinet_convert.variants import list_variants  # noqa: E402
from movinet_convert.weights import manifest as manifests  # noqa: E402
from movinet_convert.weights.store import store_folder  # noqa: E402
from scripts.regeneration import (  # noqa: E402
    Outcome,
    default_jobs,
    regenerate,
    report_path,
    tasks,
    updated,
)

COLOURS = {"unchanged": "green", "made": "green", "differs": "red", "failed": "red"}


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@weights_dir_option
@click.option("--source-root", metavar="URL_OR_DIR", help="A mirror of the released archives.")
@click.option("--offline", is_flag=True, help="Use only releases that were fetched before.")
@click.option(
    "--manifest",
    "catalogue_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / manifests.MANIFEST_NAME,
    help="The catalogue with the digests to expect. [default: the repository's]",
)
@click.option("--update", is_flag=True, help="Write what was seen into the catalogue.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page about parity.")
@click.option("--jobs", type=click.IntRange(min=1), help="Variants at a time.")
@parity_options
@click.option("--debug", is_flag=True, help="Show where an error arose.")
def main(
    names: tuple[str, ...],
    weights_dir: str | None,
    source_root: str | None,
    offline: bool,
    catalogue_path: Path,
    update: bool,
    report: Path | None,
    jobs: int | None,
    debug: bool,
    **options: Any,
) -> None:
    """Fetch, convert and compare the released MoViNets; all twelve unless some are named.

    \b
    Example: python scripts/regenerate_weights.py --jobs 2 --update --report report.html
    """
    with reported(as_json=False):
        store = store_folder(weights_dir)
        catalogue = manifests.read(catalogue_path)
        chosen = [get_variant(name).name for name in names] or list_variants()
        todo = tasks(
            chosen,
            catalogue,
            store,
            source_root=source_root,
            offline=offline,
            parity=to_parity(options),
        )
        outcomes = _watched(todo, jobs or default_jobs())
        _print_summary(outcomes)
        if update:
            text = manifests.dump(updated(catalogue, outcomes))
            catalogue_path.write_text(text, encoding="utf-8")
        if report is not None:
            _write_report(report, store, outcomes)
    if not all(outcome.good for outcome in outcomes):
        sys.exit(1)


def _watched(todo: list[Any], jobs: int) -> list[Outcome]:
    """Run the tasks: a bar on a terminal, a line for each in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{jobs} at a time", total=len(todo))

        def show(outcome: Outcome) -> None:
            colour = COLOURS[outcome.state]
            console.print(
                f"{outcome.name:<10} [{colour}]{outcome.state}[/] {outcome.seconds:.1f} s",
                highlight=False,
            )
            bar.advance(task)

        return regenerate(todo, jobs, show)


def _print_summary(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Regenerated weights", title_justify="left")
    for heading in ("variant", "result", "TF fp32\nPT fp32", "seconds", "sha256"):
        right = heading in ("TF fp32\nPT fp32", "seconds")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for outcome in outcomes:
        entry = outcome.entry
        distance = f"{entry.parity.tf_fp32_pt_fp32:.1e}" if entry and entry.parity else ""
        state = Text(outcome.state, style=COLOURS[outcome.state])
        digest = entry.sha256[:12] if entry else ""
        table.add_row(outcome.name, state, distance, f"{outcome.seconds:.1f}", digest)
    console = Console()
    console.print(table)
    for outcome in outcomes:
        if outcome.problem:
            click.echo(f"{outcome.name}: {outcome.problem}")
    good = sum(outcome.good for outcome in outcomes)
    click.echo(f"{good} of {len(outcomes)} as expected")


def _write_report(path: Path, store: Path, outcomes: list[Outcome]) -> None:
    from movinet_convert.parity.report import Entry, write_page

    kept = [report_path(store, outcome.entry) for outcome in outcomes if outcome.entry]
    write_page(path, [Entry.model_validate_json(kept_at.read_bytes()) for kept_at in kept])


if __name__ == "__main__":
    main()
