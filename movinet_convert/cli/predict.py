"""``movinet-convert predict``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli.options import (
    INTERRUPTED,
    json_option,
    reported,
    weights_dir_option,
)
from movinet_convert.cli.terminal import echo
from movinet_convert.cli.watch import Watch, progress
from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from movinet_convert.video.annotate import Captions
    from movinet_convert.video.prediction import Predictor

    _FloatRange = click.FloatRange
else:
    _FloatRange = click.FloatRange


class Positive(_FloatRange):
    """A number above 0; click itself lets nan and inf through."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@click.command("predict")
@click.argument("name", metavar="NAME|FILE")
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@weights_dir_option
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names of the classes, one a line, in the order of the logits.",
)
@click.option(
    "--fps", type=Positive(), help="Frames a second to read; the variant's own by default."
)
@click.option(
    "--window",
    type=Positive(),
    metavar="SECONDS",
    help="Classify the video in windows of so many seconds, each printed. By default a base "
    "model's own clip, and all of it for a stream model.",
)
@click.option("--seconds", type=Positive(), help="Stop after so many seconds of each video.")
@click.option("--threads", type=click.IntRange(min=1), help="For the network and for decoding.")
@click.option("--device", help="Where the network runs, such as cuda.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the timeline as a picture.")
@click.option(
    "--annotate",
    "annotated",
    type=click.Path(path_type=Path),
    help="Write the video with its running prediction, as .mp4, .mov or .mkv.",
)
@json_option
def predict_command(
    name: str, videos: tuple[str, ...], as_json: bool, top: int, **options: Any
) -> None:
    """Say what happens in videos.

    VIDEO is a file, a folder of videos, a folder of pictures, an address such as rtsp://…, or
    camera (camera:1 is the second). With --json: a line for every frame (every clip of a base
    model), then one with the verdict, for each video.

    Ctrl-C ends the watching: what was seen of the video gets its verdict, marked as cut short, the
    files asked for are written, and further videos are left out. A video that breaks off gets a
    warning and the verdict on what could be read of it.

    \b
    Examples:
      movinet-convert predict a2-stream dance.mp4
      movinet-convert predict a2-stream dance.mp4 --plot timeline.png --annotate out.mp4
      movinet-convert predict a0-stream camera --window 10
    """
    with reported(as_json):
        exit_code = _predict(name, videos, as_json, top, **options)
    sys.exit(exit_code)


def _predict(
    name: str,
    videos: tuple[str, ...],
    as_json: bool,
    top: int,
    *,
    weights_dir: str | None,
    labels: Path | None,
    fps: float | None,
    window: float | None,
    seconds: float | None,
    threads: int | None,
    device: str | None,
    plot: Path | None,
    annotated: Path | None,
) -> int:
    """Predict, print and write; returns the exit code."""
    from movinet_convert.video.frames import is_live
    from movinet_convert.video.prediction import load_predictor

    # Each once, in their order.
    sources = list(dict.fromkeys(source for video in videos for source in _sources(video)))
    _check_outputs(sources, plot, annotated)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    predictor = load_predictor(
        name,
        weights_dir=weights_dir,
        labels=labels,
        fps=fps,
        window=window,
        threads=threads or 0,
        device=device,
    )
    _say_how_to_name_classes(predictor)
    watch = Watch(predictor, top, as_json, seconds, plot is not None, annotated is not None)
    for source in sources:
        watch.video(source)
        if watch.stopped:
            break
    if plot is not None and watch.timelines:
        from movinet_convert.video.timeline_plot import plot_timelines

        title = f"MoViNet {predictor.model.variant.name}"
        plot_timelines(plot, watch.timelines, predictor.labels, title)
        echo(f"Wrote {plot}", err=True)
    if annotated is not None and watch.captions is not None and not watch.failed:
        _annotate(sources[0], annotated, watch.captions)
        echo(f"Wrote {annotated}", err=True)
    if watch.stopped and not is_live(watch.stopped):
        return INTERRUPTED  # a camera has no other end
    return 1 if watch.failed else 0


def _sources(video: str) -> list[str]:
    """A folder of videos is its videos; everything else is itself."""
    from movinet_convert.video.frames import video_files

    inside = video_files(Path(video)) if Path(video).is_dir() else []
    return [str(path) for path in inside] or [video]


def _check_outputs(sources: list[str], plot: Path | None, annotated: Path | None) -> None:
    """Refuse before the work what would fail after it, or overwrite what is read."""
    from movinet_convert.files.outputs import check_output
    from movinet_convert.video.decoding import is_live, picture_files

    folders = [Path(source) for source in sources if Path(source).is_dir()]
    inputs: list[str | Path] = [*sources]
    inputs += [picture for folder in folders for picture in picture_files(folder)]
    if annotated is not None:
        from movinet_convert.video.frames import VIDEO_OUTPUTS

        if len(sources) != 1 or folders or is_live(sources[0]):
            raise UsageError("--annotate writes one video; name one VIDEO that is a file.")
        check_output(annotated, VIDEO_OUTPUTS, inputs)
    if plot is not None:
        from movinet_convert.video.timeline_plot import PLOT_SUFFIXES, check_plotting

        check_output(plot, PLOT_SUFFIXES, inputs)
        check_plotting(plot, len(sources))


def _say_how_to_name_classes(predictor: Predictor) -> None:
    from movinet_convert.weights.labels import numbered

    if predictor.labels == numbered(len(predictor.labels)):
        echo(
            f"These weights do not name their {len(predictor.labels)} classes; --labels FILE does, "
            "with one name a line.",
            err=True,
        )


def _annotate(source: str, target: Path, captions: Captions) -> None:
    from movinet_convert.video.annotate import annotate

    with progress(source, "Drawing", live=None) as show:
        annotate(source, target, captions, progress=show)
