"""The report as one HTML page that needs nothing else: no network, no script.

All of it is ``Markup``, whose ``format`` and ``join`` escape what is not, so that the words of a
store's JSON are shown and never obeyed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from movinet_convert.errors import UsageError
from movinet_convert.files.atomic import replacing
from movinet_convert.model.settings import with_origins
from movinet_convert.parity.report.charts import SERIES, layer_chart, logit_chart
from movinet_convert.parity.report.entry import CaseRow, Entry
from movinet_convert.parity.result import Distances
from movinet_convert.parity.summary import PARTIAL

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
    "Largest difference after each layer, relative to the spread of that layer's activations."
)
LOGITS_CAPTION = "Logits of one clip, a point for each class; on the line they are equal."


def write_page(path: Path, entries: Sequence[Entry]) -> None:
    """Write the report on some files; UsageError where ``path`` cannot be written."""
    text = page(entries)
    try:
        with replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); name another file with --out."
        ) from None


def page(entries: Sequence[Entry]) -> Markup:
    """The report as HTML."""
    style = (resources.files("movinet_convert") / "parity" / "report" / STYLE).read_text("utf-8")
    passed = sum(entry.passed for entry in entries)
    made = max((entry.made for entry in entries), default=None)
    return Markup(
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        "<title>{title}: {verdict}</title><style>{style}</style></head><body><main>"
        "<h1>{title}</h1><p class=lead>{badge} {verdict}</p>{date}"
        "<p>{explanation}</p>{overview}{sections}</main></body></html>\n"
    ).format(
        title=TITLE,
        verdict=f"{passed} of {len(entries)} within tolerance",
        style=Markup(style),
        badge=_badge(passed == len(entries)),
        date=Markup("<p class=quiet>Made {:%Y-%m-%d %H:%M} UTC</p>").format(made) if made else "",
        explanation=EXPLANATION,
        overview=_overview(entries),
        sections=_joined(_section(entry) for entry in entries),
    )


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)


def _id(entry: Entry) -> str:
    return f"{entry.variant}-{entry.sha256[:8]}"


def _overview(entries: Sequence[Entry]) -> Markup:
    rows = _joined(
        Markup(
            '<tr><td><a href="#{id}">{variant}</a></td><td>{badge}</td>'
            "{cells}<td>{nearer}</td></tr>"
        ).format(
            id=_id(entry),
            variant=entry.variant,
            badge=_badge(entry.passed),
            cells=_cells(entry.worst, entry.tolerance),
            nearer=_yes(entry.nearer_than_reference),
        )
        for entry in entries
    )
    return Markup(
        "<div class=scroll><table><thead><tr><th>variant</th><th>verdict</th>"
        "{headings}<th>nearer to float64<br>than TF float32</th></tr></thead>"
        "<tbody>{rows}</tbody></table></div>"
    ).format(headings=_headings(), rows=rows)


def _section(entry: Entry) -> Markup:
    return Markup(
        '<section id="{id}"><h2>{variant} {badge}</h2><p>{verdict}</p>'
        "{cases}<div class=charts>"
        "<figure>{layers}<figcaption><p class=legend>{legend}</p>{layers_caption}</figcaption>"
        "</figure><figure>{logits}<figcaption>{logits_caption}</figcaption></figure></div>"
        "{layer_table}<div class=facts>{settings}{file}{versions}</div></section>"
    ).format(
        id=_id(entry),
        variant=entry.variant,
        badge=_badge(entry.passed),
        verdict=_verdict(entry),
        cases=_cases(entry),
        layers=layer_chart(entry.layers, f"Differences along the layers of {entry.variant}"),
        legend=_legend(),
        layers_caption=LAYERS_CAPTION,
        logits=logit_chart(
            entry.tf_fp32_logits,
            entry.pt_fp32_logits,
            f"Logits of {entry.variant}, TF float32 against PyTorch float32",
        ),
        logits_caption=LOGITS_CAPTION,
        layer_table=_layer_table(entry),
        settings=_facts("Settings", _settings(entry)),
        file=_facts("File", _file(entry), "stacked"),
        versions=_facts("Made with", entry.versions),
    )


def _legend() -> Markup:
    key = Markup('<span class="key {}">{}</span>')
    return _joined(key.format(name, label) for name, label in SERIES.items())


def _verdict(entry: Entry) -> str:
    if not entry.passed:
        return (
            f"Furthest from the reference by {entry.worst.tf_fp32_pt_fp32:.1e}, "
            f"{entry.tolerance:g} is allowed; activations first differ at "
            f"{entry.first_difference}."
        )
    nearer = "at least as near" if entry.nearer_than_reference else "not as near"
    return (
        f"Furthest from the reference by {entry.worst.tf_fp32_pt_fp32:.1e}, {entry.tolerance:g} is "
        f"allowed; PyTorch float32 is {nearer} to float64 as TF float32. "
        f"{entry.clips} clip{'s' if entry.clips > 1 else ''} a case, seed {entry.seed}."
        + (f" {PARTIAL}" if entry.coverage == "partial" else "")
    )


def _cases(entry: Entry) -> Markup:
    rows = []
    for case in entry.cases:
        head = Markup("<td{span}>{name}<br><small>{clip}</small></td>").format(
            span=Markup("" if case.states is None else " rowspan=2"),
            name=case.name,
            clip=_clip(case),
        )
        cells = _cells(case.logits, entry.tolerance)
        rows.append(Markup("<tr>{}<td>logits</td>{}</tr>").format(head, cells))
        if case.states is not None:
            cells = _cells(case.states, entry.tolerance)
            rows.append(Markup("<tr class=more><td>states</td>{}</tr>").format(cells))
    return Markup(
        "<div class=scroll><table><thead><tr><th>case</th><th>tensor</th>"
        "{headings}</tr></thead><tbody>{rows}</tbody></table></div>"
    ).format(headings=_headings(), rows=_joined(rows))


def _layer_table(entry: Entry) -> Markup:
    rows = _joined(
        Markup("<tr><td>{}</td>{}</tr>").format(name, _cells(distances))
        for name, distances in entry.layers.items()
    )
    return Markup(
        "<details><summary>Layers in figures</summary><div class=scroll><table><thead><tr>"
        "<th>layer</th>{headings}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    ).format(headings=_headings(), rows=rows)


def _headings() -> Markup:
    heading = Markup("<th class=number>{} to<br>{}</th>")
    return _joined(heading.format(*label.split(" to ")) for label in SERIES.values())


def _clip(case: CaseRow) -> str:
    height, width = case.size
    calls = f" in {len(case.chunks)} calls" if len(case.chunks) > 1 else ""
    frames = sum(case.chunks)
    return f"{case.batch} {TIMES} {frames} frames{calls}, {height} {TIMES} {width}"


def _cells(distances: Distances, tolerance: float | None = None) -> Markup:
    """Three figures; the first is the one that is judged."""
    within = tolerance is None or distances.tf_fp32_pt_fp32 <= tolerance
    cell = Markup("<td class=number>{:.1e}</td>")
    first = cell if within else Markup('<td class="number beyond">{:.1e}</td>')
    return _joined(
        (
            first.format(distances.tf_fp32_pt_fp32),
            cell.format(distances.tf_fp32_pt_fp64),
            cell.format(distances.pt_fp32_pt_fp64),
        )
    )


def _badge(passed: bool) -> Markup:
    kind, sign, word = ("pass", "✓", "passed") if passed else ("fail", "✗", "failed")
    return Markup('<span class="badge {}">{} {}</span>').format(kind, sign, word)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _facts(title: str, facts: Mapping[str, object], kind: str = "") -> Markup:
    fact = Markup("<dt>{}</dt><dd>{}</dd>")
    rows = _joined(fact.format(name, value) for name, value in facts.items())
    return Markup('<div><h3>{}</h3><dl class="{}">{}</dl></div>').format(title, kind, rows)


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
