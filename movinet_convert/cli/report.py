"""``movinet-convert report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import Command
from movinet_convert.cli.terminal import doing, echo
from movinet_convert.cli.threads import following_load
from movinet_convert.errors import UsageError


@click.command(
    "report", cls=Command, short_help="Compare with the official model, and write an HTML report."
)
@click.argument(
    "names", nargs=-1, metavar="[NAME|FILE]...", shell_complete=completion.stored_or_file
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    help="The page to write.",
)
@options.weights_dir
@options.parity
def report_command(
    names: tuple[str, ...], out: Path, weights_dir: str | None, **settings: Any
) -> None:
    """Compare converted weights with the official model, and write an HTML report.

    Without names: all weights in the store.

    \b
    Example: movinet-convert report a0-base a0-stream --out report.html
    """
    from movinet_convert.files.writing import check_output
    from movinet_convert.parity.report import examine, write_page
    from movinet_convert.weights.load import locate
    from movinet_convert.weights.naming import store_folder
    from movinet_convert.weights.store import Store

    parity = options.parity_settings(settings)
    if not names:
        store = Store(store_folder(weights_dir))
        names = tuple(store.manifest().converted)
        if not names:
            raise UsageError(f"The store {store.folder} is empty; convert weights, or name files.")
    inputs = [locate(name, weights_dir=weights_dir).path for name in names]
    check_output(out, (".html", ".htm"), inputs)
    sections = []
    for number, name in enumerate(names, 1):
        what = f"Comparing {name} with the official model ({number} of {len(names)})"
        with doing(what) as stage:
            adapted = following_load(stage)
            sections.append(examine(name, weights_dir=weights_dir, parity=parity, stage=adapted))
    write_page(out, sections)
    passed = sum(section.parity.passed for section in sections)
    echo(f"Wrote {out}: {passed} of {len(sections)} within tolerance")
    if passed < len(sections):
        sys.exit(1)
