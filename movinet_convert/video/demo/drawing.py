"""A view as HTML: bars, and a timeline as SVG. Colours and sizes are in page.css.

Labels and file names are not trusted: whatever is text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from movinet_convert.video.demo.live import live_predictor
from movinet_convert.video.demo.watch import View
from movinet_convert.video.plot import COLOURS, leaders
from movinet_convert.video.predict import Moment, Predictor

WIDTH, HEIGHT = 1000, 100  # of the timeline, in its own units
MOST_POINTS = 240  # of a curve
NEUTRAL = "grey"  # of a class that is not in the timeline


def bars(view: View) -> str:
    """The most likely classes with their probabilities, the best first."""
    colours = colour_names(view.shown)
    rows = "".join(
        f'<div class="mv-row mv-{colours.get(guess.index, NEUTRAL)}">'
        f'<span class="mv-name">{escape(guess.label)}</span>'
        f'<span class="mv-share">{guess.probability:.1%}</span>'
        f'<span class="mv-bar"><span style="width:{guess.probability:.1%}"></span></span></div>'
        for guess in view.predictor.top(view.probabilities)
    )
    speed = f"<span><b>{view.milliseconds:.1f} ms</b> per frame</span>"
    when = f'<span class="mv-when">{escape(view.heading)}</span>'
    return f'<div class="mv-bars"><div class="mv-heading">{when}{speed}</div>{rows}</div>'


def timeline(view: View) -> str:
    """The probabilities of the classes in ``view.shown`` over time, and a legend."""
    points = view.moments[:: -(-len(view.moments) // MOST_POINTS)]
    start = points[0].start
    scale = WIDTH / max(view.end - start, 1e-9)
    colours = colour_names(view.shown)
    edges = [*((point.start - start) * scale for point in points), float(WIDTH)]
    curves = "".join(
        f'<path class="mv-{colours[index]}" d="{_steps(edges, points, index)}"/>'
        for index in view.shown
    )
    resets = "".join(
        f'<path class="mv-reset" d="M{(time - start) * scale:.1f} 0V{HEIGHT}"/>'
        for time in view.starts
        if time > start
    )
    legend = "".join(
        f'<span class="mv-{colours[index]}">{escape(view.predictor.labels[index])}</span>'
        for index in view.shown
    )
    played = f' data-played="{escape(_played(view, points, colours))}"' if view.complete else ""
    return (
        f'<div class="mv-timeline"{played}><div class="mv-plot">'
        '<span class="mv-y">100%</span><span class="mv-y">0%</span>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Probabilities over time">{resets}{curves}'
        f'<path class="mv-cursor" d="M0 0V{HEIGHT}"/></svg></div>'
        f'<div class="mv-x"><span>{start:.1f} s</span><span>{view.end:.1f} s</span></div>'
        f'<div class="mv-legend">{legend}</div></div>'
    )


def network(title: str, predictor: Predictor) -> str:
    """What the network takes and distinguishes, on a line."""
    variant = predictor.model.variant.name
    size = predictor.sampling.size
    height, width = size if isinstance(size, tuple) else (size, size)
    facts = (
        *(() if title == variant else (title,)),
        variant,
        f"{len(predictor.labels)} classes",
        f"{height} x {width} pixels",
        f"{predictor.fps:g} frames per second",
        _windows(predictor),
    )
    return f'<div class="mv-network">{escape(" · ".join(facts))}</div>'


def _windows(predictor: Predictor) -> str:
    """What a prediction is for."""
    if predictor.window is not None:
        return f"a prediction for every {predictor.window:g} s"
    if predictor.model.settings.causal:
        webcam = live_predictor(predictor).window
        return f"a prediction for the whole video, or for every {webcam:g} s of a webcam"
    return f"a prediction for every {predictor.window_frames} frames"


def notice(text: str | None, kind: str = "caution") -> str:
    """A sentence in a box, of the kind "caution" or "error"; nothing for None."""
    return f'<div class="mv-notice mv-{kind}" role="status">{escape(text)}</div>' if text else ""


def colour_names(classes: Sequence[int]) -> dict[int, str]:
    """A colour for each class; a class keeps it while the others change, where that is possible."""
    taken: dict[int, int] = {}
    for index in classes:
        slot = index % len(COLOURS)
        while slot in taken:
            slot = (slot + 1) % len(COLOURS)
        taken[slot] = index
    return {index: f"colour{slot}" for slot, index in taken.items()}


def _steps(edges: Sequence[float], points: Sequence[Moment], index: int) -> str:
    """A curve that holds each probability until the next moment."""
    heights = [HEIGHT * (1 - float(point.probabilities[index])) for point in points]
    moves = (f"V{y:.1f}H{x:.1f}" for x, y in zip(edges[1:], heights, strict=True))
    return f"M0 {heights[0]:.1f}" + "".join(moves)


def _played(view: View, points: Sequence[Moment], colours: Mapping[int, str]) -> str:
    """What page.js shows while the video plays: the best classes at each moment, as JSON."""
    labels = view.predictor.labels
    best = [(point, leaders(point.probabilities)) for point in points]
    named = {
        int(index): [labels[index], colours.get(index, NEUTRAL)]
        for _, classes in best
        for index in classes
    }
    moments = [
        [
            round(point.start, 3),
            [[index, round(float(point.probabilities[index]), 4)] for index in top],
        ]
        for point, top in best
    ]
    start, end = points[0].start, view.end
    return json.dumps({"start": start, "end": end, "classes": named, "moments": moments})
