"""The report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from movinet_convert.errors import UsageError
from movinet_convert.files.writing import replacing
from movinet_convert.model.settings import with_origins
from movinet_convert.parity.report import charts
from movinet_convert.parity.report.section import Section
from movinet_convert.parity.table import PARTIAL


def write_page(path: Path, sections: Sequence[Section]) -> None:
    """Write the report; UsageError where ``path`` cannot be written."""
    text = page(sections)
    try:
        with replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); name another file with --out."
        ) from None


def page(sections: Sequence[Section]) -> str:
    """The report as HTML; what a section says is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = "{:.1e}".format
    environment.globals.update(charts=charts, settings_of=_settings, file_of=_file)
    return environment.get_template("page.html").render(
        sections=sections,
        passed=sum(section.parity.passed for section in sections),
        created=max((section.created for section in sections), default=None),
        partial=PARTIAL,
    )


def _settings(section: Section) -> dict[str, object]:
    settings, clip = section.parity.settings, section.input
    facts: dict[str, object] = {
        **with_origins(settings, section.origins),
        "activation": settings.activation,
        "convolutions": settings.conv_type,
        "squeeze-excitation": settings.se_type,
        "positional encoding": "yes" if settings.positional_encoding else "no",
        "clip": f"{clip.frames} x {clip.size} x {clip.size} at {clip.fps:g} fps",
        "classes": section.parity.num_classes,
    }
    if section.source is not None and section.source.kind == "release":
        top1, top5 = section.accuracy.top1, section.accuracy.top5
        facts["published top-1 / top-5"] = f"{top1:.2f}" + (f" / {top5:.2f}" if top5 else "")
    return facts


def _file(section: Section) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": section.file,
        "bytes": f"{section.bytes:,}",
        "dtype": section.dtype,
        "sha256": section.sha256,
    }
    if section.source is not None:
        kind = section.source.kind or "source not recorded"
        facts["converted from"] = f"{section.source.name} ({section.source.layout}, {kind})"
        facts["sha256 of the variables"] = section.source.digest
        if section.source.archive_sha256 is not None:
            facts["sha256 of the archive"] = section.source.archive_sha256
    return facts
