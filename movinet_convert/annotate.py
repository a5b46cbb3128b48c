"""A video with the model's running prediction drawn on it."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.errors import MissingExtraError
from movinet_convert.video import Sampling, frame_rate, read_frames, write_video

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from movinet_convert.predict import Guess, Moment, Predictor
    from movinet_convert.video import Image

LINES = 3
LINE_SHARE = 1 / 20  # height of a line of text, of the picture's shorter side
MIN_LINE_PIXELS = 11
SHADE = (0, 0, 0, 150)
BAR = (86, 180, 233, 255)
TROUGH = (255, 255, 255, 50)
TEXT = (255, 255, 255, 255)


def annotate(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    moments: Sequence[Moment],
    predictor: Predictor,
    *,
    progress: Callable[[float], object] | None = None,
) -> None:
    """Write ``source`` again, at its own size and rate, with the top classes of each moment.

    ``progress`` is told the time reached, in seconds. Raises VideoError where either file fails.
    """
    starts = [moment.start for moment in moments]
    tops = [predictor.top(moment.probabilities, LINES) for moment in moments]

    def drawn() -> Iterator[Image]:
        for frame in read_frames(source, Sampling(), threads=predictor.threads):
            if progress is not None:
                progress(frame.time)
            if frame.time >= moments[-1].end:
                return
            yield draw(frame.image, tops[max(bisect_right(starts, frame.time) - 1, 0)])

    write_video(target, drawn(), frame_rate(source))


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
