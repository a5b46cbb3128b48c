"""Draw the model's running prediction onto a video."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from movinet_convert.errors import MissingExtraError, VideoError
from movinet_convert.files.writing import check_output
from movinet_convert.video.decode import frame_rate
from movinet_convert.video.frames import VIDEO_OUTPUTS, Sampling, read_frames, write_video
from movinet_convert.video.pixels import Image
from movinet_convert.video.predict import Guess, Moment, Predictor

LINES = 3
LINE_SHARE = 1 / 20  # height of a line of text relative to the shorter side of the frame
MIN_LINE_PIXELS = 11
PANEL, BAR, TROUGH, TEXT = (0, 0, 0, 150), (86, 180, 233, 255), (255, 255, 255, 50), "white"


class Captions:
    """The top classes over a video, in a few bytes per moment, so that a day fits in memory."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.end = 0.0
        self._starts = array("d")
        self._indices = array("l")
        self._probabilities = array("f")
        self._lines = min(LINES, len(predictor.labels))

    def add(self, moment: Moment) -> None:
        """Add the next moment."""
        self.end = moment.end
        self._starts.append(moment.start)
        for guess in self.predictor.top(moment.probabilities, self._lines):
            self._indices.append(guess.index)
            self._probabilities.append(guess.probability)

    def at(self, time: float) -> list[Guess]:
        """The top classes at a time in seconds, the best first."""
        first = max(bisect_right(self._starts, time) - 1, 0) * self._lines
        chosen = slice(first, first + self._lines)
        pairs = zip(self._indices[chosen], self._probabilities[chosen], strict=True)
        return [Guess(self.predictor.labels[i], i, probability) for i, probability in pairs]


def annotate(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    captions: Captions,
    *,
    progress: Callable[[float], object] | None = None,
) -> None:
    """Write a copy of ``source``, of the same size and frame rate, with the captions drawn on it.

    It ends with the captions, or where ``source`` is cut off. ``progress`` is called with the time
    reached, in seconds. Raises UsageError if ``target`` is ``source`` or has no video suffix,
    VideoError if either file cannot be read or written; ``target`` is then unchanged.
    """
    check_output(Path(target), VIDEO_OUTPUTS, [Path(source)])

    def drawn() -> Iterator[Image]:
        empty = True
        try:
            for frame in read_frames(source, Sampling(), threads=captions.predictor.threads):
                empty = False
                if progress is not None:
                    progress(frame.time)
                if frame.time >= captions.end:
                    return
                yield draw(frame.image, captions.at(frame.time))
        except VideoError:
            if empty:
                raise

    write_video(target, drawn(), float(frame_rate(source)))


def draw(image: Image, guesses: Sequence[Guess]) -> Image:
    """The image (H, W, 3) with a panel of classes and bars in its lower left corner."""
    try:
        import PIL.Image
        from PIL import ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("Drawing on a video", "video") from None
    height, width = image.shape[:2]
    line = max(round(min(height, width) * LINE_SHARE), MIN_LINE_PIXELS)
    font = ImageFont.load_default(size=line * 0.72)
    panel_width = min(width, line * 15)
    panel = PIL.Image.new("RGBA", (panel_width, line * len(guesses) + line // 2), PANEL)
    pen = ImageDraw.Draw(panel)
    pad, bar_width = line // 3, panel_width // 4
    for row, guess in enumerate(guesses):
        middle = line // 4 + row * line + line // 2
        top, bottom = middle - line // 4, middle + line // 4
        pen.rectangle((pad, top, pad + bar_width, bottom), TROUGH)
        pen.rectangle((pad, top, pad + round(bar_width * guess.probability), bottom), BAR)
        column = 2 * pad + bar_width + 2 * line
        pen.text((column, middle), f"{guess.probability:.0%}", TEXT, font=font, anchor="rm")
        pen.text((column + pad, middle), guess.label, TEXT, font=font, anchor="lm")
    annotated = PIL.Image.fromarray(image)
    annotated.paste(panel, (0, height - panel.height), panel)
    return np.asarray(annotated)
