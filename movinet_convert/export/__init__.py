"""Files for other runtimes: ``export_model`` and the table of formats."""

from movinet_convert.export.formats import FORMATS, ExportReport, export_model

__all__ = ["FORMATS", "ExportReport", "export_model"]
