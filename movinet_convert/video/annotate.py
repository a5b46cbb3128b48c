"""Draw the model's running prediction onto a video."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.errors import VideoError
from movinet_convert.files.extras import missing_extra
from movinet_convert.files.writing import check_output
from movinet_convert.video.decode import frame_rate
from movinet_convert.video.encode import VIDEO_OUTPUTS, write_frames
from movinet_convert.video.fonts import font_file
from movinet_convert.video.frames import Frame, Sampling, read_frames
from movinet_convert.video.pixels import Image
from movinet_convert.video.predict import Guess, Moment, Predictor

LINES = 3
TEXT_SHARE = 1 / 26  # font size relative to the shorter side of the frame
MIN_TEXT_PIXELS = 12  # smaller text cannot be read
LINE_HEIGHT = 1.3  # relative to the font size
PANEL_HEIGHT = 0.3  # of the frame, at most: a small one shows fewer classes
PANEL_WIDTH = 18  # lines, at most
LABEL_LINES = 3  # of a label, at most
DIGITS = "0123456789%"
MAX_LABEL = 200  # characters, of which no frame shows as many
# White text has a contrast of at least 4.5 to 1 to both grounds, over a white frame too.
PANEL, BAR, TEXT = (0, 0, 0, 190), (0, 114, 178, 255), "white"


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
    """Write a copy of ``source``, of the same size and timing, with the captions drawn on it.

    It ends with the captions, or where ``source`` is cut off. ``progress`` is called with the time
    reached, in seconds. Raises UsageError if ``target`` is ``source`` or has no video suffix,
    VideoError if either file cannot be read or written; ``target`` is then unchanged.
    """
    check_output(Path(target), VIDEO_OUTPUTS, [Path(source)])

    def drawn() -> Iterator[Frame]:
        empty = True
        try:
            for frame in read_frames(source, Sampling(), threads=captions.predictor.threads):
                empty = False
                if progress is not None:
                    progress(frame.time)
                if frame.time >= captions.end:
                    return
                yield Frame(frame.time, draw(frame.image, captions.at(frame.time)))
        except VideoError:
            if empty:
                raise

    write_frames(target, drawn(), float(frame_rate(source)))


def draw(image: Image, guesses: Sequence[Guess]) -> Image:
    """The image (H, W, 3) with its top classes in the lower left corner, each over a bar.

    Text and panel scale with the image. Labels are wrapped; where the panel has no room for all of
    it, the first class comes first, and labels are shortened.
    """
    try:
        import PIL.Image
        from PIL import ImageDraw
    except ImportError:
        raise missing_extra("Drawing on a video", "video") from None
    height, width = image.shape[:2]
    size = max(min(height, width) * TEXT_SHARE, MIN_TEXT_PIXELS)
    line = min(round(size * LINE_HEIGHT), height)
    pad, panel_width = line // 4, min(width, PANEL_WIDTH * line)
    digits = _font(font_file(DIGITS), line / LINE_HEIGHT)
    room = panel_width - 3 * pad - digits.getlength("100%")
    rows = _rows(guesses, line / LINE_HEIGHT, room, max(1, int(height * PANEL_HEIGHT) // line))
    lines = sum(len(row.lines) for row in rows)
    panel = PIL.Image.new("RGBA", (panel_width, line * lines), PANEL)
    pen, top = ImageDraw.Draw(panel), 0
    for row in rows:
        bottom = top + line * len(row.lines)
        if bar := round(panel.width * row.probability):
            pen.rectangle((0, top + 1, bar - 1, max(bottom - 2, top + 1)), BAR)
        for number, text in enumerate(row.lines):
            middle = top + number * line + line // 2
            pen.text((pad, middle), text, TEXT, font=row.font, anchor="lm")
        share = f"{row.probability:.0%}"
        pen.text((panel.width - pad, top + line // 2), share, TEXT, font=digits, anchor="rm")
        top = bottom
    annotated = PIL.Image.fromarray(image)
    annotated.paste(panel, (0, height - panel.height), panel)
    return np.asarray(annotated)


@dataclass(frozen=True)
class _Row:
    """A class on the panel: its label on one or several lines."""

    lines: tuple[str, ...]
    probability: float
    font: Any


def _rows(guesses: Sequence[Guess], size: float, pixels: float, lines: int) -> list[_Row]:
    """The classes that fit on so many lines, the best first."""
    rows: list[_Row] = []
    for guess in guesses:
        left = lines - sum(len(row.lines) for row in rows)
        if left > 0:
            font = _font(font_file(guess.label), size)
            wrapped = _wrapped(guess.label, font, pixels, min(left, LABEL_LINES))
            rows.append(_Row(wrapped, guess.probability, font))
    return rows


@cache
def _font(file: str, size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(file, size=size)


@lru_cache(maxsize=1000)  # the same few labels are drawn on thousands of frames
def _wrapped(label: str, font: Any, pixels: float, lines: int) -> tuple[str, ...]:
    """The label on up to so many lines of this width; what is too long ends in an ellipsis."""
    wrapped: list[str] = []
    text = " ".join(label[:MAX_LABEL].split())
    while text and len(wrapped) < lines - 1:
        fits = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n]) <= pixels), 0)
        if fits in (0, len(text)):
            break
        space = text.rfind(" ", 0, fits + 1)
        end = space if space > 0 else fits  # scripts without spaces break anywhere
        wrapped.append(text[:end])
        text = text[end:].lstrip()
    return (*wrapped, _shortened(text, font, pixels))


def _shortened(text: str, font: Any, pixels: float) -> str:
    """The text, cut where it would be wider than ``pixels``."""
    for end in range(len(text), 0, -1):
        shown = text if end == len(text) else f"{text[:end].rstrip()}…"
        if font.getlength(shown) <= pixels:
            return shown
    return ""
