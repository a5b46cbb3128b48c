"""``movinet-convert evaluate``."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import INTERRUPTED, Command
from movinet_convert.cli.terminal import console, echo, echo_json, progress
from movinet_convert.cli.threads import follow_load
from movinet_convert.errors import EvaluationError

if TYPE_CHECKING:
    from movinet_convert.video.accuracy import ClassAccuracy, Comparison, Proportion
    from movinet_convert.video.evaluate import Evaluation

CLASSES_SHOWN = 10


def percent(text: str) -> float:
    """An accuracy in percent, 0 to 100; a fraction such as 0.72 would be taken for a percentage."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number == 0 or 1 <= number <= 100):
        raise click.BadParameter(f"{text!r} is not an accuracy in percent, such as 72.05.")
    return number


@click.command("evaluate", cls=Command)
@options.name
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with one folder of videos per class, or a CSV file with the columns label "
    "and path, or Kinetics' label, youtube_id, time_start, time_end. A label is a class name; a "
    "number that is not a class name is an index, as in a column class_index.",
)
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="Base folder of the paths in a CSV file.",
)
@options.labels
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the results; a second run resumes from them. [default: evaluation-NAME]",
)
@click.option(
    "--expect",
    "expected_top1",
    type=percent,
    metavar="PERCENT",
    help="Compare the top-1 accuracy with this one, at 95 % confidence; exit code 1 if it differs.",
)
@click.option(
    "--expect-top5",
    "expected_top5",
    type=percent,
    metavar="PERCENT",
    help="The same for top-5.",
)
@click.option("--retry", is_flag=True, help="Retry the videos that could not be read before.")
@options.weights_dir
@click.option("--frames", type=click.IntRange(1, 10_000), help="Of a clip; the variant's own.")
@click.option("--fps", type=options.positive, help="Frames per second; the variant's own.")
@options.device
@options.threads
@options.trusted
@options.as_json
def evaluate_command(
    name: str,
    data: Path,
    out: Path | None,
    expected_top1: float | None,
    expected_top5: float | None,
    as_json: bool,
    trusted: bool,
    **settings: Any,
) -> None:
    """Measure top-1 and top-5 accuracy over labelled videos.

    NAME is in the store, or hf://ORG/NAME; FILE has converted weights, or was written by export
    and runs in its own runtime. One clip from the middle of each video, as in the published
    table. Videos that cannot be read to the end are excluded. If stopped (Ctrl-C), the same
    command resumes. The folder of the results has the accuracy per class and the confusion
    matrix too.

    \b
    Examples:
      movinet-convert evaluate a2-stream --data kinetics600/val --expect 78.40
      torchrun --nproc-per-node 4 -m movinet_convert evaluate a2-base --data val.csv
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from movinet_convert.video import processes
    from movinet_convert.video.evaluate import evaluate

    used = {key: settings[key] for key in ("device", "threads", "weights_dir")}
    exported = options.exported(name, trusted=trusted, **used)
    adapt = follow_load(settings["threads"])
    folder = out or Path(f"evaluation-{Path(name).stem}")
    columns = (MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with progress(f"Evaluating {name}", *columns) as update:

            def counted(done: int, total: int) -> None:
                adapt()
                update(completed=done, total=total)

            result = evaluate(name, data, folder, exported=exported, progress=counted, **settings)
    except KeyboardInterrupt:
        _print_stopped(folder)
        sys.exit(INTERRUPTED)
    if not result.read:
        raise EvaluationError(
            f"None of the {result.videos} videos could be read; {folder} has the error of each; "
            "--retry tries them again."
        )
    if processes.rank() != 0:
        return
    compared = _compared(result, {"top1": expected_top1, "top5": expected_top5})
    if as_json:
        echo_json(_as_json(result, compared, folder))
    else:
        _print(result, compared, folder)
    if not all(comparison.consistent for comparison in compared.values()):
        sys.exit(1)


def _print_stopped(folder: Path) -> None:
    kept = folder.is_dir() and any(folder.glob("results-*.jsonl"))
    what = f"the results so far are kept in {folder}, and the same command resumes"
    echo(f"Stopped; {what if kept else 'nothing was evaluated'}.", err=True)


def _compared(result: Evaluation, expected: Mapping[str, float | None]) -> dict[str, Comparison]:
    from movinet_convert.video.accuracy import Comparison

    return {
        top: Comparison(getattr(result.accuracy, top), value)
        for top, value in expected.items()
        if value is not None
    }


def _as_json(
    result: Evaluation, compared: Mapping[str, Comparison], folder: Path
) -> dict[str, Any]:
    names = ("variant", "top1", "top5", "videos", "read", "broken", "top1_of_all")
    values = {name: getattr(result, name) for name in names}
    accuracy = result.accuracy
    intervals = {f"{top}_interval": getattr(accuracy, top).interval for top in ("top1", "top5")}
    expected = {
        top: {
            "percent": comparison.expected,
            "consistent": comparison.consistent,
            "p_value": comparison.p_value,
            "detectable": comparison.detectable,
        }
        for top, comparison in compared.items()
    }
    return (
        values
        | intervals
        | {
            "expected": expected,
            "classes": [_class_as_json(figures, result.labels) for figures in accuracy.worst_first],
            "confusion": [[*pair, count] for pair, count in sorted(accuracy.confusion.items())],
            "results": str(folder),
        }
    )


def _class_as_json(figures: ClassAccuracy, labels: Sequence[str]) -> dict[str, Any]:
    other = figures.confused_with
    return {
        "class": labels[figures.index],
        "class_index": figures.index,
        "videos": figures.top1.total,
        "top1": figures.top1.percent,
        "top1_interval": figures.top1.interval,
        "top5": figures.top5.percent,
        "confused_with": None if other is None else labels[other],
        "confused": figures.confused,
    }


def _print(result: Evaluation, compared: Mapping[str, Comparison], folder: Path) -> None:
    accuracy = result.accuracy
    echo(
        f"{result.variant}: top-1 {_with_interval(accuracy.top1)}, "
        f"top-5 {_with_interval(accuracy.top5)}",
        f"over {result.read} videos, with 95 % confidence intervals",
    )
    _print_classes(result)
    echo(f"All classes and the confusion matrix are in {folder}.")
    for top, comparison in compared.items():
        _print_comparison(top.replace("top", "top-"), comparison)
    if result.broken:
        low, high = result.top1_of_all
        echo(
            f"{result.broken} of {result.videos} videos could not be read and do not count; see "
            f"{folder}, and --retry.",
            f"Had all of them been wrong, top-1 would be {low:.2f} %; all correct, {high:.2f} %.",
        )
        if compared:
            echo("The comparison is biased unless they are missing at random.")


def _print_classes(result: Evaluation) -> None:
    """Print the classes with the lowest top-1 as a table."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), show_edge=False)
    table.add_column("worst classes", no_wrap=True)
    for heading in ("videos", "top-1", "top-5"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("confused with", no_wrap=True)
    for figures in result.accuracy.worst_first[:CLASSES_SHOWN]:
        other = figures.confused_with
        table.add_row(
            result.labels[figures.index],
            str(figures.top1.total),
            _with_interval(figures.top1, digits=0),
            f"{figures.top5.percent:.0f} %",
            "" if other is None else f"{result.labels[other]} ({figures.confused})",
        )
    console().print(table)


def _print_comparison(what: str, comparison: Comparison) -> None:
    verdict = "consistent" if comparison.consistent else "NOT consistent"
    echo(
        f"{what} is {verdict} with the expected {comparison.expected:.2f} % "
        f"(95 % confidence, p = {comparison.p_value:.2g})."
    )
    low, high = comparison.detectable
    limits = [f"below {low:.2f} %"] if low is not None else []
    limits += [f"above {high:.2f} %"] if high is not None else []
    videos = f"{comparison.measured.total} videos"
    if limits:
        echo(f"{videos} show a true {what} {' or '.join(limits)} in 4 of 5 such runs.")
    else:
        echo(f"{videos} are too few to show any difference.")


def _with_interval(proportion: Proportion, digits: int = 2) -> str:
    low, high = proportion.interval
    return f"{proportion.percent:.{digits}f} % ({low:.{digits}f}-{high:.{digits}f})"
