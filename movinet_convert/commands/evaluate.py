"""``movinet-convert evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from movinet_convert.commands.options import json_option, reported, weights_dir_option
from movinet_convert.terminal import echo, echo_json

if TYPE_CHECKING:
    from movinet_convert.evaluate import Evaluation


@click.command("evaluate")
@click.argument("name", metavar="NAME|FILE")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder with one folder of videos for each class, or a CSV file with the columns label "
    "and path, or Kinetics' label, youtube_id, time_start, time_end.",
)
@click.option(
    "--videos", type=click.Path(path_type=Path), help="Where the paths of a CSV file start."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where results are kept; a second run goes on from them. [default: evaluation-NAME]",
)
@weights_dir_option
@click.option("--frames", type=click.IntRange(min=1), help="Of a clip; the variant's by default.")
@click.option("--device", help="Where the network runs, such as cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="For the network and for decoding.")
@json_option
def evaluate_command(
    name: str,
    data: Path,
    videos: Path | None,
    out: Path | None,
    weights_dir: str | None,
    frames: int | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure top-1 and top-5 accuracy over labelled videos.

    One clip from the middle of each video, as in the published table. Stopped and started again,
    it goes on where it was.

    \b
    Examples:
      movinet-convert evaluate a2-stream --data kinetics600/val
      torchrun --nproc-per-node 4 -m movinet_convert evaluate a2-base --data val.csv
    """
    from movinet_convert import processes
    from movinet_convert.evaluate import evaluate
    from movinet_convert.render_video import count_progress

    folder = out or Path(f"evaluation-{Path(name).stem}")
    with reported(as_json):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        with count_progress(f"Evaluating {name}") as progress:
            result = evaluate(
                name,
                data,
                folder,
                videos=videos,
                weights_dir=weights_dir,
                frames=frames,
                device=device,
                threads=threads or 0,
                progress=progress,
            )
    if processes.rank() == 0:
        _print(result, folder, as_json)


def _print(result: Evaluation, folder: Path, as_json: bool) -> None:
    if as_json:
        echo_json(
            {
                "variant": result.variant,
                "top1": result.top1,
                "top5": result.top5,
                "videos": result.videos,
                "read": result.read,
                "broken": result.broken,
                "results": str(folder),
            }
        )
        return
    if result.top1 is None or result.top5 is None:
        echo(f"{result.variant}: none of {result.videos} videos could be read")
    else:
        echo(
            f"{result.variant}: top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} % "
            f"over {result.read} videos"
        )
    if result.broken:
        echo(f"{result.broken} could not be read and do not count; see {folder}.")
