"""Files for other runtimes: ``export_model`` writes one, ``load_exported`` runs it."""

from movinet_convert.export.exported import ExportedModel, load_exported
from movinet_convert.export.formats import FORMATS
from movinet_convert.export.writing import ExportReport, export_model

__all__ = ["FORMATS", "ExportReport", "ExportedModel", "export_model", "load_exported"]
