"""``movinet-convert predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.cli import completion, options
from movinet_convert.cli.command import INTERRUPTED, Command
from movinet_convert.cli.terminal import echo
from movinet_convert.cli.threads import follow_load
from movinet_convert.cli.watch import Watch, video_progress
from movinet_convert.errors import UsageError

if TYPE_CHECKING:
    from movinet_convert.video.plot import Timeline


@click.command("predict", cls=Command)
@options.name
@click.argument(
    "videos", nargs=-1, required=True, metavar="VIDEO...", shell_complete=completion.files
)
@options.weights_dir
@click.option("--top", type=click.IntRange(min=1), default=5, help="Classes.")
@options.labels
@click.option(
    "--fps", type=options.positive, help="Frames per second to read; by default the variant's own."
)
@click.option(
    "--window",
    type=options.positive,
    metavar="SECONDS",
    help="Classify windows of so many seconds, and print each. By default a base model's own "
    "clip length, and the whole video for a stream model.",
)
@click.option("--seconds", type=options.positive, help="Stop after so many seconds of each video.")
@options.threads
@options.device
@options.trusted
@click.option("--plot", type=click.Path(path_type=Path), help="Write the timeline as an image.")
@click.option(
    "--annotate",
    "annotated",
    type=click.Path(path_type=Path),
    help="Write the video with its running prediction, as .mp4, .mov or .mkv.",
)
@options.as_json
def predict_command(
    name: str,
    videos: tuple[str, ...],
    top: int,
    seconds: float | None,
    plot: Path | None,
    annotated: Path | None,
    as_json: bool,
    trusted: bool,
    **settings: Any,
) -> None:
    """Classify what happens in videos.

    NAME is in the store, or hf://ORG/NAME; FILE has converted weights, or was written by export
    and runs in its own runtime. VIDEO is a file, a folder of videos, a folder of images, a URL
    such as rtsp://…, or camera (camera:1 is the second). With --json: for each video a line per
    frame (per clip for a base model), then one with the overall prediction ("verdict").

    Ctrl-C stops: the video so far gets a prediction marked as cut short, --plot and --annotate
    write their files, the remaining videos are skipped, and the exit code is 130 (0 for a camera);
    a second Ctrl-C stops at once. A truncated video gets a warning and a prediction from what
    could be read.

    \b
    Examples:
      movinet-convert predict a2-stream dance.mp4
      movinet-convert predict a2-stream dance.mp4 --plot timeline.png --annotate out.mp4
      movinet-convert predict a0-stream camera --window 10
      movinet-convert predict a0-stream.onnx dance.mp4 --threads 1
    """
    from movinet_convert.video.annotate import Captions
    from movinet_convert.video.decode import is_live
    from movinet_convert.video.predict import load_predictor

    sources = list(dict.fromkeys(source for video in videos for source in _sources(video)))
    _check_outputs(sources, plot, annotated)
    used = {key: settings[key] for key in ("device", "threads", "weights_dir")}
    exported = options.exported(name, trusted=trusted, **used)
    predictor = load_predictor(name, exported=exported, **settings)
    timelines: list[Timeline] | None = None if plot is None else []
    captions = None if annotated is None else Captions(predictor)
    adapt = follow_load(settings["threads"])
    watch = Watch(predictor, top, as_json, seconds, timelines, captions, adapt)
    for source in sources:
        watch.video(source)
        if watch.stopped:
            break
    _write(watch, sources[0], plot, annotated)
    if watch.stopped and not is_live(watch.stopped):  # the normal way to end a camera
        sys.exit(INTERRUPTED)
    sys.exit(1 if watch.failed else 0)


def _sources(video: str) -> list[str]:
    """The videos in a folder and its subfolders; anything else is itself a source."""
    from movinet_convert.video.clips import find_videos

    inside = find_videos(Path(video)) if Path(video).is_dir() else []
    return [str(path) for path in inside] or [video]


def _check_outputs(sources: list[str], plot: Path | None, annotated: Path | None) -> None:
    """Reject up front outputs that would fail later, or overwrite an input."""
    from movinet_convert.files.writing import check_output
    from movinet_convert.video.decode import image_files, is_live
    from movinet_convert.video.encode import VIDEO_OUTPUTS

    folders = [Path(source) for source in sources if Path(source).is_dir()]
    inputs: list[str | Path] = [*sources]
    inputs += [image for folder in folders for image in image_files(folder)]
    if annotated is not None:
        if len(sources) != 1 or folders or is_live(sources[0]):
            raise UsageError("--annotate writes one video; name one VIDEO that is a file.")
        check_output(annotated, VIDEO_OUTPUTS, inputs)
    if plot is not None:
        from movinet_convert.video.plot import PLOT_SUFFIXES, check_plotting

        check_output(plot, PLOT_SUFFIXES, inputs)
        check_plotting(plot, len(sources))


def _write(watch: Watch, source: str, plot: Path | None, annotated: Path | None) -> None:
    predictor = watch.predictor
    if plot is not None and watch.timelines:
        from movinet_convert.video.plot import plot_timelines

        title = f"MoViNet {predictor.model.variant.name}"
        plot_timelines(plot, watch.timelines, predictor.labels, title)
        echo(f"Wrote {plot}", err=True)
    if annotated is not None and watch.captions is not None and not watch.failed:
        from movinet_convert.video.annotate import annotate

        with video_progress(source, "Drawing") as update:
            annotate(
                source, annotated, watch.captions, progress=lambda time: update(completed=time)
            )
        echo(f"Wrote {annotated}", err=True)
