"""A video with the model's running prediction drawn on it."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.errors import MissingExtraError, VideoError
from movinet_convert.files.writing import check_output
from movinet_convert.video.frames import (
    VIDEO_OUTPUTS,
    Image,
    Sampling,
    frame_rate,
    read_frames,
    write_video,
)
from movinet_convert.video.predict import Guess, Moment, Predictor

LINES = 3
LINE_SHARE = 1 / 20  # height of a line of text, of the picture's shorter side
MIN_LINE_PIXELS = 11
SHADE = (0, 0, 0, 150)
BAR = (86, 180, 233, 255)
TROUGH = (255, 255, 255, 50)
TEXT = (255, 255, 255, 255)


class Captions:
    """The top classes of every moment of a video, in a few bytes each: a day of them fits."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.end = 0.0
        self._starts = array("d")
        self._indices = array("l")
        self._probabilities = array("f")
        self._lines = min(LINES, len(predictor.labels))

    def add(self, moment: Moment) -> None:
        """Take in the next moment."""
        self.end = moment.end
        self._starts.append(moment.start)
        for guess in self.predictor.top(moment.probabilities, self._lines):
            self._indices.append(guess.index)
            self._probabilities.append(guess.probability)

    def at(self, time: float) -> list[Guess]:
        """The top classes at a time in seconds, the best first."""
        first = max(bisect_right(self._starts, time) - 1, 0) * self._lines
        places = range(first, first + self._lines)
        indices = (self._indices[i] for i in places)
        pairs = zip(indices, (self._probabilities[i] for i in places), strict=True)
        return [Guess(self.predictor.labels[i], i, probability) for i, probability in pairs]


def annotate(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    captions: Captions,
    *,
    progress: Callable[[float], object] | None = None,
) -> None:
    """Write ``source`` again, at its own size and rate, with the top classes of each moment.

    It ends where the captions do, or where ``source`` breaks off. ``progress`` is told the time
    reached, in seconds. Raises UsageError where ``target`` is ``source`` or cannot be a video,
    VideoError where either file fails; ``target`` is then as it was.
    """
    check_output(Path(target), VIDEO_OUTPUTS, [Path(source)])

    def drawn() -> Iterator[Image]:
        reached = None
        try:
            for frame in read_frames(source, Sampling(), threads=captions.predictor.threads):
                reached = frame.time
                if progress is not None:
                    progress(frame.time)
                if frame.time >= captions.end:
                    return
                yield draw(frame.image, captions.at(frame.time))
        except VideoError:
            if reached is None:
                raise

    write_video(target, drawn(), float(frame_rate(source)))


def draw(image: Image, guesses: Sequence[Guess]) -> Image:
    """The picture (H, W, 3) with a panel of classes and bars in its lower left corner."""
    pil, pil_draw, pil_font = _pillow()
    height, width = image.shape[:2]
    line = max(round(min(height, width) * LINE_SHARE), MIN_LINE_PIXELS)
    font = pil_font.load_default(size=line * 0.72)
    panel_width = min(width, line * 15)
    panel = pil.new("RGBA", (panel_width, line * len(guesses) + line // 2), SHADE)
    pen = pil_draw.Draw(panel)
    pad = line // 3
    bar_width = panel_width // 4
    for row, guess in enumerate(guesses):
        middle = line // 4 + row * line + line // 2
        top, bottom = middle - line // 4, middle + line // 4
        pen.rectangle((pad, top, pad + bar_width, bottom), TROUGH)
        pen.rectangle((pad, top, pad + round(bar_width * guess.probability), bottom), BAR)
        column = 2 * pad + bar_width + 2 * line
        pen.text((column, middle), f"{guess.probability:.0%}", TEXT, font=font, anchor="rm")
        pen.text((column + pad, middle), guess.label, TEXT, font=font, anchor="lm")
    picture = pil.fromarray(image)
    picture.paste(panel, (0, height - panel.height), panel)
    return np.asarray(picture)


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("Drawing on a video", "video") from None
    return Image, ImageDraw, ImageFont
