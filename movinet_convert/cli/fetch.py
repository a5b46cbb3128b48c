"""``movinet-convert fetch``, and the download that a conversion shares with it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import echo, echo_json, progress
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.variants import Variant, list_variants

if TYPE_CHECKING:
    from movinet_convert.download.fetch import FetchedRelease


def download(
    variant: Variant, settings: Mapping[str, Any], failing: dict[str, str] | None = None
) -> FetchedRelease:
    """Fetch a release as ``settings`` say, with a progress bar and notices."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    from movinet_convert.download.fetch import fetch_release

    with progress(variant.name, DownloadColumn(), TransferSpeedColumn()) as update:
        release = fetch_release(
            variant,
            source=settings["source"],
            legacy=settings["legacy"],
            offline=settings["offline"],
            failing=failing,
            progress=lambda received, total: update(completed=received, total=total),
            notice=lambda sentence: echo(sentence, err=True),
        )
    if release.first_use:
        echo(
            f"Note: {release.path.name} has no published digest; from now on {release.sha256} "
            "is recorded and trusted.",
            err=True,
        )
    return release


@click.command("fetch", cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=completion.variants)
@click.option("--all", "every", is_flag=True, help="All twelve releases; with --legacy all six.")
@options.source
@click.option("--legacy", is_flag=True, help="The older releases, with 3D convolutions.")
@click.option("--offline", is_flag=True, help="Check the cache only; download nothing.")
@options.as_json
def fetch_command(names: tuple[str, ...], every: bool, as_json: bool, **settings: Any) -> None:
    """Download released checkpoints into the cache, and check them.

    If a release cannot be fetched, the others still are; the exit code is then 1.

    \b
    Example: movinet-convert fetch a0-base a0-stream
    """
    from movinet_convert.model.settings import get_variant

    if every == bool(names):
        raise UsageError("Name the releases to fetch, or use --all.")
    wanted = [get_variant(name) for name in (list_variants() if every else names)]
    if every and settings["legacy"]:
        wanted = [variant for variant in wanted if variant.has_legacy]
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    failing: dict[str, str] = {}  # sources that are tried last from now on
    for variant in wanted:
        try:
            release = download(variant, settings, failing)
        except DownloadError as error:
            if len(wanted) == 1:
                raise
            failed[variant.name] = str(error)
            echo(f"{variant.name}: {error}", err=True)
        else:
            rows.append({**dataclasses.asdict(release), "path": str(release.path)})
            if not as_json:
                echo(f"{variant.name}  {release.sha256}  {release.path}")
    problem = f"{len(failed)} of {len(wanted)} releases could not be fetched: {', '.join(failed)}."
    if as_json:
        failure = {"error": problem, "exit_code": 1, "failed": failed} if failed else {}
        echo_json({"fetched": rows, **failure})
        sys.exit(1 if failed else 0)
    if failed:
        raise DownloadError(problem)
