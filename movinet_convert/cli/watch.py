"""Running ``predict`` on videos: what is printed, and what is recorded for the output files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from movinet_convert.cli.terminal import console, echo, echo_json, progress
from movinet_convert.errors import VideoError

if TYPE_CHECKING:
    from movinet_convert.video.annotate import Captions
    from movinet_convert.video.plot import Timeline
    from movinet_convert.video.predict import Moment, Predictor, Probabilities, Verdict

WINDOW_CLASSES = 3
BAR_CELLS = 30


@dataclass
class Watch:
    """Predicts videos one after the other and prints the results.

    ``timelines`` and ``captions``, unless None, record what the plot and the annotated video need.
    ``adapt`` is called before each prediction; it follows the load of the machine.
    """

    predictor: Predictor
    top: int
    as_json: bool
    seconds: float | None
    timelines: list[Timeline] | None
    captions: Captions | None
    adapt: Callable[[], None]
    failed: int = 0  # unreadable videos
    stopped: str | None = None  # the video during which Ctrl-C was pressed

    def video(self, source: str) -> None:
        """Predict one video and print the result; Ctrl-C before its first frame is raised."""
        from movinet_convert.video.plot import Timeline
        from movinet_convert.video.predict import Verdict

        verdict, cut = Verdict(), None
        timeline = Timeline(source) if self.timelines is not None else None
        recorders = [recorder for recorder in (timeline, self.captions) if recorder is not None]
        if self._windows_shown:
            echo(source)
        try:
            for moment in self._moments(source):
                self._print_window(verdict.add(moment))
                for recorder in recorders:
                    recorder.add(moment)
        except KeyboardInterrupt:
            if verdict.last is None:
                raise
            self.stopped, cut = source, "stopped by Ctrl-C"
        except VideoError as error:
            if verdict.last is None:
                self.failed += 1
                if self.as_json:
                    echo_json({"video": source, "error": str(error)})
                echo(f"Error: {error}", err=True)
                return
            cut = str(error)
            echo(f"Warning: {error}", err=True)
        if self.timelines is not None and timeline is not None:
            self.timelines.append(timeline)
        self._print_window(verdict.last)
        self._print_verdict(source, verdict, cut)

    @property
    def _windows_shown(self) -> bool:
        return self.predictor.window is not None and not self.as_json

    def _moments(self, source: str) -> Iterator[Moment]:
        """The moments of a video; with ``as_json`` each is printed as it arrives."""
        moments = self.predictor.moments(source)
        limit = self.seconds
        if limit is not None:
            moments = takewhile(lambda moment: moment.start < limit, moments)
        with video_progress(source, "Watching") as update:
            for moment in moments:
                if self.as_json:
                    self._print_json(source, moment)
                best = self.predictor.top(moment.probabilities, 1)[0]
                self.adapt()
                update(completed=moment.end, seen=f"{best.label} {best.probability:.0%}")
                yield moment

    def _print_json(self, source: str, moment: Moment) -> None:
        echo_json(
            {
                "video": source,
                "start": round(moment.start, 6),
                "end": round(moment.end, 6),
                "window": moment.window,
                "frames": moment.frames,
                "top": self._json_guesses(moment.probabilities),
            }
        )

    def _print_window(self, last: Moment | None) -> None:
        """Print a window, given its last moment, as one line: its times and top classes."""
        if last is None or not self._windows_shown:
            return
        start = last.end - last.frames / self.predictor.fps
        guesses = self.predictor.top(last.probabilities, WINDOW_CLASSES)
        seen = "  ".join(f"{guess.probability:.1%} {guess.label}" for guess in guesses)
        echo(f"{start:8.1f} - {last.end:.1f} s  {seen}")

    def _print_verdict(self, source: str, verdict: Verdict, cut: str | None) -> None:
        """Print the top classes of a video; ``cut`` is the reason if it was cut short."""
        if self.as_json:
            line = {
                "video": source,
                "verdict": True,
                "seconds": round(verdict.seconds, 6),
                "cut": cut,
                "top": self._json_guesses(verdict.probabilities),
            }
            echo_json(line)
            return
        # The warning above it has the reason, if it was not Ctrl-C.
        reason = f": {cut}" if self.stopped else ""
        note = f", cut short{reason}" if cut else ""
        self._print_guesses(f"{source}  {verdict.seconds:.1f} s{note}", verdict.probabilities)

    def _print_guesses(self, heading: str, probabilities: Probabilities) -> None:
        """Print the top classes; on a terminal long labels are wrapped beside their percentages."""
        from rich.table import Table
        from rich.text import Text

        guesses, terminal = self.predictor.top(probabilities, self.top), console()
        if not terminal.is_terminal:
            echo(heading, *(f"{guess.probability:6.1%}  {guess.label}" for guess in guesses))
            return
        cells = min(BAR_CELLS, terminal.width // 4)
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(justify="right", no_wrap=True, min_width=len("100.0%"))
        table.add_column(overflow="fold")
        table.add_column(no_wrap=True, min_width=cells)
        for guess in guesses:
            bar = Text("█" * round(guess.probability * cells), style="cyan")
            table.add_row(f"{guess.probability:.1%}", guess.label, bar)
        terminal.print(Text(heading, style="bold"), soft_wrap=True)
        terminal.print(table)

    def _json_guesses(self, probabilities: Probabilities) -> list[dict[str, Any]]:
        guesses = self.predictor.top(probabilities, self.top)
        return [asdict(guess) | {"probability": round(guess.probability, 6)} for guess in guesses]


def video_progress(source: str, what: str) -> AbstractContextManager[Callable[..., None]]:
    """A progress bar over the seconds of a video, indeterminate if its duration is unknown."""
    from rich.progress import TimeRemainingColumn

    from movinet_convert.video.decode import duration

    columns = ("{task.completed:.0f} s", TimeRemainingColumn(), "{task.fields[seen]}")
    return progress(f"{what} {Path(source).name}", *columns, total=duration(source), seen="")
