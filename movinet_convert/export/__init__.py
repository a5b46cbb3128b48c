"""Files for other runtimes: ``export_model`` and the table of formats."""

from movinet_convert.export.formats import FORMATS, export_model
from movinet_convert.export.report import ExportReport

__all__ = ["FORMATS", "ExportReport", "export_model"]
