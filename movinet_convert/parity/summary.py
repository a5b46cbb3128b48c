"""A comparison as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from movinet_convert.parity.result import CaseResult, Distances, ParityReport

PARTIAL = "Partial coverage: not all of the default cases."


def report_table(report: ParityReport) -> Group:
    """The logits and the furthest state of every case, and the verdict below."""
    table = Table(
        title=f"{report.variant}, differences relative to the spread of the reference"
        + (f"\n{PARTIAL}" if report.coverage == "partial" else ""),
        title_justify="left",
        box=box.SIMPLE_HEAD,  # all cases fit 80 columns
        pad_edge=False,
    )
    for heading in ("case", "clip", "tensor"):
        table.add_column(heading, no_wrap=True)
    for pair in ("TF fp32\nPT fp32", "TF fp32\nPT fp64", "PT fp32\nPT fp64"):
        table.add_column(pair, justify="right", no_wrap=True)
    for case in report.cases:
        table.add_row(case.name, _clip(case), "logits", *_cells(case.logits, report.tolerance))
        if case.states is not None:
            table.add_row("", "", "states", *_cells(case.states, report.tolerance))
    return Group(table, _verdict(report))


def _clip(case: CaseResult) -> str:
    height, width = case.size
    calls = f" in {len(case.chunks)}" if len(case.chunks) > 1 else ""
    return f"{case.batch} x {sum(case.chunks)}{calls} x {height} x {width}"


def _cells(distances: Distances, tolerance: float) -> tuple[Text, Text, Text]:
    within = distances.tf_fp32_pt_fp32 <= tolerance
    return (
        Text(f"{distances.tf_fp32_pt_fp32:.1e}", style="green" if within else "bold red"),
        Text(f"{distances.tf_fp32_pt_fp64:.1e}"),
        Text(f"{distances.pt_fp32_pt_fp64:.1e}"),
    )


def _verdict(report: ParityReport) -> Text:
    worst = report.worst
    if not report.passed:
        return Text(
            f"FAILED: {worst.tf_fp32_pt_fp32:.2g} is beyond the tolerance {report.tolerance:g}; "
            f"activations first differ at {report.first_difference}.",
            style="bold red",
        )
    nearer = "at least as near" if report.nearer_than_reference else "not as near"
    return Text(
        f"Passed: at most {worst.tf_fp32_pt_fp32:.2g}, tolerance {report.tolerance:g}; "
        f"PyTorch float32 is {nearer} to float64 as TF float32.",
        style="green",
    )
