"""The result of a comparison as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from movinet_convert.parity.result import CaseResult, Distances, ParityResult

PARTIAL = "Partial coverage: not all of the default cases."


def result_table(result: ParityResult) -> Group:
    """The distances of the logits and of the worst state of every case, and the result."""
    table = Table(
        title=f"{result.variant}, largest differences in standard deviations of the reference"
        + (f"\n{PARTIAL}" if result.coverage == "partial" else ""),
        title_justify="left",
        box=box.SIMPLE_HEAD,  # all cases fit 80 columns
        pad_edge=False,
    )
    for heading in ("case", "clip", "tensor"):
        table.add_column(heading, no_wrap=True)
    for pair in ("TF fp32\nPT fp32", "TF fp32\nPT fp64", "PT fp32\nPT fp64"):
        table.add_column(pair, justify="right", no_wrap=True)
    for case in result.cases:
        table.add_row(case.name, _clip(case), "logits", *_cells(case.logits, result.tolerance))
        if case.states is not None:
            table.add_row("", "", "states", *_cells(case.states, result.tolerance))
    return Group(table, Text(result.verdict, style="green" if result.passed else "bold red"))


def _clip(case: CaseResult) -> str:
    height, width = case.size
    calls = f" in {len(case.chunks)}" if len(case.chunks) > 1 else ""
    return f"{case.batch} x {case.frames}{calls} x {height} x {width}"


def _cells(distances: Distances, tolerance: float) -> tuple[Text, ...]:
    within = distances.tf_fp32_pt_fp32 <= tolerance
    return (
        Text(f"{distances.tf_fp32_pt_fp32:.1e}", style="green" if within else "bold red"),
        Text(f"{distances.tf_fp32_pt_fp64:.1e}"),
        Text(f"{distances.pt_fp32_pt_fp64:.1e}"),
    )
