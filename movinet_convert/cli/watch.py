"""Watching videos for the command: what is printed as they go by, and what is kept of them."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from movinet_convert.cli.terminal import echo, echo_json
from movinet_convert.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from movinet_convert.video.annotate import Captions
    from movinet_convert.video.prediction import Moment, Predictor, Probabilities, Verdict
    from movinet_convert.video.timeline_plot import Timeline

WINDOW_CLASSES = 3
STOPPED = "stopped by Ctrl-C"


class Watch:
    """Videos watched one after the other: prints what is seen, and keeps what files need of it."""

    def __init__(
        self,
        predictor: Predictor,
        top: int,
        as_json: bool,
        seconds: float | None,
        plotted: bool,
        captioned: bool,
    ) -> None:
        self._predictor, self._top, self._as_json = predictor, top, as_json
        self._seconds, self._plotted, self._captioned = seconds, plotted, captioned
        self._windows_shown = predictor.window is not None and not as_json
        self.timelines: list[Timeline] = []
        self.captions: Captions | None = None
        self.failed = 0  # videos of which nothing could be read
        self.stopped: str | None = None  # the video at which Ctrl-C came

    def video(self, source: str) -> None:
        """Watch one video and print the verdict; Ctrl-C before its first frame is raised."""
        from movinet_convert.video.prediction import Verdict

        verdict, cut = Verdict(), None
        keepers = self._keepers(source)
        if self._windows_shown:
            echo(source)
        try:
            for moment in self._moments(source):
                ended = verdict.add(moment)
                for keep in keepers:
                    keep(moment)
                if ended is not None:
                    self._print_window(ended)
        except KeyboardInterrupt:
            if verdict.last is None:
                raise
            self.stopped, cut = source, STOPPED
        except VideoError as error:
            if verdict.last is None:
                self.failed += 1
                self._print_failure(source, error)
                return
            cut = str(error)
            echo(f"Warning: {error}", err=True)
        if verdict.last is not None:
            self._print_window(verdict.last)
        self._print_verdict(source, verdict, cut)

    def _keepers(self, source: str) -> list[Callable[[Moment], object]]:
        """What takes in the moments of a video for the files that were asked for."""
        keepers: list[Callable[[Moment], object]] = []
        if self._plotted:
            from movinet_convert.video.timeline_plot import Timeline

            timeline = Timeline(source)

            def keep(moment: Moment) -> None:
                if timeline.verdict.last is None:
                    self.timelines.append(timeline)
                timeline.add(moment)

            keepers.append(keep)
        if self._captioned:
            from movinet_convert.video.annotate import Captions

            self.captions = Captions(self._predictor)
            keepers.append(self.captions.add)
        return keepers

    def _moments(self, source: str) -> Iterator[Moment]:
        """The moments of a video, each printed as it comes where JSON is wanted."""
        moments = self._predictor.moments(source)
        limit = self._seconds
        if limit is not None:
            moments = takewhile(lambda moment: moment.start < limit, moments)
        live = None if self._as_json else self._predictor
        with progress(source, "Watching", live=live) as show:
            for moment in moments:
                show(moment)
                if self._as_json:
                    self._print_moment(source, moment)
                yield moment

    def _print_moment(self, source: str, moment: Moment) -> None:
        line = {
            "video": source,
            "start": round(moment.start, 6),
            "end": round(moment.end, 6),
            "window": moment.window,
            "frames": moment.frames,
            "top": self._guesses(moment.probabilities),
        }
        echo_json(line)

    def _print_window(self, last: Moment) -> None:
        if not self._windows_shown:
            return
        from movinet_convert.cli.render_video import print_window

        start = last.end - last.frames / self._predictor.fps
        guesses = self._predictor.top(last.probabilities, WINDOW_CLASSES)
        print_window(start, last.end, guesses)

    def _print_failure(self, source: str, error: VideoError) -> None:
        if self._as_json:
            echo_json({"video": source, "error": str(error)})
        echo(f"Error: {error}", err=True)

    def _print_verdict(self, source: str, verdict: Verdict, cut: str | None) -> None:
        if self._as_json:
            line = {
                "video": source,
                "verdict": True,
                "seconds": round(verdict.seconds, 6),
                "cut": cut,
                "top": self._guesses(verdict.probabilities),
            }
            echo_json(line)
            return
        from movinet_convert.cli.render_video import print_guesses

        guesses = self._predictor.top(verdict.probabilities, self._top)
        print_guesses(source, verdict.seconds, guesses, cut)

    def _guesses(self, probabilities: Probabilities) -> list[dict[str, Any]]:
        return [
            {"label": guess.label, "index": guess.index, "probability": round(guess.probability, 6)}
            for guess in self._predictor.top(probabilities, self._top)
        ]


@contextmanager
def progress(source: str, doing: str, live: Predictor | None) -> Iterator[Callable[[Any], None]]:
    """A bar for a file, a running line for a camera; on a terminal only."""
    from movinet_convert.cli.render_video import video_progress
    from movinet_convert.video.frames import duration

    with video_progress(f"{doing} {Path(source).name}", duration(source)) as show:

        def update(at: Any) -> None:
            if isinstance(at, float):
                show(at, "")
                return
            best = live.top(at.probabilities, 1)[0] if live else None
            show(at.end, f"{best.label} {best.probability:.0%}" if best else "")

        yield update
