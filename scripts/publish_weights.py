#!/usr/bin/env python3
"""Publish weights that ``regenerate_weights.py`` converted and compared, with a model card each.

    python scripts/publish_weights.py --org ORG                   all of the store, to the Hub
    python scripts/publish_weights.py a0-base --folder release/   one, into a folder
    python scripts/publish_weights.py --org ORG --dry-run         say what would be uploaded

Each variant is a repository of its own, such as ORG/movinet-a0-stream: weights, labels, manifest,
report and card. What is unchanged is not written again, so the command may be repeated. Weights
that were not compared, or are not the release, are refused. Exit code 1 if one was refused or
failed; the others are published. The token is that of ``$HF_TOKEN`` or ``hf auth login``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package beside this script, installed or not

from movinet_convert.cli import options  # noqa: E402
from movinet_convert.cli.command import Command, sentence  # noqa: E402
from movinet_convert.errors import MovinetError, UsageError  # noqa: E402
from movinet_convert.model.settings import get_variant  # noqa: E402
from movinet_convert.weights import manifest as manifests  # noqa: E402
from movinet_convert.weights.hub_files import require_hub  # noqa: E402
from movinet_convert.weights.manifest import Manifest  # noqa: E402
from movinet_convert.weights.naming import store_folder  # noqa: E402
from movinet_convert.weights.store import Store  # noqa: E402

require_hub()
from huggingface_hub.utils import disable_progress_bars  # noqa: E402

from scripts.publishing.candidates import candidate  # noqa: E402
from scripts.publishing.targets import Change, Folder, Organisation, Target  # noqa: E402
from scripts.regenerate_weights import catalogue_option  # noqa: E402

PREFIX = "movinet-"
State = Literal["published", "unchanged", "would change", "refused", "failed"]
COLOURS: dict[State, str] = {
    "published": "green",
    "unchanged": "green",
    "would change": "yellow",
    "refused": "red",
    "failed": "red",
}


@dataclass(frozen=True)
class Outcome:
    """What happened to a variant; ``problem`` says why it was refused or failed."""

    name: str
    address: str
    state: State
    changes: Mapping[str, Change] = field(default_factory=dict)  # by file
    sizes: Mapping[str, int] = field(default_factory=dict)  # in bytes
    rehearsal: bool = False
    problem: str | None = None


def publish(
    names: Iterable[str],
    store: Store,
    target: Target,
    catalogue: Manifest,
    *,
    allow_synthetic: bool = False,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Publish variants one after another; a failure of one does not stop the others."""
    for name in names:
        address = target.address(PREFIX + name)
        try:
            chosen = candidate(name, store, catalogue, allow_synthetic=allow_synthetic)
        except MovinetError as error:
            yield Outcome(name, address, "refused", problem=sentence(error))
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="movinet-publish-") as folder:
                files = Path(folder)
                chosen.write(files, address)
                changes = target.changes(PREFIX + name, files)
                state = _state(changes, dry_run)
                if state == "published":
                    message = f"Publish {name} as converted by movinet-convert"
                    target.publish(PREFIX + name, files, changes, message)
                sizes = {file.name: file.stat().st_size for file in files.iterdir()}
            yield Outcome(name, address, state, changes, sizes, chosen.rehearsal)
        except Exception as error:  # the other variants go on
            yield Outcome(name, address, "failed", problem=sentence(error))


def _state(changes: dict[str, Change], dry_run: bool) -> State:
    if set(changes.values()) == {"unchanged"}:
        return "unchanged"
    return "would change" if dry_run else "published"


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.weights_dir
@click.option("--org", metavar="ORG", help="The organisation, or user, on the Hugging Face Hub.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder, instead of the Hub; each variant gets a folder in it.",
)
@click.option("--private", is_flag=True, help="Create private repositories.")
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be uploaded.")
@click.option(
    "--allow-synthetic",
    is_flag=True,
    help="Publish weights that are not the release too, as a rehearsal; their cards say so.",
)
@catalogue_option
def main(
    names: tuple[str, ...],
    weights_dir: str | None,
    org: str | None,
    folder: Path | None,
    private: bool,
    dry_run: bool,
    allow_synthetic: bool,
    catalogue_path: Path,
) -> None:
    """Publish the weights of a store that were compared; all of them unless some are named.

    \b
    Example: python scripts/publish_weights.py --org ORG --dry-run
    """
    if (org is None) == (folder is None):
        raise UsageError("Pass either --org ORG, for the Hub, or --folder DIR.")
    if folder is not None and private:
        raise UsageError("--private is for the Hub; leave it out with --folder.")
    if not sys.stderr.isatty():
        disable_progress_bars()
    target: Target = Organisation(org, private) if org else Folder(folder or Path())
    store = Store(store_folder(weights_dir))
    chosen = [get_variant(name).name for name in names] or _in_store(store)
    outcomes = []
    for outcome in publish(
        chosen,
        store,
        target,
        manifests.read(catalogue_path),
        allow_synthetic=allow_synthetic,
        dry_run=dry_run,
    ):
        outcomes.append(outcome)
        _print_line(outcome, len(outcomes), len(chosen))
    _print_summary(outcomes)
    if any(outcome.problem for outcome in outcomes):
        sys.exit(1)


def _in_store(store: Store) -> Sequence[str]:
    names = store.manifest().converted
    if not names:
        raise UsageError(
            f"The store {store.folder} has no weights; run scripts/regenerate_weights.py first."
        )
    return names


def _print_line(outcome: Outcome, number: int, count: int) -> None:
    """The outcome, with each file that differs from what is there."""
    click.echo(f"{number} of {count}  {outcome.name}  {outcome.state}", err=True)
    for file, change in outcome.changes.items():
        if change != "unchanged":
            click.echo(f"  {change:<8} {file}  {outcome.sizes[file] / 1e6:.2f} MB", err=True)
    if outcome.problem is not None:
        click.echo(f"  {outcome.problem}", err=True)


def _print_summary(outcomes: Sequence[Outcome]) -> None:
    table = Table(title="Weights and where they are published", title_justify="left")
    for heading in ("variant", "load_converted", "result", "new", "changed", "unchanged"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        rehearsal = "\nrehearsal" if outcome.rehearsal else ""
        state = Text(outcome.state + rehearsal, style=COLOURS[outcome.state])
        kinds = ("new", "changed", "unchanged")
        counts = [str(list(outcome.changes.values()).count(kind) or "") for kind in kinds]
        table.add_row(outcome.name, outcome.address, state, *counts)
    Console().print(table)
    good = sum(outcome.problem is None for outcome in outcomes)
    click.echo(f"{good} of {len(outcomes)} as expected")


if __name__ == "__main__":
    main()
