"""``movinet-convert predict``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from movinet_convert.commands.options import json_option, reported, weights_dir_option
from movinet_convert.errors import UsageError, VideoError
from movinet_convert.terminal import echo, echo_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from movinet_convert.predict import Moment, Predictor, Probabilities

SHARE = click.FloatRange(min=0, min_open=True)


@click.command("predict")
@click.argument("name", metavar="NAME|FILE")
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@weights_dir_option
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes.")
@click.option("--fps", type=SHARE, help="Frames a second to read; the variant's own by default.")
@click.option(
    "--window",
    type=SHARE,
    metavar="SECONDS",
    help="Judge the video in pieces of so many seconds. By default a base model's own clip, and "
    "all of it for a stream model.",
)
@click.option("--seconds", type=SHARE, help="Stop after so many seconds of each video.")
@click.option("--threads", type=click.IntRange(min=1), help="For the network and for decoding.")
@click.option("--device", help="Where the network runs, such as cuda.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the timeline as a picture.")
@click.option(
    "--annotate",
    "annotated",
    type=click.Path(path_type=Path),
    help="Write the video with its running prediction, as mp4.",
)
@json_option
def predict_command(
    name: str, videos: tuple[str, ...], as_json: bool, top: int, **options: Any
) -> None:
    """Say what happens in videos.

    VIDEO is a file, a folder of videos, a folder of pictures, an address such as rtsp://…, or
    camera (camera:1 is the second). With --json: a line for every frame (every clip of a base
    model), then one with the verdict, for each video.

    \b
    Examples:
      movinet-convert predict a2-stream dance.mp4
      movinet-convert predict a2-stream dance.mp4 --plot timeline.png --annotate out.mp4
      movinet-convert predict a0-stream camera --window 10
    """
    with reported(as_json):
        failed = _predict(name, videos, as_json, top, **options)
    if failed:
        sys.exit(1)


def _predict(
    name: str,
    videos: tuple[str, ...],
    as_json: bool,
    top: int,
    *,
    weights_dir: str | None,
    fps: float | None,
    window: float | None,
    seconds: float | None,
    threads: int | None,
    device: str | None,
    plot: Path | None,
    annotated: Path | None,
) -> int:
    """Predict and print; returns how many videos could not be read."""
    from movinet_convert.predict import load_predictor, overall
    from movinet_convert.video import is_live

    sources = [source for video in videos for source in _sources(video)]
    if annotated is not None and (len(sources) != 1 or is_live(sources[0])):
        raise UsageError("--annotate writes one video; name one VIDEO that is a file.")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    predictor = load_predictor(
        name, weights_dir=weights_dir, fps=fps, window=window, threads=threads or 0, device=device
    )
    seen: dict[str, list[Moment]] = {}
    for source in sources:
        try:
            seen[source] = list(_watched(source, predictor, seconds, top if as_json else 0))
        except VideoError as error:
            _print_failure(source, error, as_json)
            continue
        if not seen[source]:
            raise KeyboardInterrupt  # before the first frame
        _print_verdict(source, seen[source], overall(seen[source]), predictor, top, as_json)
    if plot is not None and seen:
        from movinet_convert.timeline_plot import plot_timelines

        names = {Path(source).name or source: moments for source, moments in seen.items()}
        plot_timelines(plot, names, predictor.labels, f"MoViNet {predictor.model.variant.name}")
    if annotated is not None and seen:
        _annotate(sources[0], annotated, seen[sources[0]], predictor)
    return len(sources) - len(seen)


def _sources(video: str) -> list[str]:
    """A folder of videos is its videos; everything else is itself."""
    from movinet_convert.video import video_files

    inside = video_files(Path(video)) if Path(video).is_dir() else []
    return [str(path) for path in inside] or [video]


def _watched(
    source: str, predictor: Predictor, seconds: float | None, json_top: int
) -> Iterator[Moment]:
    """The moments of a video, each printed as it comes where JSON is wanted."""
    moments = predictor.moments(source)
    if seconds is not None:
        moments = takewhile(lambda moment: moment.start < seconds, moments)
    with _progress(source, "Watching", live=None if json_top else predictor) as show:
        try:
            for moment in moments:
                show(moment)
                if json_top:
                    _print_moment(source, moment, predictor, json_top)
                yield moment
        except KeyboardInterrupt:
            return  # how one stops watching a camera; what was seen still counts


def _print_moment(source: str, moment: Moment, predictor: Predictor, top: int) -> None:
    line = {
        "video": source,
        "start": round(moment.start, 6),
        "end": round(moment.end, 6),
        "window": moment.window,
        "frames": moment.frames,
        "top": _guesses(predictor, moment.probabilities, top),
    }
    echo_json(line)


def _guesses(predictor: Predictor, probabilities: Probabilities, top: int) -> list[dict[str, Any]]:
    return [
        {"label": guess.label, "index": guess.index, "probability": round(guess.probability, 6)}
        for guess in predictor.top(probabilities, top)
    ]


def _print_failure(source: str, error: VideoError, as_json: bool) -> None:
    if as_json:
        echo_json({"video": source, "error": str(error)})
    echo(f"Error: {error}", err=True)


def _print_verdict(
    source: str,
    moments: list[Moment],
    probabilities: Probabilities,
    predictor: Predictor,
    top: int,
    as_json: bool,
) -> None:
    seconds = moments[-1].end - moments[0].start
    if as_json:
        guesses = _guesses(predictor, probabilities, top)
        line = {"video": source, "verdict": True, "seconds": round(seconds, 6), "top": guesses}
        echo_json(line)
        return
    from movinet_convert.render_video import print_guesses

    print_guesses(source, seconds, predictor.top(probabilities, top))


def _annotate(source: str, target: Path, moments: list[Moment], predictor: Predictor) -> None:
    from movinet_convert.annotate import annotate

    with _progress(source, "Drawing", live=None) as show:
        annotate(source, target, moments, predictor, progress=show)


@contextmanager
def _progress(source: str, doing: str, live: Predictor | None) -> Iterator[Callable[[Any], None]]:
    """A bar for a file, a running line for a camera; on a terminal only."""
    from movinet_convert.render_video import video_progress
    from movinet_convert.video import duration

    with video_progress(f"{doing} {Path(source).name}", duration(source)) as show:

        def update(at: Any) -> None:
            if isinstance(at, float):
                show(at, "")
                return
            best = live.top(at.probabilities, 1)[0] if live else None
            show(at.end, f"{best.label} {best.probability:.0%}" if best else "")

        yield update
