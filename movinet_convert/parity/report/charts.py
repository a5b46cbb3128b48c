"""Two charts as inline SVG; colours and sizes come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from movinet_convert.parity.result import Distances

# Small enough to be read on a phone, where one unit is a little under a pixel.
WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 40.0
SERIES = {
    "tf_fp32_pt_fp32": "TF float32 to PyTorch float32",
    "tf_fp32_pt_fp64": "TF float32 to PyTorch float64",
    "pt_fp32_pt_fp64": "PyTorch float32 to float64",
}
LABEL_ROOM = 27.0  # a name under the axis takes so much width
SMALLEST = 1e-9  # a distance of nothing is drawn at the foot of its chart


@dataclass(frozen=True)
class Frame:
    """The plotting area, and where values fall in it."""

    x: Callable[[float], float]
    y: Callable[[float], float]

    @staticmethod
    def over(x: tuple[float, float], y: tuple[float, float]) -> Frame:
        """Linear axes over two ranges."""

        def along(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
            scale = (end - start) / ((high - low) or 1.0)
            return lambda value: start + (value - low) * scale

        return Frame(along(*x, LEFT, WIDTH - RIGHT), along(*y, HEIGHT - BOTTOM, TOP))


def layer_chart(layers: Mapping[str, Distances], title: str) -> Markup:
    """Distances after every layer, on a logarithmic scale."""
    names = list(layers)
    values = {key: [max(getattr(layers[name], key), SMALLEST) for name in names] for key in SERIES}
    finite = [v for series in values.values() for v in series if math.isfinite(v)]
    low, high = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
    high = max(high, low + 1)
    frame = Frame.over((0, len(names) - 1), (low, high))
    parts = [_power_lines(frame, low, high), _stage_ticks(frame, names)]
    for key, label in SERIES.items():
        points = [
            (frame.x(i), frame.y(math.log10(v)), f"{names[i]}, {label}: {v:.1e}")
            for i, v in enumerate(values[key])
            if math.isfinite(v)
        ]
        parts.append(_line(key, points))
    parts.append(_axis_title("layer"))
    return _svg(parts, title)


def logit_chart(tf_fp32: Sequence[float], pt_fp32: Sequence[float], title: str) -> Markup:
    """Our logit over TensorFlow's, a point for each class."""
    finite = [v for v in (*tf_fp32, *pt_fp32) if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    margin = 0.05 * ((high - low) or 1.0)
    span = (low - margin, high + margin)
    frame = Frame.over(span, span)
    parts: list[Markup] = []
    for tick in _round_ticks(*span):
        x, y = frame.x(tick), frame.y(tick)
        parts.append(_grid_line(x, TOP, x, HEIGHT - BOTTOM) + _grid_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(x, HEIGHT - BOTTOM + 14, f"{tick:g}", "middle"))
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    ends = [frame.x(span[0]), frame.y(span[0]), frame.x(span[1]), frame.y(span[1])]
    parts.append(Markup('<path class="same" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(*ends))
    dots = "".join(
        f"M{frame.x(a):.1f} {frame.y(b):.1f}h0"
        for a, b in zip(tf_fp32, pt_fp32, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    )
    parts.append(Markup('<path class="dots" d="{}"/>').format(dots))
    parts.append(_axis_title("TF float32 logit (across), PyTorch float32 logit (up)"))
    return _svg(parts, title)


def _svg(parts: Sequence[Markup], title: str) -> Markup:
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup().join(parts)
    )


def _power_lines(frame: Frame, low: int, high: int) -> Markup:
    label = Markup(
        '<text x="{:g}" y="{:.1f}" text-anchor="end">10'
        '<tspan dy="-4" class="power">{}</tspan></text>'
    )
    parts = []
    for power in range(low, high + 1):
        y = frame.y(power)
        parts.append(_grid_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(label.format(LEFT - 6, y + 4, power))
    return Markup().join(parts)


def _stage_ticks(frame: Frame, names: Sequence[str]) -> Markup:
    """A mark where each stage begins: stem, block0, block1, ..., head."""
    parts, before, free = [], "", 0.0
    for i, name in enumerate(names):
        stage, x = name.split("_")[0], frame.x(i)
        if stage != before:
            parts.append(_grid_line(x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 4))
        if stage != before and x >= free:
            free = x + LABEL_ROOM
            short = stage.replace("block", "b")
            anchor = "end" if i == len(names) - 1 and i else "middle"
            parts.append(_text(x, HEIGHT - BOTTOM + 15, short, anchor))
        before = stage
    return Markup().join(parts)


def _line(key: str, points: Sequence[tuple[float, float, str]]) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.4"><title>{}</title></circle>')
    dots = Markup().join(dot.format(*point) for point in points)
    return Markup('<g class="series {}"><path d="{}"/>{}</g>').format(key, path, dots)


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    line = Markup('<path class="grid" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
    return line.format(x1, y1, x2, y2)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return text.format(x, y, anchor, words)


def _axis_title(words: str) -> Markup:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, words, "middle")


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers in a range."""
    rough = (high - low) / 5
    power: float = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
