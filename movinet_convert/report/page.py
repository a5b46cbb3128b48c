"""The report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from movinet_convert.errors import UsageError
from movinet_convert.report.charts import SERIES, layer_chart, logit_chart
from movinet_convert.variants import with_origins

if TYPE_CHECKING:
    from pathlib import Path

    from movinet_convert.parity.result import Distances
    from movinet_convert.report.entry import CaseRow, Entry

TITLE = "MoViNet parity"
STYLE = "style.css"
TIMES = "\N{MULTIPLICATION SIGN}"
EXPLANATION = (
    "The official TensorFlow model in float32 (TF float32) and the converted network in float32 "
    "and float64 (PyTorch float32, PyTorch float64) ran on the same seeded clips. Differences are "
    "the largest absolute ones, relative to the spread of the reference tensor. TF float32 and "
    "PyTorch float32 both round; what both differ from PyTorch float64 by is rounding, not error."
)
LAYERS_CAPTION = (
    "Largest difference after each layer, in standard deviations of that layer's activations."
)
LOGITS_CAPTION = "Logits of one clip, a point for each class; on the line they are equal."


def write_page(path: Path, entries: Sequence[Entry]) -> None:
    """Write the report on some files; UsageError where ``path`` cannot be written."""
    text = page(entries)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); name another file with --out."
        ) from None


def page(entries: Sequence[Entry]) -> str:
    """The report as HTML."""
    style = (resources.files("movinet_convert") / "report" / STYLE).read_text("utf-8")
    passed = sum(entry.passed for entry in entries)
    made = max((entry.made for entry in entries), default=None)
    date = f"<p class=quiet>Made {made:%Y-%m-%d %H:%M} UTC</p>" if made else ""
    verdict = f"{passed} of {len(entries)} within tolerance"
    sections = "".join(_section(entry) for entry in entries)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        f"<title>{TITLE}: {verdict}</title><style>{style}</style></head><body><main>"
        f"<h1>{TITLE}</h1><p class=lead>{_badge(passed == len(entries))} {verdict}</p>{date}"
        f"<p>{EXPLANATION}</p>{_overview(entries)}{sections}</main></body></html>\n"
    )


def _overview(entries: Sequence[Entry]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{entry.variant}-{entry.sha256[:8]}">{entry.variant}</a></td>'
        f"<td>{_badge(entry.passed)}</td>{_cells(entry.worst, entry.tolerance)}"
        f"<td>{_yes(entry.nearer_than_reference)}</td></tr>"
        for entry in entries
    )
    return (
        "<div class=scroll><table><thead><tr><th>variant</th><th>verdict</th>"
        f"{_headings()}<th>nearer to float64<br>than TF float32</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _section(entry: Entry) -> str:
    layers = layer_chart(entry.layers, f"Differences along the layers of {entry.variant}")
    logits = logit_chart(
        entry.tf_fp32_logits,
        entry.pt_fp32_logits,
        f"Logits of {entry.variant}, TF float32 against PyTorch float32",
    )
    legend = "".join(
        f'<span class="key {key}">{escape(label)}</span>' for key, label in SERIES.items()
    )
    return (
        f'<section id="{entry.variant}-{entry.sha256[:8]}">'
        f"<h2>{entry.variant} {_badge(entry.passed)}</h2><p>{_verdict(entry)}</p>"
        f"{_cases(entry)}<div class=charts>"
        f"<figure>{layers}<figcaption><p class=legend>{legend}</p>{LAYERS_CAPTION}</figcaption>"
        f"</figure><figure>{logits}<figcaption>{LOGITS_CAPTION}</figcaption></figure></div>"
        f"{_layer_table(entry)}<div class=facts>{_facts('Settings', _settings(entry))}"
        f"{_facts('File', _file(entry), 'stacked')}{_facts('Made with', entry.versions)}"
        "</div></section>"
    )


def _verdict(entry: Entry) -> str:
    if not entry.passed:
        return (
            f"Furthest from the reference by {entry.worst.tf_fp32_pt_fp32:.1e}, "
            f"{entry.tolerance:g} is allowed; activations first differ at "
            f"{escape(str(entry.first_difference))}."
        )
    nearer = "at least as near" if entry.nearer_than_reference else "not as near"
    return (
        f"Furthest from the reference by {entry.worst.tf_fp32_pt_fp32:.1e}, {entry.tolerance:g} is "
        f"allowed; PyTorch float32 is {nearer} to float64 as TF float32. "
        f"{entry.clips} clip{'s' if entry.clips > 1 else ''} a case, seed {entry.seed}."
    )


def _cases(entry: Entry) -> str:
    rows = []
    for case in entry.cases:
        span = "" if case.states is None else " rowspan=2"
        head = f"<td{span}>{escape(case.name)}<br><small>{_clip(case)}</small></td>"
        rows.append(f"<tr>{head}<td>logits</td>{_cells(case.logits, entry.tolerance)}</tr>")
        if case.states is not None:
            cells = _cells(case.states, entry.tolerance)
            rows.append(f"<tr class=more><td>states</td>{cells}</tr>")
    return (
        "<div class=scroll><table><thead><tr><th>case</th><th>tensor</th>"
        f"{_headings()}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _layer_table(entry: Entry) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_cells(distances)}</tr>"
        for name, distances in entry.layers.items()
    )
    return (
        "<details><summary>Layers in figures</summary><div class=scroll><table><thead><tr>"
        f"<th>layer</th>{_headings()}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _headings() -> str:
    labels = (label.replace(" to ", " to<br>") for label in SERIES.values())
    return "".join(f"<th class=number>{label}</th>" for label in labels)


def _clip(case: CaseRow) -> str:
    height, width = case.size
    calls = f" in {len(case.chunks)} calls" if len(case.chunks) > 1 else ""
    frames = sum(case.chunks)
    return f"{case.batch} {TIMES} {frames} frames{calls}, {height} {TIMES} {width}"


def _cells(distances: Distances, tolerance: float | None = None) -> str:
    """Three figures; the first is the one that is judged."""
    within = tolerance is None or distances.tf_fp32_pt_fp32 <= tolerance
    first = f"<td class=number>{distances.tf_fp32_pt_fp32:.1e}</td>"
    if not within:
        first = f'<td class="number beyond">{distances.tf_fp32_pt_fp32:.1e}</td>'
    others = (distances.tf_fp32_pt_fp64, distances.pt_fp32_pt_fp64)
    return first + "".join(f"<td class=number>{value:.1e}</td>" for value in others)


def _badge(passed: bool) -> str:
    kind, sign, word = ("pass", "✓", "passed") if passed else ("fail", "✗", "failed")
    return f'<span class="badge {kind}">{sign} {word}</span>'


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _facts(title: str, facts: Mapping[str, object], kind: str = "") -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()
    )
    return f'<div><h3>{title}</h3><dl class="{kind}">{rows}</dl></div>'


def _settings(entry: Entry) -> dict[str, object]:
    settings, expected = entry.settings, entry.input
    clip = f" {TIMES} ".join(map(str, (expected.frames, expected.size, expected.size)))
    facts: dict[str, object] = {
        **with_origins(settings, entry.origins),
        "activation": settings.activation,
        "convolutions": settings.conv_type,
        "squeeze-excitation": settings.se_type,
        "positional encoding": _yes(settings.positional_encoding),
        "clip": f"{clip} at {expected.fps:g} fps",
        "classes": entry.num_classes,
    }
    if entry.source is not None and entry.source.kind == "release":
        top1, top5 = entry.accuracy.top1, entry.accuracy.top5
        facts["published top-1 / top-5"] = f"{top1:.2f}" + (f" / {top5:.2f}" if top5 else "")
    return facts


def _file(entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": entry.file,
        "bytes": f"{entry.bytes:,}",
        "type": entry.dtype,
        "sha256": entry.sha256,
    }
    if entry.source is not None:
        kind = entry.source.kind or "source not recorded"
        facts["made from"] = f"{entry.source.name} ({entry.source.layout}, {kind})"
        facts["sha256 of the variables"] = entry.source.digest
        if entry.source.archive_sha256 is not None:
            facts["sha256 of the archive"] = entry.source.archive_sha256
    return facts
