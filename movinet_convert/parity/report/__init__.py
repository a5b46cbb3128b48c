"""A page to look at: how close the converted networks are to the official model."""

from movinet_convert.parity.report.entry import Entry, examine
from movinet_convert.parity.report.page import write_page

__all__ = ["Entry", "examine", "write_page"]
