"""The parity report: an HTML page about converted files and the official model."""

from movinet_convert.parity.report.page import write_page
from movinet_convert.parity.report.section import Section, examine, section_of

__all__ = ["Section", "examine", "section_of", "write_page"]
