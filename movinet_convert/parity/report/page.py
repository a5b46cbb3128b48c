"""The report as one self-contained HTML page, without external resources or scripts."""

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
    """The report as HTML; the contents of sections are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = "{:.1e}".format
    environment.globals.update(charts=charts, partial=PARTIAL, with_origins=with_origins)
    return environment.get_template("page.html").render(
        sections=sections,
        passed=sum(section.parity.passed for section in sections),
        created=max((section.created for section in sections), default=None),
    )
