"""Convert synthetic checkpoints of the variants in every type, and print how they compare.

    python scripts/parity_figures.py                          # twelve variants, three types
    python scripts/parity_figures.py a0-stream --dtype float16 --json figures.json

Each file is written into a store (a temporary one unless --out names it), read back and compared
in the default cases, as by ``movinet-convert --synthetic --dtype``; the store's manifest records
the same figures. Exit code 1 if a file exceeds its tolerance.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import click

from movinet_convert.errors import ParityError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import list_variants
from movinet_convert.weights.header import Dtype


@dataclass(frozen=True)
class Row:
    """One file: its figures as the manifest holds them, or why it was refused."""

    variant: str
    dtype: Dtype
    seconds: float
    parity: dict[str, Any] | None = None
    parity_as_stored: dict[str, Any] | None = None
    problem: str | None = None


def convert_in(work: tuple[str, tuple[Dtype, ...], Path, ParityOptions]) -> list[Row]:
    """The rows of one variant."""
    from movinet_convert import convert
    from movinet_convert.conversion.sources import synthetic

    name, dtypes, store, options = work
    rows = []
    with synthetic(get_variant(name)) as source:
        for dtype in dtypes:
            start = time.perf_counter()
            try:
                entry = convert(name, source, out=store, dtype=dtype, parity=options).stored.entry
            except ParityError as error:
                rows.append(Row(name, dtype, time.perf_counter() - start, problem=str(error)))
                continue
            rounded = entry.parity_as_stored
            rows.append(
                Row(
                    name,
                    dtype,
                    time.perf_counter() - start,
                    entry.parity.model_dump() if entry.parity else None,
                    rounded.model_dump() if rounded else None,
                )
            )
    return rows


def show(row: Row) -> None:
    """A line of a Markdown table."""
    if row.parity is None:
        print(f"| {row.variant} | {row.dtype} | refused: {row.problem} |", flush=True)
        return
    pairs = ("tf_fp32_pt_fp32", "tf_fp32_pt_fp64", "pt_fp32_pt_fp64")
    figures = [row.parity[pair] for pair in pairs]
    if row.parity_as_stored is not None:
        figures.append(row.parity_as_stored["tf_fp32_pt_fp32"])
    cells = " | ".join(f"{figure:.1e}" for figure in figures)
    print(f"| {row.variant} | {row.dtype} | {cells} | {row.seconds:.0f} s |", flush=True)


@click.command()
@click.argument("names", nargs=-1, metavar="VARIANT...")
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(get_args(Dtype)),
    multiple=True,
    default=get_args(Dtype),
    help="All of them unless given.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The store to write into.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Keep the figures.")
def main(
    names: tuple[str, ...], dtypes: tuple[Dtype, ...], out: Path | None, json_path: Path | None
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = out or Path(scratch)
        work = [(name, dtypes, store, ParityOptions()) for name in names or list_variants()]
        # TensorFlow frees its memory only when the process ends.
        context = multiprocessing.get_context("spawn")
        rows: list[Row] = []
        with context.Pool(1, maxtasksperchild=1) as pool:
            for made in pool.imap(convert_in, work):
                for row in made:
                    show(row)
                rows += made
                if json_path is not None:
                    json_path.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    if any(row.problem for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
