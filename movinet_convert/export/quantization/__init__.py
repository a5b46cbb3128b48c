"""8-bit export: what is common to all formats. A format quantizes by a ``Plan``."""
