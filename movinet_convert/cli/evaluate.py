"""``movinet-convert evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import options
from movinet_convert.cli.command import INTERRUPTED, Command
from movinet_convert.cli.terminal import echo, echo_json, progress
from movinet_convert.errors import EvaluationError

if TYPE_CHECKING:
    from movinet_convert.video.evaluate import Evaluation


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
    type=click.Path(path_type=Path),
    help="Folder of the results; a second run resumes from them. [default: evaluation-NAME]",
)
@click.option("--retry", is_flag=True, help="Retry the videos that could not be read before.")
@options.weights_dir
@click.option("--frames", type=click.IntRange(1, 10_000), help="Of a clip; the variant's own.")
@options.device
@options.threads
@options.trusted
@options.as_json
def evaluate_command(
    name: str, data: Path, out: Path | None, as_json: bool, trusted: bool, **settings: Any
) -> None:
    """Measure top-1 and top-5 accuracy over labelled videos.

    NAME is a converted variant, FILE converted weights or a file of export, which runs in its own
    runtime. One clip from the middle of each video, as in the published table. Videos that cannot
    be read to the end are excluded. If stopped (Ctrl-C), the same command resumes.

    \b
    Examples:
      movinet-convert evaluate a2-stream --data kinetics600/val
      torchrun --nproc-per-node 4 -m movinet_convert evaluate a2-base --data val.csv
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from movinet_convert.video import processes
    from movinet_convert.video.evaluate import evaluate

    used = {key: settings[key] for key in ("device", "threads", "weights_dir")}
    exported = options.exported(name, trusted=trusted, **used)
    folder = out or Path(f"evaluation-{Path(name).stem}")
    columns = (MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with progress(f"Evaluating {name}", *columns) as update:
            result = evaluate(
                name,
                data,
                folder,
                exported=exported,
                progress=lambda done, total: update(completed=done, total=total),
                **settings,
            )
    except KeyboardInterrupt:
        _print_stopped(folder)
        sys.exit(INTERRUPTED)
    if not result.read:
        raise EvaluationError(
            f"None of the {result.videos} videos could be read; {folder} has the error of each; "
            "--retry tries them again."
        )
    if processes.rank() == 0:
        _print(result, folder, as_json)


def _print_stopped(folder: Path) -> None:
    kept = folder.is_dir() and any(folder.glob("results-*.jsonl"))
    what = f"the results so far are kept in {folder}, and the same command resumes"
    echo(f"Stopped; {what if kept else 'nothing was evaluated'}.", err=True)


def _print(result: Evaluation, folder: Path, as_json: bool) -> None:
    if as_json:
        names = ("variant", "top1", "top5", "videos", "read", "broken")
        echo_json({name: getattr(result, name) for name in names} | {"results": str(folder)})
        return
    echo(
        f"{result.variant}: top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} % "
        f"over {result.read} videos"
    )
    if result.broken:
        echo(f"{result.broken} could not be read and do not count; see {folder}, and --retry.")
