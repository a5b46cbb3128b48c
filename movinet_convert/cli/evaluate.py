"""``movinet-convert evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from movinet_convert.cli.options import (
    INTERRUPTED,
    json_option,
    reported,
    weights_dir_option,
)
from movinet_convert.cli.terminal import echo, echo_json
from movinet_convert.errors import EvaluationError

if TYPE_CHECKING:
    from movinet_convert.video.evaluation import Evaluation


@click.command("evaluate")
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with one folder of videos for each class, or a CSV file with the columns label "
    "and path, or Kinetics' label, youtube_id, time_start, time_end. A label is a class name; a "
    "number that is no class name is an index, as in a column class_index.",
)
@click.option(
    "--videos", type=click.Path(path_type=Path), help="Where the paths of a CSV file start."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names of the classes, one a line, in the order of the logits.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where results are kept; a second run resumes from them. [default: evaluation-NAME]",
)
@click.option("--retry", is_flag=True, help="Try the videos again that could not be read before.")
@weights_dir_option
@click.option(
    "--frames",
    type=click.IntRange(1, 10_000),
    help="Of a clip; the variant's by default.",
)
@click.option("--device", help="Where the network runs, such as cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="For the network and for decoding.")
@json_option
def evaluate_command(
    name: str,
    data: Path,
    videos: Path | None,
    labels: Path | None,
    out: Path | None,
    retry: bool,
    weights_dir: str | None,
    frames: int | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure top-1 and top-5 accuracy over labelled videos.

    One clip from the middle of each video, as in the published table. A video that cannot be read
    to its end does not count. Stopped (Ctrl-C) and started again, it resumes where it was.

    \b
    Examples:
      movinet-convert evaluate a2-stream --data kinetics600/val
      torchrun --nproc-per-node 4 -m movinet_convert evaluate a2-base --data val.csv
    """
    from movinet_convert.cli.render_video import count_progress
    from movinet_convert.video import processes
    from movinet_convert.video.evaluation import evaluate

    folder = out or Path(f"evaluation-{Path(name).stem}")
    with reported(as_json):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        try:
            with count_progress(f"Evaluating {name}") as progress:
                result = evaluate(
                    name,
                    data,
                    folder,
                    videos=videos,
                    labels=labels,
                    weights_dir=weights_dir,
                    frames=frames,
                    device=device,
                    threads=threads or 0,
                    retry=retry,
                    progress=progress,
                )
        except KeyboardInterrupt:
            _print_stopped(folder)
            sys.exit(INTERRUPTED)
        if processes.rank() == 0:
            _print(result, folder, as_json)
        if not result.read:
            raise EvaluationError(
                f"None of the {result.videos} videos could be read; {folder} says why for each, "
                "and --retry tries them again."
            )


def _print_stopped(folder: Path) -> None:
    kept = folder.is_dir() and any(folder.glob("results-*.jsonl"))
    what = f"the results so far are kept in {folder}, and the same command resumes"
    echo(f"Stopped; {what if kept else 'nothing was evaluated'}.", err=True)


def _print(result: Evaluation, folder: Path, as_json: bool) -> None:
    if as_json and result.read:
        figures = {
            "variant": result.variant,
            "top1": result.top1,
            "top5": result.top5,
            "videos": result.videos,
            "read": result.read,
            "broken": result.broken,
            "results": str(folder),
        }
        echo_json(figures)
    elif not as_json and result.read:
        echo(
            f"{result.variant}: top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} % "
            f"over {result.read} videos"
        )
        if result.broken:
            echo(f"{result.broken} could not be read and do not count; see {folder}, and --retry.")
