"""What the page shows when something on it changes: functions of its inputs to HTML.

They keep nothing between calls: a webcam's stream is a value that goes in and comes out, so that
any number of browsers share the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

from movinet_convert.errors import MovinetError
from movinet_convert.video.demo import drawing
from movinet_convert.video.demo.live import Live, advance, live_predictor
from movinet_convert.video.demo.models import Models
from movinet_convert.video.demo.watch import View, live_view, watch
from movinet_convert.video.pixels import Image

Seen = tuple[str, str]  # HTML of the prediction, and of the timeline
NOTHING: Seen = (drawing.notice("The most likely classes appear here.", "hint"), "")


def described(models: Models) -> Callable[[str, float, float], tuple[str, str]]:
    """A caution, and what the network is; frames per second and seconds are 0 for its own."""

    def describe(title: str, fps: float, window: float) -> tuple[str, str]:
        try:
            predictor = models.predictor(title, fps or None, window or None)
            caution = drawing.notice(models.get(title).caution)
            return caution, drawing.network(title, predictor)
        except MovinetError as error:
            return drawing.notice(str(error), "error"), ""

    return describe


def classified(
    models: Models, seconds: float
) -> Callable[[str | None, str, float, float], Iterator[Seen]]:
    """What is seen in a video while it is read, at most ``seconds`` of it."""

    def classify(path: str | None, title: str, fps: float, window: float) -> Iterator[Seen]:
        yield NOTHING
        if path is None:
            return
        try:
            predictor = models.predictor(title, fps or None, window or None)
            for view in watch(predictor, Path(path), seconds):
                yield _drawn(view)
        except MovinetError as error:
            yield _failed(error, path)

    return classify


def streamed(
    models: Models,
) -> Callable[[Image | None, Live | None, str, float, float], tuple[Live | None, str, str]]:
    """What is seen in a webcam after its next picture, and the stream to resume from."""

    def stream(
        image: Image | None, live: Live | None, title: str, fps: float, window: float
    ) -> tuple[Live | None, str, str]:
        now = monotonic()
        if image is None:
            return (live, *NOTHING)
        try:
            predictor = live_predictor(models.predictor(title, fps or None, window or None))
            # A network may take longer than the gap after which a stream ends.
            live = replace(advance(live, predictor, image, now), last=monotonic())
            view = live_view(live)
            seen = _waiting(live) if view is None else _drawn(view)
        except MovinetError as error:
            return (None, *_failed(error))
        return (live, *seen)

    return stream


def _drawn(view: View) -> Seen:
    return drawing.notice(view.note) + drawing.bars(view), drawing.timeline(view)


def _waiting(live: Live) -> Seen:
    needed = live.predictor.step_frames
    text = f"The first prediction needs {needed} frames; {len(live.waiting)} are there."
    return drawing.notice(text, "hint"), ""


def _failed(error: MovinetError, path: str | None = None) -> Seen:
    """The error, with the name of the file as it was uploaded."""
    text = str(error) if path is None else str(error).replace(path, Path(path).name)
    return drawing.notice(text, "error"), ""
